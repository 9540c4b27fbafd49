//! What is to go wrong in a comparison: `--faults KIND[=RATE],...`.
//!
//! Every kind is one that a sender survives: what it accepted is written once, in order, however often it is sent. Codes that rightly fail a record are therefore none of them. What may happen before or after the
//! batches were written happens so in turn, by a draw: the producer cannot tell, and must not need to.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::broker::embedded::{Fault, Faults, Struck};
use crate::broker::{ErrorCode, Fate};

/// Nodes of the broker's.
pub(super) const NODES: i32 = 3;
/// How long the producer waits for an answer: a lost one is to cost less than Kafka's 30 seconds.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_millis(500);
/// How much later an answer comes.
const SLOW: Duration = Duration::from_millis(20);
/// How long a node is away.
const DOWNTIME: Duration = Duration::from_millis(50);
const ERROR: &str = "error:";
/// Of `error:CODE`, for a batch.
const ERROR_RATE: f64 = 0.05;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An answer comes late.
    Slow,
    /// A batch is answered with this code.
    Error(ErrorCode),
    /// A request is handled, and its answer lost.
    DropResponse,
    /// A connection breaks.
    Disconnect,
    /// A partition gets another leader.
    LeaderMove,
    /// A node is restarted.
    Restart,
}

/// Kinds without a parameter: name, default rate for a request, what happens.
const KINDS: &[(Kind, &str, f64, &str)] = &[
    (Kind::Slow, "slow", 0.05, "an answer comes 20 ms later, and others overtake it"),
    (Kind::DropResponse, "drop-response", 0.01, "a request is handled and its answer lost"),
    (Kind::Disconnect, "disconnect", 0.01, "a connection breaks, before or after the request was handled"),
    (Kind::LeaderMove, "leader-move", 0.01, "a partition gets another leader as a request for it comes in"),
    (Kind::Restart, "restart", 0.005, "a node breaks its connections and is away for 50 ms"),
];

/// Codes that a sender answers with another attempt, whatever the batch.
fn codes() -> impl Iterator<Item = ErrorCode> {
    let again = [ErrorCode::OutOfOrderSequenceNumber, ErrorCode::UnknownProducerId];
    ErrorCode::all().filter(move |code| code.is_retriable() || again.contains(code))
}

fn listed(names: impl IntoIterator<Item = impl fmt::Display>) -> String {
    names.into_iter().map(|name| name.to_string()).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(code) => write!(f, "{ERROR}{code}"),
            named => f.write_str(KINDS.iter().find(|row| row.0 == *named).map_or("?", |row| row.1)),
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(name) = text.strip_prefix(ERROR) {
            let found = codes().find(|code| code.to_string().eq_ignore_ascii_case(name));
            return found.map(Self::Error).ok_or_else(|| {
                match ErrorCode::all().find(|code| code.to_string() == name) {
                    Some(code) => format!("records may fail by {code}; there are {}", listed(codes())),
                    None => format!("no such code: {name}; there are {}", listed(codes())),
                }
            });
        }
        let found = KINDS.iter().find(|row| row.1 == text);
        found.map(|row| row.0).ok_or_else(|| {
            let names = KINDS.iter().map(|row| row.1).chain(["error:CODE"]);
            format!("no such kind: {text}; there are {}", listed(names))
        })
    }
}

/// What is to go wrong, and how often: the probability for a request, of an error that for a batch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FaultRate {
    /// What.
    pub kind: Kind,
    /// How often.
    pub rate: f64,
}

impl FromStr for FaultRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, rate) = text.split_once('=').map_or((text, None), |(kind, rate)| (kind, Some(rate)));
        let kind: Kind = kind.parse()?;
        let default = KINDS.iter().find(|row| row.0 == kind).map_or(ERROR_RATE, |row| row.2);
        let in_range = |rate: &f64| (0.0..=1.0).contains(rate);
        let wrong = || format!("the rate of {kind} is a number from 0 to 1");
        let rate = rate.map_or(Ok(default), |rate| rate.parse().ok().filter(in_range).ok_or_else(wrong))?;
        Ok(Self { kind, rate })
    }
}

impl fmt::Display for FaultRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.kind, self.rate)
    }
}

impl TryFrom<String> for FaultRate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<FaultRate> for String {
    fn from(fault: FaultRate) -> Self {
        fault.to_string()
    }
}

/// For a help text, a line each.
pub(super) fn help() -> String {
    let mut help = "What the broker does wrong: KIND or KIND=RATE, several with commas; it has 3 nodes then, and an answer 500 ms.\n\n\
                    RATE is the probability for a request (of an error: for a batch), from 0 to 1; one request has one of these and perhaps errors. All of them \
                    are survived: the verdict is that of a faultless broker."
        .to_owned();
    for (_, name, rate, about) in KINDS {
        help += &format!("\n- {name} (default {rate}): {about}");
    }
    help + &format!("\n- error:CODE (default {ERROR_RATE}): a batch is answered so; CODE is one of {}", listed(codes()))
}

/// Counts of what was injected, by kind.
pub(super) type Counts = BTreeMap<String, u64>;

/// What was injected, and counts how often it struck.
#[derive(Debug)]
pub(super) struct Injected(Vec<(Kind, Vec<Struck>)>);

