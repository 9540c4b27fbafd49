//! What the figures were taken on, and how quiet it was.

use std::hint::black_box;
use std::time::Duration;

use crossbeam_utils::CachePadded;
use serde::Serialize;

use super::load::{cpu_time, histogram, nanos};
use super::verdict::median;
use crate::primitive::atomic::Ordering::{Acquire, Relaxed, Release};
use crate::primitive::atomic::{AtomicBool, AtomicU64};
use crate::primitive::clock::{Clock, SystemClock};
use crate::primitive::hint;

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
    /// Nanoseconds that a cache line needs from one thread to another; the least of five times, each a thousand round trips. Where a hypervisor moves processors about this may be one thing today and four times as much
    /// tomorrow, and every contended figure with it. Null with one processor, or a busy second one.
    pub handover_ns: Option<u64>,
    /// Whether `two_threads` is less than 1.6: with the figures of such a machine it is better to wait.
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
            handover_ns: handover(),
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

/// A word that goes to and fro between two threads: odd is for the other one.
fn handover() -> Option<u64> {
    const TRIPS: u64 = 1_000;
    const PATIENCE: Duration = Duration::from_millis(200);
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return None;
    }
    let (clock, word) = (SystemClock::new(), CachePadded::new(AtomicU64::new(0)));
    let over = CachePadded::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Relaxed: a flag that is polled.
            while !over.load(Relaxed) {
                // Acquire and Release, here and below, as whoever hands something over would have it; the next value is for us, or is not there yet.
                match word.load(Acquire) {
                    turn if turn % 2 == 1 => word.store(turn + 1, Release),
                    _ => hint::spin_loop(),
                }
            }
        });
        let mut least = None;
        let mut turn = 0;
        'times: for time in 0..=5 {
            let start = clock.now();
            for _ in 0..TRIPS {
                // Release, and Acquire below: as an exchange of turns would have it; no data goes with them.
                word.store(turn + 1, Release);
                let mut spins = 0_u32;
                while word.load(Acquire) != turn + 2 {
                    hint::spin_loop();
                    spins = spins.wrapping_add(1);
                    if spins.is_multiple_of(4_096) && clock.now().saturating_since(start) > PATIENCE {
                        break 'times;
                    }
                }
                turn += 2;
            }
            let one_way = nanos(clock.now().saturating_since(start)) / (2 * TRIPS);
            // The first time wakes the other one up.
            if time > 0 {
                least = Some(least.map_or(one_way, |least: u64| least.min(one_way)));
            }
        }
        // Relaxed: as above.
        over.store(true, Relaxed);
        least
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primitive::clock::Instant;

    #[test]
    fn it_says_what_can_be_said_of_a_machine() {
        let machine = Machine::look();
        assert!(machine.cores > 0 && machine.two_threads > 0.0 && !machine.kernel.is_empty());
        assert!(machine.idle_p9999_ns <= machine.idle_max_ns && (0.0..=1.0).contains(&machine.idle_stolen));
        assert_eq!(machine.busy, machine.two_threads < 1.6);
        assert!(!machine.release, "a test is not built for speed");
        assert!(machine.handover_ns.is_none_or(|nanos| nanos > 0));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_this_program_uses_is_not_what_others_have() {
        let (meter, clock) = (Meter::start(), SystemClock::new());
        let all = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let before = cpu_time();
        while clock.now().saturating_since(Instant::ZERO) < Duration::from_millis(500) {}
        let own = (cpu_time() - before).as_secs_f64();
        let others = meter.others().expect("the system tells");
        // Its clock ticks in hundredths, and each processor's are rounded.
        assert!(others <= 1.0 - own / (0.5 * all) + 0.2, "{others}, and this program had {own} s of {all} processors");
    }
}
