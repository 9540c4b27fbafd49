//! The conformance suite: what each part must do, by the ids of `papers/catalogue.md`, on every core.
//!
//! Each test begins with the id that it pins and is generic over [`support::Core`]; the name of a run tells the core, as in
//! `waiters::mutex::pool_10_timeout_returns_partial_grant`. What the suite has to cover, and where cores may differ, stands in
//! `papers/scope.md`; the tests in [`catalogue`] hold the suite against that page, and [`deviations`] says which core keeps which side.

// A test that is missing from its file's list would be dead code, and never run.
#![deny(dead_code)]

mod append;
mod appenders;
mod batch;
mod catalogue;
mod completion;
mod compression;
mod deviations;
mod drain;
mod endings;
mod fmt;
mod gate;
mod laws;
mod many;
mod map;
mod order;
mod pool;
mod progress;
mod ready;
mod rig;
mod support;
#[path = "../common/threads.rs"]
mod threads;
mod waiters;

/// The tests of every file.
const REGISTRY: &[&[&str]] = &[
    fmt::HEADER,
    fmt::RECORDS,
    fmt::MALFORMED,
    fmt::CODECS,
    pool::TESTS,
    waiters::TESTS,
    map::TESTS,
    batch::TESTS,
    compression::TESTS,
    completion::TESTS,
    append::TESTS,
    appenders::TESTS,
    many::TESTS,
    ready::TESTS,
    drain::TESTS,
    gate::TESTS,
    endings::TESTS,
    order::TESTS,
    progress::TESTS,
];
