//! The mutex that the twin's `mutex` rows stand on.

use unlatched::primitive::lock::{Mutex, StdMutex};

use crate::runner::{Bound, Check, model};

pub(crate) fn models() -> Vec<Check> {
    vec![counter()]
}

fn counter() -> Check {
    let add = |counter: &StdMutex<u32>| {
        let mut held = counter.lock();
        *held += 1;
        *held
    };
    model("lock_std_mutex_counts", "two holders exclude each other", Bound::Full, || StdMutex::new(0_u32))
        .role("left", add)
        .role("right", add)
        .expect(|counter, seen| format!("{} after {seen:?}", *counter.lock()), &["2 after [1, 2]", "2 after [2, 1]"])
}
