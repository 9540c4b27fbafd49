//! How many exchanges of shared words an allocation and its release take, and an append; and how many of them find the word written by another thread last: counted, not timed. `cargo contended`.

#![allow(missing_docs, clippy::disallowed_types)]

#[cfg(not(unlatched_count))]
fn main() {
    println!("nothing is counted in this build: run `cargo contended`");
}

#[cfg(unlatched_count)]
fn main() {
    counted::table();
}

#[cfg(unlatched_count)]
mod counted {
    use std::sync::mpsc::sync_channel;
    use std::sync::{Arc, Barrier};
    use std::time::Duration;

    use unlatched::accumulator::{Accumulator, AccumulatorConfig, Appender, LockFreeAccumulator, SenderView};
    use unlatched::batch::Reply;
    use unlatched::broker::{Cluster, NodeId};
    use unlatched::error::TopicPartition;
    use unlatched::pool::{AtomicPool, AtomicPoolCore, BufferPool, Lease, PoolOptions};
    use unlatched::primitive::atomic::exchanges;
    use unlatched::primitive::clock::SystemClock;
    use unlatched::record::Record;

    const SIZE: usize = 16 << 10;
    const OPERATIONS: u64 = 50_000;
    const THREADS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

    /// All and contended exchanges for each operation, over all threads.
    fn count(threads: usize, work: impl Fn(usize) + Sync) -> (f64, f64) {
        let barrier = Barrier::new(threads);
        let counted: Vec<_> = std::thread::scope(|scope| {
            let one = |thread| {
                let (barrier, work) = (&barrier, &work);
                scope.spawn(move || {
                    barrier.wait();
                    let before = exchanges();
                    work(thread);
                    let after = exchanges();
                    (after.all - before.all, after.contended - before.contended)
                })
            };
            let threads: Vec<_> = (0..threads).map(one).collect();
            threads.into_iter().map(|thread| thread.join().expect("a thread panicked")).collect()
        });
        let each = |sum: u64| sum as f64 / (threads as u64 * OPERATIONS) as f64;
        (each(counted.iter().map(|(all, _)| all).sum()), each(counted.iter().map(|(_, contended)| contended).sum()))
    }

    fn ample(threads: usize) -> (f64, f64) {
        let pool = AtomicPool::new(32 << 20, SIZE, SystemClock::shared());
        count(threads, |_| (0..OPERATIONS).for_each(|_| drop(pool.try_allocate(SIZE).expect("there is ample memory"))))
    }

    /// Each allocates, and gives back what the one before it has allocated. The rings are std's channels, whose exchanges are not counted.
    fn cross(threads: usize) -> (f64, f64) {
        let pool = AtomicPool::new(32 << 20, SIZE, SystemClock::shared());
        let (givers, takers): (Vec<_>, Vec<_>) = (0..threads).map(|_| sync_channel::<Lease<AtomicPoolCore>>(8)).unzip();
        let takers: Vec<_> = takers.into_iter().map(std::sync::Mutex::new).collect();
        count(threads, |thread| {
            let taker = takers[thread].lock().expect("one thread each");
            let next = &givers[(thread + 1) % threads];
            for _ in 0..OPERATIONS {
                let lease = pool.allocate(SIZE, Duration::from_secs(60)).expect("there is ample memory");
                // Who finds the ring full gives back its own: the next may have ended.
                drop(next.try_send(lease));
                drop(taker.try_recv());
            }
        })
    }

    /// As `ample`, while somebody waits for the whole pool: everybody else goes past, or, strict, waits behind.
    fn beside_a_waiter(threads: usize) -> (f64, f64) {
        let options = PoolOptions { overtaking: u32::MAX, ..PoolOptions::default() };
        let pool = Arc::new(AtomicPool::with_options(32 << 20, SIZE, SystemClock::shared(), options));
        let held = pool.try_allocate(SIZE).expect("there is ample memory");
        let waiter = std::thread::spawn({
            let pool = Arc::clone(&pool);
            move || drop(pool.allocate(32 << 20, Duration::from_secs(600)))
        });
        while pool.queued() == 0 {
            std::thread::yield_now();
        }
        let counted = count(threads, |_| {
            (0..OPERATIONS).for_each(|_| drop(pool.try_allocate(SIZE).expect("it may go past")));
        });
        drop(held);
        waiter.join().expect("it is served in the end");
        counted
    }

