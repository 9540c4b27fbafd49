//! Futures' references to a result, given back together.
//!
//! Who drops a record's future mostly drops next that of another record of the same batch. Each would be a subtraction from one count, which all who drop futures of that batch write to, and those who make some. So a thread keeps what it is to give back of one result, and gives
//! it back in one subtraction when it drops a future of another, or ends.
//!
//! Until then the result lives, for this thread's sake: of one batch, for each thread that has ever dropped a future. That is some hundred bytes and what the batch was settled with, its parts' results or a caller's own errors; nothing of the pool's.
//!
//! - **BACK-A** What a thread keeps are references that it holds (COMP-4). It uses none of them but to give them back. So no other result comes to lie at that address meanwhile.
//!
//! Not in a model, where each future gives back its own: what is kept here is seen by its thread alone, and giving back several at once is what a closed [`Completer`](super::Completer) does.

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};

use super::{Reference, Shared};

/// References to `of`, so many.
struct Kept {
    of: Cell<*mut Shared>,
    count: Cell<usize>,
}

std::thread_local! {
    static KEPT: Kept = const { Kept { of: Cell::new(ptr::null_mut()), count: Cell::new(0) } };
}

impl Kept {
    /// Keeps one more, of `of`. What was kept of another result is the caller's to give back.
    #[inline]
    fn keep(&self, of: *mut Shared) -> Option<(NonNull<Shared>, usize)> {
        if self.of.get() == of {
            self.count.set(self.count.get() + 1);
            return None;
        }
        self.exchange(of, 1)
    }

    fn exchange(&self, of: *mut Shared, count: usize) -> Option<(NonNull<Shared>, usize)> {
        let before = (self.of.replace(of), self.count.replace(count));
        NonNull::new(before.0).map(|of| (of, before.1))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some((of, count)) = self.exchange(ptr::null_mut(), 0) {
            // SAFETY: BACK-A.
            unsafe { Reference::give_back(of, count) };
        }
    }
}

/// A future's reference, which may outlast it.
pub(super) struct Lasting(NonNull<Shared>);

// SAFETY: as a `Reference`.
unsafe impl Send for Lasting {}
// SAFETY: as above.
unsafe impl Sync for Lasting {}

impl Lasting {
    #[inline]
    pub(super) fn of(reference: Reference) -> Self {
        Self(ManuallyDrop::new(reference).0)
    }

    #[inline]
    pub(super) fn shared(&self) -> &Shared {
        // SAFETY: COMP-4: we hold a reference.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for Lasting {
    /// Gives it back, now or later.
    #[inline]
    fn drop(&mut self) {
        let of = self.0.as_ptr();
        let kept = if cfg!(any(crossbeam_loom, unlatched_shuttle)) {
            Some(Some((self.0, 1)))
        } else {
            KEPT.try_with(|kept| kept.keep(of)).ok()
        };
        // A thread at its end keeps nothing.
        if let Some((of, count)) = kept.unwrap_or(Some((self.0, 1))) {
            // SAFETY: BACK-A, or COMP-4: ours, at its end. Nothing is borrowed here: the result's end may run foreign code, which may drop futures.
            unsafe { Reference::give_back(of, count) };
        }
    }
}

#[cfg(all(test, not(any(crossbeam_loom, unlatched_shuttle))))]
mod tests {
    use std::cell::RefCell;
    use std::sync::Arc;
    use std::thread;

    use super::super::{Completer, RecordFuture};
    use crate::error::{SendError, TopicPartition};

    /// A result that has ended, with two futures; its topic's name counts one for it.
    fn result() -> (Arc<str>, [RecordFuture; 2]) {
        let topic = Arc::<str>::from("t");
        let mut completer = Completer::new(TopicPartition::new(Arc::clone(&topic), 0));
        let futures = [0, 1].map(|index| completer.future(index, 7));
        assert_eq!(completer.close().complete(0, None), Ok(true));
        (topic, futures)
    }

