//! What a seed draws: the set-up of a history, and the list of all that happens in it.
//!
//! Everything that can be left out is one [`Item`] of one list, and its place there is its name: `--without 3,7` is the same history without the items 3 and 7, which is how a
//! failing one is made small. What is drawn later - latencies, schedules - hangs on the seed and on what it is for, never on how many items there are.

use std::time::Duration;

use crate::accumulator::{AccumulatorConfig, Backoff};
use crate::broker::{Acks, ErrorCode};
use crate::primitive::Step;
use crate::primitive::random::Random;
use crate::sender::SenderConfig;

use ErrorCode as E;

/// What stands still for a while if an appender is stopped there: before, within and after the copy of a record, over the pool's memory, over a queue's lock.
const STOPS: &[Step] = &[
    "batch.reserve",
    "batch.copy",
    "batch.copy",
    "batch.commit",
    "callbacks.push",
    "accumulator.allocate",
    "accumulator.second-look",
    "books.enter",
    "books.opened",
    "lane.open",
    "appender.allocate",
    "owned.begin",
    "batch.fill",
    "owned.end",
    "owned.hand-over",
    "owned.open",
    "pool.wait",
    "ready.push",
    "mutex.held",
];

/// How long records' callbacks do what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hears {
    /// Nobody hears of the record.
    Nobody,
    /// A future.
    Future,
    /// A callback.
    Callback,
    /// A callback that closes.
    CallbackCloses,
}

/// One thing that happens, or goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    /// An appender appends a record, as the next thing it does.
    Append {
        appender: usize,
        partition: i32,
        /// Bytes of the value.
        len: usize,
        hears: Hears,
        max_block: Duration,
        before: Duration,
        stop: Option<(Step, Duration)>,
    },
    /// Somebody flushes.
    Flush { at: Duration, timeout: Option<Duration> },
    /// Somebody closes.
    Close { at: Duration, timeout: Duration },
    /// A partition gets another leader after `without` one.
    Move { at: Duration, partition: i32, to: i32, without: Duration },
    /// A node breaks its connections, and takes none for a while.
    Restart { at: Duration, node: i32, downtime: Duration },
    /// A partition forgets the producers, as retention does, unless something is under way to it.
    Forget { at: Duration, partition: i32 },
    /// What happens to the produce request of this number.
    Request { number: u64, effect: Effect },
    /// What becomes of the request of this number for a producer id.
    Id { number: u64, code: ErrorCode },
}

impl Item {
    /// Whether it is an append to `partition`, to be heard of as by `hears`, that comes at once and is not stopped: it can be appended by the call of the one before.
    pub(super) fn goes_with(&self, partition: i32, hears: Hears) -> bool {
        matches!(self, Self::Append { partition: to, hears: by, before: Duration::ZERO, stop: None, .. } if (*to, *by) == (partition, hears))
    }

    /// Whether a batch may come again until it expires, by no fault of anybody's.
    pub(super) fn may_go_on(&self) -> bool {
        matches!(self, Self::Forget { .. })
    }
}

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// It takes this much longer to arrive; so does what goes to that node behind it.
    Slow(Duration),
    /// Its answer takes this much longer, and others overtake it.
    Late(Duration),
    /// The node reads it and does nothing.
    LoseRequest,
    /// The node does it, and the answer is lost.
    LoseResponse,
    /// The connection breaks before the node has read it.
    DisconnectBefore,
    /// The connection breaks when the node has done it.
    DisconnectAfter,
    /// The transport does not take it, though it said that it would.
    Refuse,
    /// Answered, and the node wants no more for a while.
    Throttle(Duration),
    /// One of its batches is answered so; it was not written now, or was.
    Error { code: ErrorCode, written: bool },
    /// One of its batches is not mentioned; it was not written now, or was.
    Unmentioned { written: bool },
    /// Records are named that are at fault.
    InvalidRecords,
    /// The node does not know this version of the request.
    UnsupportedVersion,
}

impl Effect {
    /// What it is called where it is counted.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Slow(_) => "slow",
            Self::Late(_) => "late-response",
            Self::LoseRequest => "lost-request",
            Self::LoseResponse => "lost-response",
            Self::DisconnectBefore => "disconnect-before",
            Self::DisconnectAfter => "disconnect-after",
            Self::Refuse => "refused-at-the-door",
            Self::Throttle(_) => "throttle",
            Self::Error { written: false, .. } => "error",
            Self::Error { written: true, .. } => "error-after-write",
            Self::Unmentioned { .. } => "unmentioned",
            Self::InvalidRecords => "record-errors",
            Self::UnsupportedVersion => "unsupported-version",
        }
    }
}

