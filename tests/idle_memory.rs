//! What a partition costs that is known and has nothing to send, by an allocator that counts. `cargo test --features testing --test idle_memory -- --nocapture` prints it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::time::Duration;

use unlatched::accumulator::{Accumulator, AccumulatorConfig, LockFreeAccumulator, SenderView};
use unlatched::batch::Reply;
use unlatched::broker::{Cluster, NodeId};
use unlatched::error::TopicPartition;
use unlatched::primitive::atomic::AtomicUsize;
use unlatched::primitive::atomic::Ordering::SeqCst;
use unlatched::primitive::clock::SystemClock;
use unlatched::record::Record;

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
    let clock = SystemClock::shared();
    let (accumulator, mut view) = LockFreeAccumulator::new(AccumulatorConfig::default(), clock.clone());

    let before = NOW.load(SeqCst);
    all().for_each(|partition| drop(accumulator.partition(&partition)));
    let created = (NOW.load(SeqCst) - before) / KNOWN;
    assert!((64..=256).contains(&created), "{created} bytes a partition that was never used");

    // Of one that was used nothing is kept: the sender takes its last batch out of the lane.
    let cluster = Cluster::single_node(NodeId(0), topics.iter().map(|topic| (&**topic, OF_TOPIC)));
    let record = Record { value: Some(b"x"), ..Record::default() };
    let mut use_once = |partitions: &mut dyn Iterator<Item = TopicPartition>| {
        for partition in partitions {
            let handle = accumulator.partition(&partition);
            let appended = accumulator.append(&handle, &record, Reply::IGNORE, Duration::ZERO);
            assert!(appended.expect("memory is there").new_batch);
            let now = clock.now();
            view.ready(&cluster, now);
            let drained = view.drain(&cluster, &[NodeId(0)], 1 << 20, now).remove(0).batches;
            assert_eq!(drained.len(), 1, "{partition}");
            for batch in drained {
                batch.completion().complete(0, None).expect("completed once");
                view.deallocate(batch).expect("in the books");
            }
        }
    };
    // What the sender keeps for itself, and the pool's buffer.
    use_once(&mut all().take(200));
    let before = NOW.load(SeqCst);
    const USED: usize = 20_000;
    use_once(&mut all().skip(200).take(USED));
    // What was retired before may be freed only now.
    let kept = NOW.load(SeqCst).saturating_sub(before) / USED;
    eprintln!("{created} bytes a partition, {kept} more once it was used");
    assert!(created + kept <= 256, "{created} bytes, {kept} more once it was used");
}
