//! What the sender knows of the lanes that appenders own, and how it takes from them.
//!
//! A lane becomes known with the first of its batches that stands in the books. From then on it has a *line* of its own, of batches opened there and not moved yet, in the order in which they were opened, and one timer. A batch is moved
//! from the front of the line into its partition's queue when it is finished and what it follows in the shared lane was taken (OWNED-F).
//!
//! # The timer
//! | at its time the lane has | the sender |
//! |---|---|
//! | a batch that has waited for linger | asks for it |
//! | the same, of a partition that is muted or has no leader | holds the lane: it has no timer, and is looked at each time, as the shared lane is |
//! | a younger one | sets the timer to the end of that one's linger |
//! | nothing, and had nothing the last time, of the same number | gives the lane up, if nobody waits for memory (who waits may be the owner) |
//! | nothing | sets the timer to one linger from now |
//!
//! In a hurry - flush, close, somebody waits for memory - all lanes are looked at; for memory only where nothing else of the partition is ready. All that are asked for in one look share one heavy barrier. A batch that was taken for linger or for
//! memory was not filled: its lane is given up at once if nothing was opened there since. Of a partition that is muted, or has no leader, nothing is asked for before that is over, and then at once.
//!
//! Unlike the shared lane's tail, an open batch is not taken because its node is being sent to anyway: it goes when it is full or its time is over.

use std::collections::{BTreeSet, VecDeque};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use super::super::Accumulator;
use super::super::appender::SHORTEST;
use super::super::books::{Node, mark};
use super::super::owned::{OwnedLane, State};
use super::{LockFreeView, TakenOut, known};
use crate::broker::Cluster;
use crate::pool::BufferPool;
use crate::primitive::barrier::Barrier;
use crate::primitive::clock::Instant;

/// What the sender knows of a lane.
struct Known {
    lane: Arc<OwnedLane>,
    /// Opened and not moved, in order.
    line: VecDeque<NonNull<Node>>,
    /// Batches that have left the line.
    moved: u64,
    /// The number of batches at the last look that found none open.
    seen: Option<u64>,
    /// Its timer.
    due: Instant,
}

/// What the sender knows of all lanes that are owned.
#[derive(Default)]
pub(super) struct Owners {
    lanes: Vec<Option<Known>>,
    free: Vec<usize>,
    timers: BTreeSet<(Instant, usize)>,
    /// Lanes without a timer: they have a batch that is due and cannot be sent now.
    held: BTreeSet<usize>,
    /// Lanes whose first batch waits for one of the shared lane.
    behind: Vec<usize>,
}

impl Owners {
    fn get(&mut self, at: usize) -> &mut Known {
        self.lanes[at].as_mut().expect("a lane that is known")
    }

    /// The place of a lane, which is made known with a timer at `due`.
    fn know(&mut self, lane: &Arc<OwnedLane>, due: Instant) -> usize {
        lane.known_as().unwrap_or_else(|| {
            let at = self.free.pop().unwrap_or_else(|| {
                self.lanes.push(None);
                self.lanes.len() - 1
            });
            let (lane, line) = (Arc::clone(lane), VecDeque::new());
            lane.be_known_as(Some(at));
            self.lanes[at] = Some(Known { lane, line, moved: 0, seen: None, due });
            self.timers.insert((due, at));
            at
        })
    }

    fn set_timer(&mut self, at: usize, due: Instant) {
        let before = std::mem::replace(&mut self.get(at).due, due);
        self.timers.remove(&(before, at));
        self.held.remove(&at);
        self.timers.insert((due, at));
    }

    /// In place of a timer, until the next look.
    fn hold(&mut self, at: usize) {
        let due = self.get(at).due;
        self.timers.remove(&(due, at));
        self.held.insert(at);
    }

    /// Gives a lane up, if it can be: nothing open, nothing in its line, all moved. Whether it was.
    fn retire(&mut self, at: usize) -> bool {
        let known = self.get(at);
        let retired = known.line.is_empty() && known.lane.retire(known.moved);
        if retired {
            let due = known.due;
            known.lane.be_known_as(None);
            self.timers.remove(&(due, at));
            self.held.remove(&at);
            self.lanes[at] = None;
            self.free.push(at);
        }
        retired
    }
}

/// Why a batch is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    /// It has waited for linger, or stands in the way of who waits for memory: it was not filled in its time.
    NotFilled,
    /// Flush or close.
    All,
}

impl LockFreeView {
    /// `node` was opened in a lane that somebody owns. The place of its partition's queue is `kept_at`.
    pub(super) fn enter_owned(&mut self, node: &Node, kept_at: usize) {
        let Some(own) = &node.extra.own else { return };
        let due = node.created().saturating_add(self.accumulator.config.linger);
        let at = self.owners.know(own, due);
        let known = self.owners.get(at);
        known.line.push_back(NonNull::from(node));
        if known.due > due {
            self.owners.set_timer(at, due);
        }
        self.queues[kept_at].owned += 1;
    }

    /// Takes what is in its turn now that `node` is finished.
    pub(super) fn advance_with(&mut self, node: &Node) {
        match &node.extra.own {
            None => {
                if let Some(at) = node.extra.lane.kept_at() {
                    self.advance(at);
                }
            }
            Some(own) => {
                if let Some(at) = own.known_as() {
                    self.advance_owned(at);
                }
            }
        }
    }

