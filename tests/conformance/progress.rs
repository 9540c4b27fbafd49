//! A thread that is stopped at a shared step, for as long as it likes, holds up nobody but itself and those who wait for what it alone can give; the
//! table is `papers/progress.md`. BATCH-11, BATCH-18, POOL-11, POOL-12, ACC-03.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use unlatched::accumulator::Accumulator;
use unlatched::batch::Reply;
use unlatched::error::SendError;
use unlatched::pool::BufferPool;
use unlatched::primitive::clock::SystemClock;
use unlatched::primitive::{Stop, stop_here};

use crate::batch::{millis, value};
use crate::completion::with_futures;
use crate::pool::{pool, take};
use crate::rig::{Rig, values};
use crate::support::{Core, GLANCE, LONG, PATIENCE, Worker, eventually, on_every_core};

on_every_core![
    batch_11_an_end_that_is_stopped_holds_nobody_up,
    batch_18_a_waiter_that_is_stopped_hears_the_result_all_the_same,
    pool_11_a_wake_that_is_late_holds_nobody_up,
    pool_12_a_waiter_that_is_stopped_before_its_sleep_keeps_its_signal,
    acc_03_an_append_that_is_stopped_on_its_way_to_memory_holds_nobody_up,
];

/// A thread that does `work` and stops at `step`, seen to stand there.
#[track_caller]
pub(crate) fn stopped_at<T: Send + 'static>(
    step: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> (Worker<T>, Stop) {
    let stop = Stop::new();
    let worker = Worker::start({
        let stop = stop.clone();
        move || {
            stop_here(step, &stop);
            work()
        }
    });
    assert!(stop.await_stopped(PATIENCE), "nobody came to {step}");
    (worker, stop)
}

fn batch_11_an_end_that_is_stopped_holds_nobody_up<C: Core>() {
    const GIVEN_UP: SendError = SendError::Aborted { reason: "on purpose" };
    for step in ["completion.claim", "completion.publish", "completion.done"] {
        let (batch, mut futures) = with_futures::<C>(4);
        let batch = Arc::new(batch);
        let (settler, stop) = stopped_at(step, {
            let batch = batch.clone();
            move || batch.completion().complete(7, None)
        });
        // Whatever the others do comes to an end: they poll, wait for a while, drop, and try to end the batch themselves.
        let others = Worker::start(move || {
            let mut polled = pin!(futures.remove(0));
            assert!(polled.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending(), "{step}");
            assert_eq!(polled.try_result().is_some(), step == "completion.done");
            let clock = SystemClock::shared();
            assert_eq!(futures[0].wait_timeout(millis(1), &*clock), None, "{step}");
            drop(futures.pop());
            let won = batch.completion().abort(GIVEN_UP).is_ok();
            (futures, won)
        });
        let (futures, won) = others.result();
        assert_eq!(won, step == "completion.claim", "nobody had won before");
        stop.release();
        assert_eq!(settler.result(), Ok(!won));
        for future in futures {
            assert_eq!(future.wait().is_ok(), !won, "{step}");
        }
    }
}

fn batch_18_a_waiter_that_is_stopped_hears_the_result_all_the_same<C: Core>() {
    let (batch, mut futures) = with_futures::<C>(2);
    let slow = futures.remove(0);
    let (waiter, stop) = stopped_at("completion.register", move || slow.wait());
    // The end does not wait for the waiter, nor does anybody else.
    let others = Worker::start(move || {
        assert_eq!(batch.completion().complete(7, None), Ok(true));
        futures.remove(0).wait()
    });
    assert_eq!(others.result().unwrap().offset, 8);
    stop.release();
    assert_eq!(waiter.result().unwrap().offset, 7);
}

fn pool_11_a_wake_that_is_late_holds_nobody_up<C: Core>() {
    let pool = pool::<C>(64, 64);
    let held = take::<C>(&pool, 64);
    let waiter = Worker::start({
        let pool = pool.clone();
        move || pool.allocate(64, LONG).map(drop)
    });
    eventually("it waits", || pool.queued() == 1);
    // The bytes are back, the head is chosen, but not yet told.
    let (releaser, stop) = stopped_at("pool.wake", move || drop(held));
    let others = Worker::start({
        let pool = pool.clone();
        move || {
            assert_eq!(pool.available(), 64);
            // It overtakes the waiter (GAP-01) or stands behind it, and tells it what the other has not.
            pool.allocate(64, LONG).map(drop)
        }
    });
    assert_eq!(others.result(), Ok(()));
    assert_eq!(waiter.result(), Ok(()));
    stop.release();
    releaser.result();
    assert_eq!((pool.available(), pool.queued()), (64, 0));
}

fn pool_12_a_waiter_that_is_stopped_before_its_sleep_keeps_its_signal<C: Core>() {
    let pool = pool::<C>(64, 64);
    let held = take::<C>(&pool, 64);
    let (waiter, stop) = stopped_at("pool.wait", {
        let pool = pool.clone();
        move || pool.allocate(64, LONG).map(drop)
    });
    assert_eq!(pool.queued(), 1);
    // The only signal there will be comes before the sleep.
    let releaser = Worker::start(move || drop(held));
    releaser.result();
    std::thread::sleep(GLANCE);
    stop.release();
    assert_eq!(waiter.result(), Ok(()));
    assert_eq!((pool.available(), pool.queued()), (64, 0));
}

fn acc_03_an_append_that_is_stopped_on_its_way_to_memory_holds_nobody_up<C: Core>() {
    for step in ["accumulator.allocate", "accumulator.second-look"] {
        let rig = Rig::<C>::new();
        let (slow, stop) = stopped_at(step, {
            let (accumulator, partition) = (rig.accumulator.clone(), rig.partition(0));
            move || accumulator.append(&partition, &value(b"slow"), Reply::FUTURE, LONG)
        });
        // Others append to the same partition and to another; the sender sees, takes and ends what is theirs; a flush of it ends.
        let others = Worker::start(move || {
            let mut rig = rig;
            rig.push(0, b"quick");
            rig.push(1, b"elsewhere");
            rig.accumulator.begin_flush();
            assert!(rig.is_ready());
            let drained = rig.drain();
            assert_eq!(values(&drained), ["quick", "elsewhere"]);
            drained.into_iter().for_each(|batch| rig.acknowledge(batch));
            assert_eq!(rig.accumulator.await_flush(None), Ok(()));
            assert!(rig.expired().is_empty() && !rig.accumulator.has_undrained());
            rig
        });
        let mut rig = others.result();
        stop.release();
        let future = slow.result().unwrap().future.unwrap();
        assert_eq!(values(&rig.drain()), ["slow"], "{step}");
        drop(future);
    }
}