/// What holds for a whole history.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    pub(super) nodes: i32,
    pub(super) partitions: i32,
    pub(super) accumulator: AccumulatorConfig,
    pub(super) sender: SenderConfig,
    pub(super) idempotent: bool,
    pub(super) max_message_bytes: usize,
    /// Of each appender: whether it owns lanes.
    pub(super) appenders: Vec<bool>,
    /// Mean latency of a way, in microseconds.
    pub(super) latency: u64,
    /// Whether what is known again is answered with DUPLICATE_SEQUENCE_NUMBER, as old brokers do.
    pub(super) says_duplicate: bool,
    /// Whether nodes do late what a client has given up, where that does no harm that is not known: see the module's head.
    pub(super) ghosts: bool,
}

/// A history to be run.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) setup: Setup,
    pub(super) items: Vec<Item>,
}

/// Numbers of one seed.
struct Draw(Random);

impl Draw {
    fn below(&mut self, n: u64) -> u64 {
        self.0.below(n)
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.0.below(100) < percent
    }

    fn of<T: Copy>(&mut self, among: &[T]) -> T {
        among[self.0.below(among.len() as u64) as usize]
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_micros(from * 1_000 + self.0.below((to - from) * 1_000 + 1))
    }
}

/// Codes that a node answers without a reason of its own. Those that say something of sequences come from the partition's state alone: they must be true.
fn code(draw: &mut Draw, grim: bool) -> (ErrorCode, bool) {
    let honest = |code: &ErrorCode| {
        !matches!(code, E::None | E::DuplicateSequenceNumber | E::OutOfOrderSequenceNumber | E::UnknownProducerId)
    };
    let fits = |code: &ErrorCode| honest(code) && (grim || code.is_retriable());
    let codes: Vec<_> = ErrorCode::all().filter(fits).collect();
    let code = draw.of(&codes);
    let written = match code {
        E::NotEnoughReplicasAfterAppend => true,
        code => code.is_retriable() && code.fate() == crate::broker::Fate::Unknown && draw.chance(50),
    };
    (code, written)
}

impl Plan {
    /// The history of `seed`.
    pub(super) fn draw(seed: u64) -> Self {
        let mut draw = Draw(Random::seeded(seed ^ 0x005E_ED0F_A915_70A7));
        let setup = Setup::draw(&mut draw);
        let mut items = Vec::new();
        let horizon = draw.of(&[20, 100, 400]);
        // Some histories meet codes that end a batch, or the producer.
        let grim = draw.chance(25);
        let intensity = draw.of(&[0, 5, 20, 20, 50, 80]);
        let stops = draw.of(&[0, 0, 5, 25]);
        let largest = draw.of(&[20, 60, 150, 400]);
        for appender in 0..setup.appenders.len() {
            for _ in 0..1 + draw.below(14) {
                let hears = match draw.below(40) {
                    0..10 => Hears::Nobody,
                    10..22 => Hears::Future,
                    22 if draw.chance(10) => Hears::CallbackCloses,
                    _ => Hears::Callback,
                };
                items.push(Item::Append {
                    appender,
                    partition: draw.below(setup.partitions as u64) as i32,
                    len: 8 + draw.below(largest) as usize,
                    hears,
                    max_block: draw.of(&[0, 1, 20, 300, 10_000].map(Duration::from_millis)),
                    before: if draw.chance(60) { Duration::ZERO } else { draw.millis(0, horizon / 4) },
                    stop: draw.chance(stops).then(|| (draw.of(STOPS), draw.millis(0, 4 * horizon))),
                });
            }
        }
        for _ in 0..draw.below(3) {
            let timeout = if draw.chance(50) { None } else { Some(draw.millis(0, 200)) };
            items.push(Item::Flush { at: draw.millis(0, horizon), timeout });
        }
        if draw.chance(40) {
            let timeout = if draw.chance(40) { Duration::ZERO } else { draw.millis(0, 2 * horizon) };
            items.push(Item::Close { at: draw.millis(0, 2 * horizon), timeout });
        }
        if intensity > 0 {
            for _ in 0..draw.below(4) {
                items.push(Item::Move {
                    at: draw.millis(0, 2 * horizon),
                    partition: draw.below(setup.partitions as u64) as i32,
                    to: draw.below(setup.nodes as u64) as i32,
                    without: if draw.chance(60) { Duration::ZERO } else { draw.millis(0, 100) },
                });
            }
            for _ in 0..draw.below(3) {
                let node = draw.below(setup.nodes as u64) as i32;
                items.push(Item::Restart { at: draw.millis(0, 2 * horizon), node, downtime: draw.millis(0, 200) });
            }
            for _ in 0..draw.below(3) {
                let partition = draw.below(setup.partitions as u64) as i32;
                items.push(Item::Forget { at: draw.millis(0, 2 * horizon), partition });
            }
        }
        for number in 0..40 {
            if draw.chance(intensity) {
                items.push(Item::Request { number, effect: Effect::draw(&mut draw, grim, horizon) });
            }
        }
        for number in 0..2 {
            if setup.idempotent && draw.chance(intensity / 2) {
                let code = if grim && draw.chance(30) {
                    draw.of(&[
                        E::ClusterAuthorizationFailed,
                        E::TransactionalIdAuthorizationFailed,
                        E::UnsupportedVersion,
                    ])
                } else {
                    draw.of(&[E::NetworkException, E::RequestTimedOut, E::Other(14)])
                };
                items.push(Item::Id { number, code });
            }
        }
        Self { seed, setup, items }
    }
}

