//! A hash table that only grows: what the partition map keeps its topics in, and a topic its odd numbers.
//!
//! A read is loads and nothing else: no pin, no store, no fence. It may be so because nothing is taken out of the table and nothing is freed before the table is: arrays that were
//! outgrown stay in a chain, all of them since the last clear together no more slots than the one in use has, and what was cleared stays in it too.
//!
//! Source: freezing the slots of an array before it is copied is from Cliff Click's "A Lock-Free Hash Table" (2007), without its removals and without its copying by parts: a table of topics is small,
//! so whoever needs more room copies all of it, and of those who do at once one is taken.
//!
//! # What is where
//! - `root`: the array in use; null until the first insert, so that a table that is never used costs a word.
//! - [`Array`]: a power of two of slots, probed in line from the place that a key's hash gives it.
//! - A slot: a counted reference to a node, which has its key in it.
//! - `previous`: what stood in `root` before this array.
//!
//! | word | states | left by |
//! |---|---|---|
//! | `root` | null -> array -> array ... | CAS: by the first insert; by growth, to one twice as large with the same nodes; by `clear`, to an empty one |
//! | slot | null -> node, for good | CAS by the winner of an insert; losers look at what it put there |
//! | slot | null -> [`moved`], for good | CAS by whoever replaces the array by a larger one |
//!
//! # Invariants
//! - **GROW-A** Whatever has stood in `root` is in the chain that begins there, and is freed by the table's drop. So an array that was loaded can be read as long as the table is borrowed, and no address
//!   stands in `root` twice.
//! - **GROW-B** A slot leaves null once and never changes after that. A node's slot is the first of its probe that was null, so a key's probe ends at its node, at a null or at a `moved`, or has come round, and no key has two nodes in an array.
//! - **GROW-C** `root` goes from an array to a larger one when all slots of the former have left null, and the larger one has all its nodes by then. So whatever is in an array is in what follows it, up to the next clear.
//! - **GROW-D** The array in `root` owns a count of each of its nodes' `Arc`, and so does each that was cleared. One that was outgrown owns nothing: its counts have passed on to the one that follows. Only the table's drop gives them back.
//! - **GROW-E** A node is whole before the CAS that publishes it, and so is an array.
//!
//! # Linearization points
//! A read that finds a node: its load of the slot. An array that was left for a larger one has it still, and so has that one (GROW-C). In one that was cleared meanwhile: just before the clear; see below.
//! A read that finds nothing, at a null in an array that stands in `root` and is not being replaced: its load of the slot. Otherwise its load of `root`: it was still this array that stood there, so no other had the key, and this one did not have it either,
//! since a key's probe has no null before its node, nor a `moved`.
//! An insert: the CAS of the slot that succeeds, while the array stands in `root`; for a loser, the load that finds the winner's. `clear`: its CAS of `root`; if that is null, the load.
//!
//! All of this is of one key. What several look-ups find, of several keys, is ordered by what happens before them and by nothing else: of two threads each of which puts in a key and then looks for the other's, both may miss it on a processor that delays its stores
//! beyond its loads, though each insert has returned. (Kafka's volatile read, and a pin, whose fence this table does without, do not allow that.) Walks see inserts in one order, by a fence of their own.
//!
//! An insert that has loaded `root` before a clear can still put its node into what was cleared. It had begun before the clear ended, so it comes before it, just as does whoever finds the node there: they too had loaded `root` before. Nobody who loads `root` later finds it.
//!
//! # The races that look dangerous
//! **Growth against an insert.** Growth sees a null and has nothing to copy; then an insert takes that slot; then the larger array comes without it. So nothing is copied before the slot is final: a null becomes `moved` first, and an insert that meets
//! `moved` goes to the larger array, if need be by making it. A grower that stands still is not waited for: any other does the same work by itself.
//!
//! **Growth against growth.** Each makes an array of its own. They have the same nodes, since both found the same slots final; one of them gets into `root`. The other frees its array and none of the nodes, of which it has no count.
//!
//! **Growth against clear.** Growth goes from the array that it has copied; a clear came first, its CAS fails. The clear came second: it goes from the larger array.
//!
//! **A reader in an outgrown array.** It finds what was there, and a `moved` where a null was. What the larger array has in addition came after its load of `root`.
//!
//! # Progress
//! `find`, `nodes`: wait-free: no slot is looked at twice. `find_or_insert`, `clear`: lock-free. The exchange of a slot fails because another insert or a growth has taken it, that of `root` because another array came; and an array of twice the size can take all that
//! the former had in half its slots, so growths are few.

use std::ptr::{self, NonNull};
use std::sync::Arc;

use crate::primitive::atomic::Ordering::{Acquire, Relaxed, Release};
use crate::primitive::atomic::{AtomicPtr, AtomicUsize};
use crate::primitive::step;