    fn lives(topic: &Arc<str>) -> bool {
        Arc::strong_count(topic) == 2
    }

    #[test]
    fn a_result_goes_with_the_next_ones_futures_or_with_its_thread() {
        let (topic, futures) = result();
        let (next, others) = result();
        thread::scope(|scope| {
            scope.spawn(|| {
                drop(futures);
                assert!(lives(&topic), "it is kept until another comes");
                drop(others);
                assert!(!lives(&topic));
                assert!(lives(&next));
            });
        });
        // The scope does not wait for what the thread does at its end.
        let (last, futures) = result();
        thread::spawn(move || drop(futures)).join().expect("it does not panic");
        assert!(!lives(&last), "with its thread");
    }

    #[test]
    fn the_last_future_of_many_threads_is_the_last() {
        let (topic, [one, other]) = result();
        thread::spawn(move || drop(one)).join().expect("it does not panic");
        assert!(lives(&topic));
        assert!(other.try_result().is_some_and(|result| result.is_ok()));
        thread::spawn(move || drop(other)).join().expect("it does not panic");
        assert!(!lives(&topic));
    }

    std::thread_local! {
        static ONE: RefCell<Vec<RecordFuture>> = const { RefCell::new(Vec::new()) };
        static OTHER: RefCell<Vec<RecordFuture>> = const { RefCell::new(Vec::new()) };
    }

    #[test]
    fn what_is_dropped_when_its_thread_has_ended_is_given_back_at_once() {
        let [(one, early), (two, futures), (three, late)] = [(); 3].map(|()| result());
        thread::spawn(move || {
            // One of them ends before what is kept, the other after it, whichever order the system has.
            ONE.with_borrow_mut(|kept| kept.extend(early));
            drop(futures);
            OTHER.with_borrow_mut(|kept| kept.extend(late));
        })
        .join()
        .expect("it does not panic");
        assert!(![one, two, three].iter().any(lives));
    }

    #[test]
    fn what_panics_where_a_result_ends_reaches_nobody() {
        struct Panics;
        impl Drop for Panics {
            fn drop(&mut self) {
                panic!("on purpose: a destructor");
            }
        }
        let panics = Panics;
        let topic = Arc::<str>::from("t");
        let mut completer = Completer::new(TopicPartition::new(Arc::clone(&topic), 0));
        let future = completer.future(0, 7);
        let of_each = Box::new(move |_| {
            let _kept = &panics;
            SendError::Aborted { reason: "its own" }
        });
        let error = SendError::Aborted { reason: "on purpose" };
        assert_eq!(completer.close().fail(error, Some(of_each)), Ok(true));
        // At the thread's end, where a panic would end the process.
        thread::spawn(move || drop(future)).join().expect("it does not panic");
        assert!(!lives(&topic));
    }

    #[test]
    fn a_result_that_ends_may_drop_futures_itself() {
        // Each record's error keeps futures of another result: foreign code, dropped where a result ends.
        let (inner, inner_futures) = result();
        let topic = Arc::<str>::from("t");
        let mut completer = Completer::new(TopicPartition::new(Arc::clone(&topic), 0));
        let futures = [0, 1].map(|index| completer.future(index, 7));
        let error = SendError::Aborted { reason: "on purpose" };
        let of_each = Box::new(move |_| {
            let _kept = &inner_futures;
            SendError::Aborted { reason: "its own" }
        });
        assert_eq!(completer.close().fail(error, Some(of_each)), Ok(true));
        let (_, [other, _]) = result();
        thread::spawn(move || {
            drop(futures);
            // Here the first goes, and with it the futures that it kept: inside of this drop.
            drop(other);
            assert!(!lives(&topic));
            assert!(lives(&inner), "the last that this thread has dropped");
            inner
        })
        .join()
        .map(|inner| assert!(!lives(&inner)))
        .expect("it does not panic");
    }
}