    /// How a thread appends.
    #[derive(Clone, Copy)]
    enum By {
        Shared { future: bool },
        Appender { future: bool },
    }

    /// Appends of 100 bytes to one partition, as in scenario `hot` of suite `append`, while one more thread drains, whose exchanges are counted in.
    fn append(threads: usize, by: By) -> (f64, f64) {
        let clock = SystemClock::shared();
        let (accumulator, mut view) = LockFreeAccumulator::new(AccumulatorConfig::default(), clock.clone());
        let partition = accumulator.partition(&TopicPartition::new("bench", 0));
        let cluster = Cluster::single_node(NodeId(0), [("bench", 1)]);
        let over = std::sync::atomic::AtomicBool::new(false);
        let wait = Duration::from_secs(60);
        std::thread::scope(|scope| {
            let drainer = scope.spawn(|| {
                let before = exchanges();
                loop {
                    let last = over.load(std::sync::atomic::Ordering::SeqCst);
                    let now = clock.now();
                    let ready = view.ready(&cluster, now);
                    let mut any = false;
                    for batch in
                        view.drain(&cluster, &ready.nodes, 1 << 20, now).into_iter().flat_map(|one| one.batches)
                    {
                        any = true;
                        batch.completion().complete(0, None).expect("completed once");
                        view.deallocate(batch).expect("in the books");
                    }
                    if !any && last {
                        let after = exchanges();
                        return (after.all - before.all, after.contended - before.contended);
                    }
                    if !any {
                        std::thread::sleep(Duration::from_micros(50));
                    }
                }
            });
            let (all, contended) = count(threads, |_| {
                let value = [b'x'; 100];
                let record = Record { timestamp: 1_700_000_000_000, value: Some(&value), ..Record::default() };
                let reply = |future| if future { Reply::FUTURE } else { Reply::IGNORE };
                match by {
                    By::Shared { future } => (0..OPERATIONS).for_each(|_| {
                        drop(accumulator.append(&partition, &record, reply(future), wait).expect("memory comes free"));
                    }),
                    By::Appender { future } => {
                        let mut appender = accumulator.appender();
                        (0..OPERATIONS).for_each(|_| {
                            drop(appender.append(&partition, &record, reply(future), wait).expect("memory comes free"));
                        });
                    }
                }
            });
            over.store(true, std::sync::atomic::Ordering::SeqCst);
            let (drained, drained_contended) = drainer.join().expect("the drainer panicked");
            let each = |sum: u64| sum as f64 / (threads as u64 * OPERATIONS) as f64;
            (all + each(drained), contended + each(drained_contended))
        })
    }

    pub(super) fn table() {
        println!("exchanges of shared words for an allocation and its release of 16 KiB: all (contended)");
        println!("| threads | {} |", THREADS.map(|threads| threads.to_string()).join(" | "));
        println!("|---|{}", "---|".repeat(THREADS.len()));
        for (name, scenario) in [
            ("each its own", ample as fn(usize) -> (f64, f64)),
            ("each another's", cross),
            ("beside one who waits for everything", beside_a_waiter),
        ] {
            let cells = THREADS.map(|threads| {
                let (all, contended) = scenario(threads);
                format!("{all:.2} ({contended:.3})")
            });
            println!("| {name} | {} |", cells.join(" | "));
        }
        println!("\nthe same for an append of 100 bytes to one partition, the drainer's included");
        let threads = [1, 2, 4, 8, 16];
        println!("| threads | {} |", threads.map(|threads| threads.to_string()).join(" | "));
        println!("|---|{}", "---|".repeat(threads.len()));
        for (name, by) in [
            ("`append`", By::Shared { future: false }),
            ("`append`, with a future", By::Shared { future: true }),
            ("an appender's", By::Appender { future: false }),
            ("an appender's, with a future", By::Appender { future: true }),
        ] {
            let cells = threads.map(|threads| {
                let (all, contended) = append(threads, by);
                format!("{all:.3} ({contended:.3})")
            });
            println!("| {name} | {} |", cells.join(" | "));
        }
    }
}