/// Slots of a table's first array.
const FIRST: usize = if cfg!(any(crossbeam_loom, unlatched_shuttle)) { 2 } else { 8 };

/// What a table is made of.
pub(super) trait Node: Send + Sync {
    /// The hash of its key, its best bits at the lower end: as `FxHasher` gives it since rustc-hash 2, which turns its product round for tables like this one.
    fn hash(&self) -> u64;
}

/// The table.
pub(super) struct GrowTable<N: Node> {
    root: AtomicPtr<Array<N>>,
}

struct Array<N> {
    /// A power of two of them.
    slots: Box<[AtomicPtr<N>]>,
    /// Nodes, about: who has put one in adds it a little later. A figure, by which growth begins in time.
    count: AtomicUsize,
    /// What stood in `root` before.
    previous: *mut Array<N>,
    /// Whether `previous` was cleared, so that its nodes are not here.
    cleared: bool,
}

/// What a slot has in place of a node once its array is being replaced: no node lies at this address, for an `Arc` has its counts before what it holds.
fn moved<N>() -> *mut N {
    ptr::without_provenance_mut(1)
}

impl<N> Array<N> {
    /// An array with these slots, not published yet.
    fn boxed(slots: Vec<*mut N>, previous: *mut Self, cleared: bool) -> Box<Self> {
        let count = slots.iter().filter(|node| !node.is_null()).count();
        let slots = slots.into_iter().map(AtomicPtr::new).collect();
        Box::new(Self { slots, count: AtomicUsize::new(count), previous, cleared })
    }

    /// An empty one of the first size.
    fn empty(previous: *mut Self) -> Box<Self> {
        Self::boxed(vec![ptr::null_mut(); FIRST], previous, true)
    }

    /// The slots of a probe.
    #[inline]
    fn probe(&self, hash: u64) -> impl Iterator<Item = &AtomicPtr<N>> {
        (0..self.slots.len()).map(move |at| &self.slots[place(hash, at, self.slots.len())])
    }

    /// The node of a slot, if there is one: by its pointer, through which its count may be raised.
    #[inline]
    fn node(slot: &AtomicPtr<N>) -> Option<NonNull<N>> {
        // Acquire pairs with the Release CAS of the slot in `stand`, or of `root` in `publish` if the node came with the array: the node is seen whole (GROW-E). Null or
        // `moved`: it is not there, or not here.
        NonNull::new(slot.load(Acquire)).filter(|node| node.as_ptr() != moved())
    }

    /// The node that stands for a key: the one found, or `candidate`, put into the first free slot. `None`: this array takes no more.
    fn stand(&self, hash: u64, is: impl Fn(&N) -> bool, candidate: *mut N) -> Option<*mut N> {
        for slot in self.probe(hash) {
            // Acquire: as in `node`.
            let mut found = slot.load(Acquire);
            if found.is_null() {
                // Relaxed: a figure. Seen too low, the array gets fuller; seen in time, it grows before probes are long.
                if (self.count.load(Relaxed) + 1) * 4 > self.slots.len() * 3 {
                    return None;
                }
                step("map.node");
                // Release on success pairs with the Acquire load in `node`, here and in this failed CAS, and in `freeze`: whoever sees the node sees it whole (GROW-E). Failed: Acquire, since what
                // another has put there may be the node asked for, and is looked at.
                match slot.compare_exchange(found, candidate, Release, Acquire) {
                    Ok(_) => {
                        // Relaxed: a figure.
                        self.count.fetch_add(1, Relaxed);
                        return Some(candidate);
                    }
                    Err(now) => found = now,
                }
            }
            if found == moved() {
                return None;
            }
            // SAFETY: as in `node`: it is not null by now, nor `moved`.
            if is(unsafe { &*found }) {
                return Some(found);
            }
        }
        None
    }

    /// Makes a slot final; the node in it, if it has one.
    fn freeze(slot: &AtomicPtr<N>) -> Option<*mut N> {
        step("map.freeze");
        // Relaxed on success: whoever sees `moved` reads nothing through it. An insert that comes later fails at it, one that came before is seen here: failed, Acquire pairs with the Release CAS in
        // `stand`: the node's hash is read, and who finds the node in the larger array sees it whole by way of us (GROW-E).
        slot.compare_exchange(ptr::null_mut(), moved(), Relaxed, Acquire).err().filter(|node| *node != moved())
    }
}

/// The slot that is looked at as number `at` of a probe.
#[inline]
const fn place(hash: u64, at: usize, slots: usize) -> usize {
    (hash as usize).wrapping_add(at) & (slots - 1)
}

