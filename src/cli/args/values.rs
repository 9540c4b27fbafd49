//! The values of single arguments: what is accepted, and the words that refuse the rest.

use std::fmt;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use clap::builder::PossibleValuesParser;
use serde::{Deserialize, Serialize};

use crate::bench::SUITES;
use crate::broker::Acks;

/// An implementation of the producer's memory path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Core {
    /// No locks on the way of a record.
    Lockfree,
    /// Kafka's own algorithm, on the standard library's mutex.
    Mutex,
    /// Kafka's own algorithm, on `parking_lot`'s mutex.
    MutexParkingLot,
}

/// A line of [`CORES`].
#[derive(Clone, Copy, Debug)]
pub struct CoreInfo {
    /// The core.
    pub core: Core,
    /// What the command line calls it.
    pub name: &'static str,
    /// What it is, in half a line.
    pub about: &'static str,
}

/// Every core, in the order in which `compare` shows them. The first one is the default of `produce`.
pub const CORES: &[CoreInfo] = &[
    CoreInfo { core: Core::Lockfree, name: "lockfree", about: "no locks on the way of a record" },
    CoreInfo { core: Core::Mutex, name: "mutex", about: "Kafka's own algorithm, std's mutex" },
    CoreInfo {
        core: Core::MutexParkingLot,
        name: "mutex-parking-lot",
        about: "Kafka's own algorithm, parking_lot's mutex",
    },
];

impl Core {
    /// What the command line calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        CORES.iter().find(|info| info.core == self).map_or("?", |info| info.name)
    }
}

impl fmt::Display for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The cores that `compare` runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CoreChoice {
    /// All.
    All,
    /// This one.
    One(Core),
}

impl CoreChoice {
    /// The chosen cores, in the order of [`CORES`].
    pub fn cores(self) -> impl Iterator<Item = Core> {
        CORES.iter().map(|info| info.core).filter(move |&core| match self {
            Self::All => true,
            Self::One(one) => one == core,
        })
    }
}

/// No core has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such core; there are {available}")]
pub struct CoreError {
    /// The names of those that there are.
    pub available: String,
}

/// The core of this name.
///
/// # Errors
///
/// If there is none.
pub fn find_core(name: &str) -> Result<Core, CoreError> {
    let found = CORES.iter().find(|info| info.name == name);
    found.map(|info| info.core).ok_or_else(|| CoreError { available: names() })
}

fn names() -> String {
    CORES.iter().map(|info| info.name).collect::<Vec<_>>().join(", ")
}

pub(super) fn core_choice(text: &str) -> Result<CoreChoice, CoreError> {
    if text == "all" {
        return Ok(CoreChoice::All);
    }
    let with_all = |error: CoreError| CoreError { available: error.available + ", all" };
    find_core(text).map(CoreChoice::One).map_err(with_all)
}

pub(super) fn one_core(text: &str) -> Result<Core, CoreError> {
    find_core(text)
}

pub(super) fn first_core() -> Core {
    CORES[0].core
}

/// The cores for a help text, in one line.
pub(super) fn core_help(all: bool) -> String {
    let names = names();
    if all { format!("Core to run: one of {names}, or all") } else { format!("Core to send with: one of {names}") }
}

/// The cores for a help text, a line each.
pub(super) fn core_long_help(all: bool) -> String {
    let mut help = if all { "Core to run:" } else { "Core to send with:" }.to_owned();
    for info in CORES {
        help.push_str(&format!("\n- {}: {}", info.name, info.about));
    }
    if all {
        help.push_str("\n- all: one after the other");
    }
    help
}

/// Seeds as `A..B`.
#[cfg(feature = "testing")]
pub(super) fn seeds(text: &str) -> Result<std::ops::Range<u64>, String> {
    let bounds = text.split_once("..").and_then(|(from, to)| Some(from.trim().parse().ok()?..to.trim().parse().ok()?));
    bounds
        .filter(|seeds| seeds.start < seeds.end)
        .ok_or_else(|| "seeds are A..B, with A below B, as in 0..10000".to_owned())
}

/// Numbers as `3,7-9`; none if empty.
#[cfg(feature = "testing")]
pub(super) fn numbers(text: &str) -> Result<std::collections::BTreeSet<usize>, String> {
    let mut numbers = std::collections::BTreeSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let bounds = first.parse::<usize>().ok().zip(last.parse().ok());
        let Some((first, last)) = bounds.filter(|(first, last)| first <= last && *last < 10_000) else {
            return Err("numbers are N or N-M below 10000, N not above M, with commas between, as in 3,7-9".to_owned());
        };
        numbers.extend(first..=last);
    }
    Ok(numbers)
}

/// The name of a suite.
pub(super) fn suite() -> PossibleValuesParser {
    PossibleValuesParser::new(SUITES.iter().map(|suite| suite.name))
}

/// The suites for a help text, a line each.
pub(super) fn suite_help() -> String {
    let mut help = "Suite to run; may be given several times:".to_owned();
    for suite in SUITES {
        help.push_str(&format!("\n- {}: {}", suite.name, suite.about));
    }
    help
}

/// A name that Kafka would not take for a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Nothing at all.
    #[error("a topic's name cannot be empty")]
    Empty,
    /// `.` or `..`.
    #[error("a topic cannot be named . or ..")]
    Dots,
    /// More than 249 characters.
    #[error("a topic's name has 249 characters at most, not {0}")]
    TooLong(usize),
    /// A character that is not allowed.
    #[error("a topic's name has only the characters a-z A-Z 0-9 . _ -, not {0:?}")]
    Character(char),
}