impl Injected {
    /// Tells the broker.
    pub(super) fn new(faults: &Faults, rates: &[FaultRate]) -> Self {
        let inject = |&FaultRate { kind, rate }: &FaultRate| {
            let once = |fault: Fault| vec![faults.inject(fault.rate(rate))];
            // One of the two, and both together as often as told: the second is drawn for what the first has spared.
            let half = rate / 2.0;
            let either = |fault: Fault| {
                let after = fault.clone().after_writing().rate(half / (1.0 - half));
                vec![faults.inject(fault.rate(half)), faults.inject(after)]
            };
            let struck = match kind {
                Kind::Slow => once(Fault::delay(SLOW)),
                Kind::Error(code) if code.fate() == Fate::Unknown => either(Fault::fail(code)),
                Kind::Error(code) => once(Fault::fail(code)),
                Kind::DropResponse => once(Fault::lose_response()),
                Kind::Disconnect => either(Fault::disconnect()),
                Kind::LeaderMove => once(Fault::move_leader()),
                Kind::Restart => once(Fault::restart(DOWNTIME)),
            };
            (kind, struck)
        };
        Self(rates.iter().map(inject).collect())
    }

    /// How often each has struck.
    pub(super) fn counts(&self) -> Counts {
        let sum = |struck: &[Struck]| struck.iter().map(Struck::count).sum();
        self.0.iter().map(|(kind, struck)| (kind.to_string(), sum(struck))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<FaultRate, String> {
        text.parse()
    }

    #[test]
    fn a_fault_is_a_kind_and_perhaps_a_rate() {
        assert_eq!(parse("slow"), Ok(FaultRate { kind: Kind::Slow, rate: 0.05 }));
        assert_eq!(parse("restart=1"), Ok(FaultRate { kind: Kind::Restart, rate: 1.0 }));
        let error = Kind::Error(ErrorCode::NotLeaderOrFollower);
        assert_eq!(parse("error:not_leader_or_follower=0.25"), Ok(FaultRate { kind: error, rate: 0.25 }));
        for text in KINDS.iter().map(|row| row.1.to_owned()).chain(codes().map(|code| format!("error:{code}=0.5"))) {
            let fault = parse(&text).unwrap();
            assert_eq!(parse(&fault.to_string()), Ok(fault), "{text}");
        }
    }

    #[test]
    fn what_is_no_fault_is_refused_by_name_with_those_that_are() {
        let kinds = "there are slow, drop-response, disconnect, leader-move, restart, error:CODE";
        assert_eq!(parse("fire"), Err(format!("no such kind: fire; {kinds}")));
        assert_eq!(parse(""), Err(format!("no such kind: ; {kinds}")));
        let said = parse("error:BROKEN").unwrap_err();
        assert!(said.starts_with("no such code: BROKEN; there are CORRUPT_MESSAGE, "), "{said}");
        assert!(codes().all(|code| said.contains(&code.to_string())), "{said}");
        for fatal in ["NONE", "MESSAGE_TOO_LARGE", "TOPIC_AUTHORIZATION_FAILED", "DUPLICATE_SEQUENCE_NUMBER"] {
            let said = parse(&format!("error:{fatal}")).unwrap_err();
            assert!(said.starts_with(&format!("records may fail by {fatal}; there are CORRUPT_MESSAGE")), "{said}");
        }
        for rate in ["1.01", "-0.1", "NaN", "inf", "", "half", "0.1=0.2"] {
            assert_eq!(
                parse(&format!("slow={rate}")),
                Err("the rate of slow is a number from 0 to 1".into()),
                "{rate}"
            );
        }
    }

    #[test]
    fn what_may_happen_before_or_after_the_writing_does_both_and_as_often_as_told() {
        use crate::broker::embedded::EmbeddedBroker;
        use crate::error::TopicPartition;
        use crate::mutex::StdAccumulator;
        use crate::producer::{Producer, ProducerConfig};
        use crate::record::Record;

        let again = FaultRate { kind: Kind::Error(ErrorCode::NotEnoughReplicasAfterAppend), rate: 1.0 };
        for rate in [again, FaultRate { kind: Kind::Disconnect, rate: 1.0 }] {
            let broker = EmbeddedBroker::builder().seed(3).reconnect_backoff(Duration::from_millis(1)).open().unwrap();
            broker.create_topic("t", 1).unwrap();
            let injected = Injected::new(broker.faults(), &[rate]);
            let mut config = ProducerConfig::default();
            (config.sender.retries, config.sender.enable_idempotence) = (0, Some(false));
            config.accumulator.linger = Duration::ZERO;
            let producer = Producer::<StdAccumulator>::start(config, broker.connect().unwrap()).unwrap();
            let at = TopicPartition::new("t", 0);
            let partition = producer.partition(&at);
            for number in 0..64 {
                let sent = producer.send(&partition, Record { value: Some(b"v"), ..Record::default() }).unwrap();
                assert!(sent.wait().is_err(), "{rate}: {number}");
            }
            let written = broker.end_offset(&at).unwrap();
            assert!((10..54).contains(&written), "{rate}: {written}");
            assert_eq!(injected.counts(), Counts::from([(rate.kind.to_string(), 64)]));
        }
    }

    #[test]
    fn the_help_says_what_is_done() {
        let help = help();
        for said in [
            format!("{NODES} nodes"),
            format!("an answer {} ms", REQUEST_TIMEOUT.as_millis()),
            format!("comes {} ms later", SLOW.as_millis()),
            format!("away for {} ms", DOWNTIME.as_millis()),
        ] {
            assert!(help.contains(&said), "{said:?} is missing:\n{help}");
        }
        for kind in KINDS {
            assert!(help.contains(&format!("- {} (default {})", kind.1, kind.2)), "{help}");
        }
    }
}