impl<N: Node> GrowTable<N> {
    /// An empty table.
    pub(super) fn new() -> Self {
        Self { root: AtomicPtr::new(ptr::null_mut()) }
    }

    /// The array in use, if there is one.
    #[inline]
    fn array(&self) -> Option<&Array<N>> {
        // SAFETY: GROW-A.
        unsafe { self.in_use().as_ref() }
    }

    /// What stands in `root`.
    #[inline]
    fn in_use(&self) -> *mut Array<N> {
        // Acquire pairs with the Release CAS in `publish`: the new array seen, it is seen whole (GROW-E); the old one or null seen, see "Linearization points".
        self.root.load(Acquire)
    }

    /// The node of a key: the one with this hash of which `is` says so. It lives as long as the table.
    #[inline]
    pub(super) fn find(&self, hash: u64, is: impl Fn(&N) -> bool) -> Option<NonNull<N>> {
        for slot in self.array()?.probe(hash) {
            let node = Array::node(slot)?;
            // SAFETY: GROW-B, GROW-D: a node, whose count is given back by the table's drop only.
            if is(unsafe { node.as_ref() }) {
                return Some(node);
            }
        }
        None
    }

    /// The node of a key, made with `make` if there is none. What is made may be for nothing, if another comes first (MAP-04).
    #[inline]
    pub(super) fn find_or_insert(
        &self,
        hash: u64,
        is: impl Fn(&N) -> bool,
        make: impl FnOnce() -> Arc<N>,
    ) -> NonNull<N> {
        // Nothing is held while foreign code runs (L8).
        self.find(hash, &is).unwrap_or_else(|| self.insert(hash, is, make()))
    }

    #[cold]
    fn insert(&self, hash: u64, is: impl Fn(&N) -> bool, candidate: Arc<N>) -> NonNull<N> {
        let candidate = Arc::into_raw(candidate).cast_mut();
        let stands = loop {
            let array = self.in_use();
            // SAFETY: GROW-A.
            let old = unsafe { array.as_ref() };
            if let Some(stands) = old.and_then(|old| old.stand(hash, &is, candidate)) {
                break stands;
            }
            // Another was here first: its array has room.
            if self.in_use() == array {
                let fresh = old.map_or_else(|| Array::empty(array), |old| Self::larger(old, array));
                self.publish(array, fresh);
            }
        };
        if stands != candidate {
            // SAFETY: the count that was for a slot, none of which took it.
            drop(unsafe { Arc::from_raw(candidate) });
        }
        NonNull::new(stands).expect("a node stands there")
    }

    /// An array of twice the size with all the nodes of `old`, whose slots are final after this. `previous` points to that.
    fn larger(old: &Array<N>, previous: *mut Array<N>) -> Box<Array<N>> {
        let mut slots = vec![ptr::null_mut::<N>(); 2 * old.slots.len()];
        for node in old.slots.iter().filter_map(Array::freeze) {
            // SAFETY: GROW-B, GROW-D: it stands in a slot.
            let hash = unsafe { (*node).hash() };
            let free = (0..slots.len()).map(|at| place(hash, at, slots.len())).find(|at| slots[*at].is_null());
            slots[free.expect("half of them are free")] = node;
        }
        Array::boxed(slots, previous, false)
    }

    /// Puts `fresh` into `root` in place of `old`; whether that stood there.
    fn publish(&self, old: *mut Array<N>, fresh: Box<Array<N>>) -> bool {
        let fresh = Box::into_raw(fresh);
        step("map.array");
        // Release on success pairs with the Acquire load in `in_use`: whoever sees the new array sees its slots, and the nodes that they came with. Failed: another came first, and whoever wants it loads it there, so Relaxed.
        // No address comes twice (GROW-A), so that it is the array that was frozen.
        let ours = self.root.compare_exchange(old, fresh, Release, Relaxed).is_ok();
        if !ours {
            // SAFETY: it was never published, so it is ours alone. It has no count of its nodes (GROW-D), and gives none back.
            drop(unsafe { Box::from_raw(fresh) });
        }
        ours
    }

    /// Every node that is found on one way through the slots.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &N> {
        // SAFETY: GROW-D, as in `find`.
        let node = |slot| Array::node(slot).map(|node| unsafe { node.as_ref() });
        self.array().into_iter().flat_map(move |array| array.slots.iter().filter_map(node))
    }

    /// Empties the table. What was in it stays in memory until the table's end: a reader may be at it, and nobody knows.
    pub(super) fn clear(&self) {
        loop {
            // Relaxed: nothing is read through it. Null seen: there was nothing, or its insert is under way still.
            let old = self.root.load(Relaxed);
            if old.is_null() || self.publish(old, Array::empty(old)) {
                return;
            }
        }
    }
}

