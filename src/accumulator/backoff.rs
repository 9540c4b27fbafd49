//! Exponential backoff with jitter.

use std::time::Duration;

use crate::primitive::random::Random;

/// How long to wait before another attempt (ACC-24, CFG-09). Source: Kafka's `ExponentialBackoff`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// Before the first retry.
    pub initial: Duration,
    /// At most. If it is not above `initial`, every wait is `max`, without jitter.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { initial: Duration::from_millis(100), max: Duration::from_secs(1) }
    }
}

impl Backoff {
    /// Spread of the jitter, to either side.
    const JITTER: f64 = 0.2;

    /// The wait before the attempt that follows `attempts` failed ones, counted from 0:
    /// `min(max, initial x 2^min(attempts, log2(max / initial)) x U[0.8, 1.2))`.
    pub fn after(&self, attempts: u32, random: &mut Random) -> Duration {
        if self.max <= self.initial || self.initial.is_zero() {
            return self.initial.min(self.max);
        }
        let doublings = (self.max.as_secs_f64() / self.initial.as_secs_f64()).log2();
        let factor = 2f64.powf(f64::from(attempts).min(doublings));
        let jitter = 1.0 - Self::JITTER + 2.0 * Self::JITTER * random.unit();
        let seconds = self.initial.as_secs_f64() * factor * jitter;
        // Not `mul_f64`, which panics beyond what a duration holds.
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acc_24_no_configuration_makes_it_panic() {
        let mut random = Random::seeded(1);
        let tiny = Duration::from_nanos(1);
        for (initial, max) in [(tiny, Duration::MAX), (Duration::from_secs(1), Duration::MAX), (Duration::MAX, tiny)] {
            for attempts in [0, 1, 63, 64, 100, u32::MAX] {
                assert!(Backoff { initial, max }.after(attempts, &mut random) <= max);
            }
        }
    }
}