    /// Takes from the front of an owned lane's line what is finished and in its turn.
    fn advance_owned(&mut self, at: usize) {
        while let Some(front) = self.owners.get(at).line.front() {
            // SAFETY: `known`.
            let node = unsafe { known(*front) };
            let entry = &node.extra;
            if !(entry.is_marked(mark::PUBLISHED) || entry.is_marked(mark::GONE)) {
                return;
            }
            if !entry.lane.has_taken(entry.after()) {
                if !self.owners.behind.contains(&at) {
                    self.owners.behind.push(at);
                }
                return;
            }
            let known = self.owners.get(at);
            known.line.pop_front();
            known.moved += 1;
            entry.mark(mark::OUT);
            let kept_at = self.queues.of(&entry.lane);
            self.queues[kept_at].owned -= 1;
            if !entry.is_marked(mark::GONE) {
                self.take_to_queue(node, kept_at);
            }
        }
    }

    /// The same for those that waited for a batch of the shared lane.
    pub(super) fn advance_behind(&mut self) {
        for at in std::mem::take(&mut self.owners.behind) {
            if self.owners.lanes[at].is_some() {
                self.advance_owned(at);
            }
        }
    }

    /// Asks for what is due, takes it if its owner is not at work on it, and gives up lanes that are not used. When to look again.
    pub(super) fn look_at_owned(&mut self, cluster: &Cluster, now: Instant) -> Option<Duration> {
        let accumulator = Arc::clone(&self.accumulator);
        let all = accumulator.is_closed() || accumulator.flush_in_progress();
        let scarce = accumulator.pool.queued() > 0;
        let linger = accumulator.config.linger;
        let pause = linger.max(SHORTEST);
        let until = if all || scarce { Instant::from_nanos(u64::MAX) } else { now };
        let due = self.owners.timers.range(..=(until, usize::MAX)).map(|(_, at)| *at);
        let looked_at: Vec<usize> = due.chain(self.owners.held.iter().copied()).collect();
        let mut asked: Vec<(usize, u64, Why)> = Vec::new();
        for at in looked_at {
            let lane = Arc::clone(&self.owners.get(at).lane);
            let next = match lane.open_batch() {
                // One that is not known yet is as young as can be.
                Some((_, node)) if self.owners.get(at).line.back() != Some(&node) => now.saturating_add(pause),
                Some((n, node)) => {
                    self.owners.get(at).seen = None;
                    // SAFETY: `known`: it stands in the line.
                    let end = unsafe { known(node) }.created().saturating_add(linger);
                    let topic_partition = lane.lane.topic_partition();
                    let is_sendable =
                        !self.muted.contains(topic_partition) && cluster.leader(topic_partition).is_some();
                    let is_head = || lane.lane.kept_at().is_none_or(|at| self.queues[at].ready.is_empty());
                    if is_sendable && (end <= now || all || scarce && is_head()) {
                        let why = if end <= now || !all { Why::NotFilled } else { Why::All };
                        lane.ask(n);
                        asked.push((at, n, why));
                    }
                    if end <= now && !is_sendable {
                        self.owners.hold(at);
                        continue;
                    }
                    if end <= now { now.saturating_add(pause) } else { end }
                }
                None => {
                    let known = self.owners.get(at);
                    let n = match lane.look() {
                        State::Empty(n) => Some(n),
                        State::Open(_) | State::Retired => None,
                    };
                    // Looked at in a hurry, it is not its time.
                    if known.due > now {
                        continue;
                    }
                    let idle = n.is_some() && known.seen == n && !scarce;
                    known.seen = n;
                    if idle && self.owners.retire(at) {
                        accumulator.leave_lane(&lane);
                        continue;
                    }
                    now.saturating_add(pause)
                }
            };
            self.owners.set_timer(at, next);
        }
        if !asked.is_empty() {
            Barrier::get().heavy();
            for (at, n, why) in asked {
                self.take_asked(at, n, why);
            }
        }
        self.owners.timers.first().map(|(due, _)| due.saturating_since(now))
    }

    /// Takes batch `n` of a lane, which was asked for, unless its owner is at work on it or has sealed it.
    fn take_asked(&mut self, at: usize, n: u64, why: Why) {
        let known_lane = self.owners.get(at);
        let lane = Arc::clone(&known_lane.lane);
        if lane.is_writing() || !lane.hand_over(n) {
            return;
        }
        let node = *known_lane.line.back().expect("it was in the line when it was asked for");
        // SAFETY: `known`.
        let node = unsafe { known(node) };
        node.extra.mark(mark::PUBLISHED);
        self.advance_owned(at);
        if why == Why::NotFilled && self.owners.retire(at) {
            self.accumulator.leave_lane(&lane);
        }
    }

    /// Takes the batch numbered `id` out of an owned lane's line, if it stands in one. If somebody still copies into it: its node.
    pub(super) fn take_out_owned(&mut self, id: u64) -> Option<TakenOut> {
        let node = *self.unfinished.get(&id)?;
        // SAFETY: `known`.
        let at = unsafe { known(node) };
        let own = at.extra.own.as_ref()?;
        let place = own.known_as()?;
        if !self.owners.get(place).line.contains(&node) || at.extra.is_marked(mark::GONE) {
            return None;
        }
        let finished = at.extra.is_marked(mark::PUBLISHED) || Self::demand(own, node);
        let taken = self.take_gone(node, finished);
        // What stands behind it may be in its turn now.
        self.advance_owned(place);
        Some(taken)
    }

    /// Takes `node` from its owner, if it is open and the owner is not at work on it.
    fn demand(own: &OwnedLane, node: NonNull<Node>) -> bool {
        let Some((n, open)) = own.open_batch() else { return false };
        if open != node {
            return false;
        }
        own.ask(n);
        Barrier::get().heavy();
        !own.is_writing() && own.hand_over(n)
    }
}