impl<N: Node> Drop for GrowTable<N> {
    fn drop(&mut self) {
        // Relaxed, and below: `&mut self`: the last reference is gone, and what took it away ordered every other access before.
        let mut next = self.root.load(Relaxed);
        // The first array owns its nodes (GROW-D).
        let mut owns = true;
        while !next.is_null() {
            // SAFETY: GROW-A: from a box, in the chain once, and nobody else is left.
            let array = unsafe { Box::from_raw(next) };
            for slot in array.slots.iter().filter(|_| owns) {
                let node = slot.load(Relaxed);
                if !node.is_null() && node != moved() {
                    // SAFETY: GROW-D: the array's own count.
                    drop(unsafe { Arc::from_raw(node) });
                }
            }
            (next, owns) = (array.previous, array.cleared);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Name(String, u64);

    impl Node for Name {
        fn hash(&self) -> u64 {
            self.1
        }
    }

    fn find<'t>(table: &'t GrowTable<Name>, name: &str, hash: u64) -> Option<&'t Name> {
        // SAFETY: it lives as long as the table.
        table.find(hash, |node| node.0 == name).map(|node| unsafe { node.as_ref() })
    }

    fn put<'t>(table: &'t GrowTable<Name>, name: &str, hash: u64) -> &'t Name {
        let make = || Arc::new(Name(name.to_owned(), hash));
        // SAFETY: as above.
        unsafe { table.find_or_insert(hash, |node| node.0 == name, make).as_ref() }
    }

    fn slots(table: &GrowTable<Name>) -> usize {
        table.array().map_or(0, |array| array.slots.len())
    }

    #[test]
    fn growth_keeps_all_and_moves_nothing() {
        let table = GrowTable::<Name>::new();
        assert!(find(&table, "0", 0).is_none() && slots(&table) == 0 && table.nodes().next().is_none());
        let put: Vec<&Name> =
            (0..20_000_u64).map(|n| put(&table, &n.to_string(), n.wrapping_mul(0x9E37_79B9))).collect();
        assert_eq!(slots(&table), 32_768);
        for (n, node) in (0_u64..).zip(&put) {
            let found = find(&table, &n.to_string(), n.wrapping_mul(0x9E37_79B9));
            assert!(found.is_some_and(|found| ptr::eq(found, *node) && found.0 == n.to_string()), "{n}");
        }
        assert!(find(&table, "20000", 20_000_u64.wrapping_mul(0x9E37_79B9)).is_none());
        assert_eq!(table.nodes().count(), put.len());
    }

    #[test]
    fn keys_of_one_hash_stand_side_by_side() {
        // From the last slot on, so that the probe comes round.
        let (table, hash) = (GrowTable::new(), u64::MAX);
        for n in 0..100 {
            assert!(find(&table, &n.to_string(), hash).is_none());
            put(&table, &n.to_string(), hash);
        }
        assert!((0..100).all(|n| find(&table, &n.to_string(), hash).is_some_and(|node| node.0 == n.to_string())));
        assert!(find(&table, "100", hash).is_none());
    }

    #[test]
    fn an_array_without_a_free_slot_is_replaced() {
        let table = GrowTable::<Name>::new();
        for n in 0..FIRST as u64 {
            // As if nobody had come to count yet.
            put(&table, &n.to_string(), n);
            table.array().expect("it is there").count.store(0, Relaxed);
        }
        assert_eq!(slots(&table), FIRST);
        assert!(find(&table, "none", 0).is_none());
        put(&table, "more", 0);
        assert_eq!((slots(&table), table.nodes().count()), (2 * FIRST, FIRST + 1));
    }

    #[test]
    fn what_was_cleared_is_kept_and_freed_once() {
        let table = GrowTable::<Name>::new();
        let mut made = Vec::new();
        for round in 0..3 {
            table.clear();
            assert!(table.nodes().next().is_none());
            for n in 0..10 * round {
                let node = Arc::new(Name(n.to_string(), n));
                made.push(Arc::downgrade(&node));
                table.find_or_insert(n, |found| found.1 == n, || node);
            }
        }
        assert_eq!((table.nodes().count(), made.len()), (20, 30));
        assert!(made.iter().all(|node| node.strong_count() == 1));
        drop(table);
        assert!(made.iter().all(|node| node.strong_count() == 0));
    }

    #[test]
    fn who_loses_gives_back_what_it_has_made() {
        let table = GrowTable::<Name>::new();
        let lost = Arc::new(Name("a".into(), 1));
        let found = table.find_or_insert(
            1,
            |node| node.0 == "a",
            || {
                put(&table, "a", 1);
                Arc::clone(&lost)
            },
        );
        assert!(!ptr::eq(found.as_ptr(), Arc::as_ptr(&lost)));
        assert_eq!(Arc::strong_count(&lost), 1);
    }
}
