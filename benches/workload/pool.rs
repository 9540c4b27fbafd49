//! Pool scenarios: allocate and free.

use std::hint::black_box;
use std::time::Duration;

use unlatched::mutex::{ParkingLotPool, StdPool};
use unlatched::pool::{AtomicPool, BufferPool};
use unlatched::primitive::clock::SystemClock;

use super::bare::{BATCH, BarePool};
use super::{Row, on_threads};

/// `ample`: 32 MiB, so that nobody ever waits; each thread takes a buffer and gives it back.
pub fn ample() -> Vec<Row> {
    vec![
        ample_row::<AtomicPool>("lockfree"),
        ample_row::<StdPool>("mutex"),
        ample_row::<ParkingLotPool>("mutex-parking-lot"),
        ample_bare(),
    ]
}

fn ample_row<P: BufferPool>(name: &'static str) -> Row {
    Row {
        name,
        run: Box::new(|threads, ops| {
            let pool = P::new(32 << 20, BATCH, SystemClock::shared());
            on_threads(threads, ops, |_, _| {
                // Looked at where it lies, as in `append`.
                let lease = pool.allocate(BATCH, Duration::ZERO);
                assert!(black_box(&lease).is_ok(), "there is ample memory");
            })
        }),
    }
}

fn ample_bare() -> Row {
    Row {
        name: "bare-parking-lot",
        run: Box::new(|threads, ops| {
            let pool = BarePool::default();
            on_threads(threads, ops, |_, _| pool.free(black_box(pool.allocate())))
        }),
    }
}