/// Checks a topic's name by Kafka's rule.
///
/// Source: Kafka's `Topic.validate`.
///
/// # Errors
///
/// If the name is empty, `.`, `..`, longer than 249 characters, or has a character other than `a-z A-Z 0-9 . _ -`.
pub fn validate_topic(name: &str) -> Result<(), TopicError> {
    const LONGEST: usize = 249;
    if name.is_empty() {
        return Err(TopicError::Empty);
    }
    if matches!(name, "." | "..") {
        return Err(TopicError::Dots);
    }
    if let Some(wrong) = name.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))) {
        return Err(TopicError::Character(wrong));
    }
    if name.len() > LONGEST {
        return Err(TopicError::TooLong(name.len()));
    }
    Ok(())
}

pub(super) fn topic(text: &str) -> Result<String, TopicError> {
    validate_topic(text).map(|()| text.to_owned())
}

/// A whole number from `least` to `most`.
fn number(text: &str, least: u64, most: u64) -> Result<u64, String> {
    text.parse()
        .ok()
        .filter(|n| (least..=most).contains(n) && text.bytes().all(|b| b.is_ascii_digit()))
        .ok_or_else(|| format!("give a whole number from {least} to {most}"))
}

pub(super) fn threads(text: &str) -> Result<usize, String> {
    number(text, 1, 1024).map(|n| n as usize)
}

pub(super) fn partitions(text: &str) -> Result<i32, String> {
    number(text, 1, 100_000).map(|n| n as i32)
}

pub(super) fn partition(text: &str) -> Result<i32, String> {
    number(text, 0, 99_999).map(|n| n as i32)
}

pub(super) fn rounds(text: &str) -> Result<u32, String> {
    number(text, 1, 1000).map(|n| n as u32)
}

pub(super) fn linger_ms(text: &str) -> Result<u32, String> {
    number(text, 0, i32::MAX as u64).map(|n| n as u32).map_err(|says| says + ", in milliseconds")
}

/// Digits, and the unit behind them. `_` may stand between digits.
fn split(text: &str) -> Option<(u64, &str)> {
    let unit = text.find(|c: char| !(c.is_ascii_digit() || c == '_')).unwrap_or(text.len());
    let (digits, unit) = text.split_at(unit);
    if !digits.starts_with(|c: char| c.is_ascii_digit()) || digits.ends_with('_') {
        return None;
    }
    let digits: String = digits.chars().filter(|&c| c != '_').collect();
    // Digits alone can fail only by being too many.
    Some((digits.parse().unwrap_or(u64::MAX), unit.trim_start()))
}

/// A number of records.
pub(super) fn count(text: &str) -> Result<NonZeroU64, String> {
    let wrong = || "give a whole number above 0, such as 250000, 250k, 10M or 1G".to_owned();
    let (n, unit) = split(text).ok_or_else(wrong)?;
    let unit: u64 = match unit {
        "" => 1,
        "k" | "K" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        _ => return Err(wrong()),
    };
    let n = n.checked_mul(unit).filter(|&n| n < u64::MAX).ok_or("that is too large")?;
    NonZeroU64::new(n).ok_or_else(wrong)
}

/// A number of bytes from `least` to `most`.
fn size(text: &str, least: u64, most: u64) -> Result<u64, String> {
    let wrong = || "give a whole number of bytes, or one with KiB, MiB, GiB (1024) or kB, MB, GB (1000)".to_owned();
    let (n, unit) = split(text).ok_or_else(wrong)?;
    let unit: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return Err(wrong()),
    };
    let n = n.saturating_mul(unit);
    if (least..=most).contains(&n) { Ok(n) } else { Err(format!("give a size from {least} to {most} bytes")) }
}

pub(super) fn batch_size(text: &str) -> Result<usize, String> {
    size(text, 0, i32::MAX as u64).map(|n| n as usize)
}

pub(super) fn buffer_memory(text: &str) -> Result<u64, String> {
    size(text, 1, i64::MAX as u64)
}

pub(super) fn seconds(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|s: &f64| (0.001..=86_400.0).contains(s))
        .ok_or_else(|| "give a number of seconds from 0.001 to 86400".to_owned())
}

/// `acks`, by Kafka's words.
pub(super) fn acks(text: &str) -> Result<Acks, &'static str> {
    match text {
        "all" | "-1" => Ok(Acks::All),
        "1" => Ok(Acks::Leader),
        "0" => Ok(Acks::None),
        _ => Err("give all, 1 or 0"),
    }
}

/// `acks` as JSON has it: as the command line does.
pub(super) mod acks_text {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::broker::Acks;

    pub(crate) fn serialize<S: Serializer>(value: &Acks, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match value {
            Acks::All => "all",
            Acks::Leader => "1",
            Acks::None => "0",
        })
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Acks, D::Error> {
        super::acks(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// A compression as JSON has it: as the command line does.
pub(super) mod compression {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::record::codec::Compression;

    pub(crate) fn serialize<S: Serializer>(value: &Compression, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Compression, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A file that can be read once for every core.
pub(super) fn repeatable_file(path: PathBuf) -> Result<PathBuf, &'static str> {
    if path == Path::new("-") {
        return Err("each core reads the input anew, so it must be a file, not standard input");
    }
    Ok(path)
}
