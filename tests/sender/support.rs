//! The macro that runs a test on each core, and what tests share. Threads that may get stuck are in [`crate::threads`].

use std::sync::{Arc, Mutex};
use std::time::Duration;

use unlatched::error::TopicPartition;

pub(crate) use crate::threads::{Gate, LONG, Worker, eventually, lock};

/// Makes of each generic function `fn name<A: Accumulator>()` a test per core, `<core>::<name>`. A new core is one more line here.
macro_rules! on_every_core {
    ($($name:ident,)*) => {
        on_every_core!(@core mutex, unlatched::mutex::StdAccumulator: $($name)*);
        on_every_core!(@core mutex_parking_lot, unlatched::mutex::ParkingLotAccumulator: $($name)*);
        on_every_core!(@core lockfree, unlatched::accumulator::LockFreeAccumulator: $($name)*);
    };
    (@core $module:ident, $core:ty: $($name:ident)*) => {
        mod $module {
            $(
                #[test]
                fn $name() {
                    super::$name::<$core>();
                }
            )*
        }
    };
}
pub(crate) use on_every_core;

pub(crate) const TOPIC: &str = "t";

pub(crate) fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new(TOPIC, partition)
}

pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What happened, in order: steps of the sender, of the broker, and callbacks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(crate) fn note(&self, step: impl Into<String>) {
        lock(&self.0).push(step.into());
    }

    /// What was noted since the last time.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.0))
    }

    /// The same, of the steps that begin with one of `words` alone.
    pub(crate) fn take_only(&self, words: &[&str]) -> Vec<String> {
        let mut steps = self.take();
        steps.retain(|step| words.iter().any(|word| step.starts_with(word)));
        steps
    }
}
