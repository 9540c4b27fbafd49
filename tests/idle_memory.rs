//! What a partition costs that is known and was never sent anything, by an allocator that counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;

use unlatched::accumulator::{Accumulator, AccumulatorConfig, LockFreeAccumulator};
use unlatched::error::TopicPartition;
use unlatched::primitive::atomic::AtomicUsize;
use unlatched::primitive::atomic::Ordering::SeqCst;
use unlatched::primitive::clock::SystemClock;

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: everything is the system allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        NOW.fetch_add(layout.size(), SeqCst);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), SeqCst);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(ptr, layout) }
    }
}

const TOPICS: usize = 100;
const OF_TOPIC: i32 = 1_000;
const KNOWN: usize = TOPICS * OF_TOPIC as usize;

/// One test, since the count is of the whole process.
#[test]
fn map_02_a_partition_without_data_costs_at_most_256_bytes() {
    let topics: Vec<Arc<str>> = (0..TOPICS).map(|topic| format!("topic-{topic}").into()).collect();
    let all = || topics.iter().flat_map(|topic| (0..OF_TOPIC).map(|number| TopicPartition::new(topic.clone(), number)));
    let (accumulator, _view) = LockFreeAccumulator::new(AccumulatorConfig::default(), SystemClock::shared());

    let before = NOW.load(SeqCst);
    all().for_each(|partition| drop(accumulator.partition(&partition)));
    let created = (NOW.load(SeqCst) - before) / KNOWN;
    assert!((64..=256).contains(&created), "{created} bytes a partition that was never used");
}