impl Setup {
    fn draw(draw: &mut Draw) -> Self {
        let wishes_idempotence = draw.chance(65);
        let acks =
            if wishes_idempotence { Acks::All } else { draw.of(&[Acks::All, Acks::All, Acks::Leader, Acks::None]) };
        let retries = draw.of(&[0, 1, 3, i32::MAX as u32, i32::MAX as u32, i32::MAX as u32]);
        let retries = if wishes_idempotence { retries.max(1) } else { retries };
        let request_timeout = draw.millis(20, 300);
        let linger = draw.of(&[0, 0, 5, 40].map(Duration::from_millis));
        let longer = draw.of(&[0, 100, 1_000, 20_000]);
        let delivery_timeout = request_timeout + linger + draw.millis(0, longer);
        let sender = SenderConfig {
            acks,
            enable_idempotence: Some(wishes_idempotence),
            max_in_flight: 1 + draw.below(5) as usize,
            max_request_size: draw.of(&[300, 1 << 20]),
            request_timeout,
            delivery_timeout,
            retries,
            retry_backoff: draw.millis(1, 30),
            guarantee_order: draw.chance(30),
        };
        let batch_size = draw.of(&[1, 150, 256, 256, 600]);
        let batches = draw.of(&[1, 2, 4, 64, 64]);
        let backoff = draw.millis(1, 50);
        let accumulator = AccumulatorConfig {
            buffer_memory: (batches * batch_size.max(256)) as u64,
            batch_size,
            linger,
            backoff: Backoff { initial: backoff, max: backoff * draw.of(&[1, 4]) },
            delivery_timeout,
            seed: draw.below(u64::MAX),
            ..AccumulatorConfig::default()
        };
        Self {
            nodes: 1 + draw.below(3) as i32,
            partitions: 1 + draw.below(4) as i32,
            accumulator,
            sender,
            idempotent: wishes_idempotence,
            max_message_bytes: draw.of(&[usize::MAX, usize::MAX, usize::MAX, 110, 200]),
            appenders: (0..1 + draw.below(4)).map(|_| draw.chance(40)).collect(),
            latency: draw.of(&[100, 2_000, 20_000]),
            says_duplicate: draw.chance(30),
            ghosts: !wishes_idempotence && draw.chance(50),
        }
    }

    /// How long it may take until all that was appended has been sent and answered, once nothing goes wrong any more: a round trip for each of sixty batches, what is still waited for, backoffs. `None` where requests
    /// may time out although nothing goes wrong.
    pub(super) fn settles(&self) -> Option<Duration> {
        // Two ways of at most twice the mean, behind four others and an answer of theirs.
        let round = Duration::from_micros(20 * self.latency);
        let waits = 4 * self.sender.request_timeout + 8 * self.accumulator.backoff.max;
        (self.sender.request_timeout > round && self.max_message_bytes == usize::MAX)
            .then(|| Duration::from_secs(1) + 60 * round + waits)
    }

    /// Whether what was put in first must come out first, over retries too (L6).
    pub(super) fn keeps_order(&self) -> bool {
        self.idempotent || self.sender.guarantee_order || self.sender.max_in_flight == 1
    }
}

impl Effect {
    fn draw(draw: &mut Draw, grim: bool, horizon: u64) -> Self {
        match draw.below(if grim { 17 } else { 15 }) {
            0 | 1 => Self::Slow(draw.millis(0, 2 * horizon)),
            2 => Self::Late(draw.millis(0, 2 * horizon)),
            3 | 4 => Self::LoseRequest,
            5 | 6 => Self::LoseResponse,
            7 => Self::DisconnectBefore,
            8 => Self::DisconnectAfter,
            9 => Self::Refuse,
            10 => Self::Throttle(draw.millis(0, horizon)),
            11 => Self::Unmentioned { written: draw.chance(50) },
            15 => Self::InvalidRecords,
            16 if draw.chance(15) => Self::UnsupportedVersion,
            _ => {
                let (code, written) = code(draw, grim);
                Self::Error { code, written }
            }
        }
    }
}
