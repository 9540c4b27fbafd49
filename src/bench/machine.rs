//! What the figures were taken on, and how quiet it was.

use std::hint::black_box;
use std::time::Duration;

use serde::Serialize;

use super::load::{cpu_time, histogram, nanos};
use super::verdict::median;
use crate::primitive::clock::{Clock, SystemClock};

/// A machine that gives two threads less than so many times one thread's arithmetic is busy.
const BUSY_BELOW: f64 = 1.6;

/// The first line of JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The processor's name, where the system tells it.
    pub machine: Option<String>,
    /// The system's name and version.
    pub kernel: String,
    /// The kind of processor.
    pub arch: &'static str,
    /// Processors that this program may use.
    pub cores: usize,
    /// Readings of the clock, one after the other, by one thread for 100 ms: the 99.99th percentile of the time between two of them.
    pub idle_p9999_ns: u64,
    /// The longest of them.
    pub idle_max_ns: u64,
    /// The share of that time that went into gaps of more than a microsecond, which somebody else had.
    pub idle_stolen: f64,
    /// Arithmetic of two threads in the time in which one does 1: 2 on two free processors.
    pub two_threads: f64,
    /// Whether that is less than 1.6: with the figures of such a machine it is better to wait.
    pub busy: bool,
    /// This program's version.
    pub version: &'static str,
    /// Whether it was built for speed: optimised, without checks, and without steps for tests to stop at.
    pub release: bool,
}

impl Machine {
    /// Looks at it, for some 200 ms.
    #[must_use]
    pub fn look() -> Self {
        let (idle_p9999_ns, idle_max_ns, idle_stolen) = idle();
        let two_threads = two_threads();
        Self {
            machine: model(),
            kernel: kernel(),
            arch: std::env::consts::ARCH,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            idle_p9999_ns,
            idle_max_ns,
            idle_stolen,
            two_threads,
            busy: two_threads < BUSY_BELOW,
            version: env!("CARGO_PKG_VERSION"),
            release: !cfg!(any(debug_assertions, feature = "testing")),
        }
    }
}

fn model() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim().to_owned())
}

fn kernel() -> String {
    let name = |part: &std::ffi::OsStr| part.to_string_lossy().into_owned();
    nix::sys::utsname::uname()
        .map_or_else(|_| std::env::consts::OS.to_owned(), |uname| name(uname.sysname()) + " " + &name(uname.release()))
}

/// Gaps between readings of the clock.
fn idle() -> (u64, u64, f64) {
    const TIME: Duration = Duration::from_millis(100);
    let clock = SystemClock::new();
    let start = clock.now();
    let (mut gaps, mut stolen, mut last) = (histogram(), Duration::ZERO, start);
    while last.saturating_since(start) < TIME {
        let now = clock.now();
        let gap = now.saturating_since(last);
        gaps += nanos(gap);
        if gap > Duration::from_micros(1) {
            stolen += gap;
        }
        last = now;
    }
    (gaps.value_at_quantile(0.9999), gaps.max(), stolen.as_secs_f64() / last.saturating_since(start).as_secs_f64())
}

/// The median of five times; some 10 ms each for one and for two threads.
fn two_threads() -> f64 {
    fn arithmetic() {
        let mut x = black_box(1_u64);
        for _ in 0..5_000_000 {
            x = x.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (x >> 29);
        }
        black_box(x);
    }
    let clock = SystemClock::new();
    let took = |threads: usize| {
        let start = clock.now();
        std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(arithmetic))));
        clock.now().saturating_since(start).as_secs_f64()
    };
    let mut ratios = [(); 5].map(|()| 2.0 * took(1) / took(2));
    median(&mut ratios).unwrap_or(1.0)
}

/// How much of the machine others have had since a moment.
#[derive(Debug)]
pub(super) struct Meter(Option<Reading>);

#[derive(Debug, Clone, Copy)]
struct Reading {
    /// CPU seconds of everybody, time that the host took included.
    busy: f64,
    /// The same, and what was idle.
    all: f64,
    own: f64,
}

impl Meter {
    pub(super) fn start() -> Self {
        Self(Reading::now())
    }

    /// The share of the processors that others have had, from 0 to 1, where the system tells: Linux. It counts in hundredths of a second, so it is worth something from a second on.
    pub(super) fn others(&self) -> Option<f64> {
        let (before, now) = (self.0?, Reading::now()?);
        let (busy, all, own) = (now.busy - before.busy, now.all - before.all, now.own - before.own);
        (all > 0.0).then(|| ((busy - own) / all).clamp(0.0, 1.0))
    }
}

impl Reading {
    fn now() -> Option<Self> {
        let stat = std::fs::read_to_string("/proc/stat").ok()?;
        // user, nice, system, idle, iowait, irq, softirq, steal; what guests had is in user and nice.
        let ticks: Vec<f64> = stat.lines().next()?.split_whitespace().skip(1).flat_map(str::parse).collect();
        let ticks = ticks.get(..8)?;
        let second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()?? as f64;
        let all: f64 = ticks.iter().sum();
        Some(Self { busy: (all - ticks[3] - ticks[4]) / second, all: all / second, own: cpu_time().as_secs_f64() })
    }
}
