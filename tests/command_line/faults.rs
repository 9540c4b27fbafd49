//! `compare --faults`: whatever the broker does wrong, each core's records are in the log once, in order; and what it did wrong is said.

use std::fs;

use serde_json::Value;

use crate::support::{Dir, run};

const CORES: [&str; 3] = ["lockfree", "mutex", "mutex-parking-lot"];
/// Every core with these faults: its object, after a clean verdict. Batches are small, so that few records are many requests.
fn survived(faults: &str, more: &[&str]) -> Value {
    survived_with(2000, "2KiB", faults, more)
}

fn survived_with(records: u32, batch_size: &str, faults: &str, more: &[&str]) -> Value {
    let dir = Dir::new();
    let json = dir.text("out.json");
    let small = [
        "--records",
        &records.to_string(),
        "--rounds",
        "1",
        "--threads",
        "2",
        "--linger-ms",
        "0",
        "--batch-size",
        batch_size,
    ];
    let args = [&["compare", "--json", &json, "--faults", faults][..], &small, more].concat();
    let text = run(&args).ok().text();
    assert!(text.ends_with(", lost 0, duplicated 0, out of order 0\n"), "{faults}: {text}");
    let object: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    assert_eq!(object["records_read_back"].as_u64(), Some(3 * u64::from(records)), "{faults}: {text}");
    let cores = object["cores"].as_array().unwrap();
    assert_eq!(cores.iter().map(|core| core["core"].as_str().unwrap()).collect::<Vec<_>>(), CORES);
    for core in cores {
        let met: Vec<_> = core["faults"].as_object().unwrap().iter().map(|(kind, n)| format!("{kind} {n}")).collect();
        let line = format!("{} met {}; ", core["core"].as_str().unwrap(), met.join(", "));
        assert!(text.contains(&line), "{line:?} is not in {text}");
    }
    object
}

/// How often each core met `kind`, and what all of them did.
fn counts(object: &Value, kind: &str) -> Vec<u64> {
    let count = |object: &Value| object["faults"][kind].as_u64().unwrap_or_else(|| panic!("no {kind} in {object}"));
    let of_cores: Vec<u64> = object["cores"].as_array().unwrap().iter().map(count).collect();
    assert_eq!(count(object), of_cores.iter().sum::<u64>(), "{object}");
    of_cores
}

/// That each core met it, and sent again what it had to.
fn each_core_meets(kind: &str, rate: &str, sends_again: bool) {
    let object = survived(&format!("{kind}={rate}"), &[]);
    assert!(counts(&object, kind).iter().all(|count| *count > 0), "{object}");
    for core in object["cores"].as_array().unwrap() {
        assert_eq!(core["retried"].as_u64().unwrap() > 0, sends_again, "{core}");
    }
}

#[test]
fn slow_answers_are_waited_for() {
    each_core_meets("slow", "0.3", false);
}

#[test]
fn lost_answers_are_asked_for_again_and_written_once() {
    each_core_meets("drop-response", "0.05", true);
}

#[test]
fn broken_connections_lose_and_double_nothing() {
    each_core_meets("disconnect", "0.1", true);
}

#[test]
fn leaders_that_move_are_followed() {
    each_core_meets("leader-move", "0.1", true);
}

#[test]
fn nodes_that_restart_are_waited_for() {
    each_core_meets("restart", "0.1", true);
}

#[test]
fn every_code_that_may_be_given_is_survived() {
    let said = run(&["compare", "--faults", "error:?"]).refused(2);
    let (_, codes) = said.trim_end().split_once("no such code: ?; there are ").expect("a list of them");
    let codes: Vec<&str> = codes.split(", ").collect();
    assert_eq!(codes.len(), 14, "{codes:?}");
    for code in ["NOT_LEADER_OR_FOLLOWER", "OUT_OF_ORDER_SEQUENCE_NUMBER", "UNKNOWN_PRODUCER_ID"] {
        each_core_meets(&format!("error:{code}"), "0.1", true);
    }
    let all: Vec<String> = codes.iter().map(|code| format!("error:{code}=0.06")).collect();
    let object = survived(&all.join(","), &[]);
    for code in codes {
        assert!(counts(&object, &format!("error:{code}")).iter().sum::<u64>() > 0, "{code}: {object}");
    }
}

#[test]
fn all_at_once_are_survived_whatever_the_seed_the_storage_and_the_codec() {
    let faults = "slow=0.1,error:not_enough_replicas=0.1,error:NOT_ENOUGH_REPLICAS_AFTER_APPEND=0.1,drop-response=0.02,\
                  disconnect=0.05,leader-move=0.05,restart=0.02";
    for more in [&["--seed", "7"][..], &["--broker", "memory", "--compression-type", "lz4"]] {
        let object = survived(faults, more);
        let seven = object["faults"].as_object().unwrap();
        assert_eq!(seven.len(), 7, "{object}");
        assert!(seven.values().map(|count| count.as_u64().unwrap()).sum::<u64>() > 20, "{object}");
    }
}

#[test]
fn a_seed_draws_the_same_for_every_core_and_another_something_else() {
    // A request for each record, and none again: as many draws, whoever runs.
    let drawn = |seed| {
        let counts = counts(&survived_with(150, "0", "slow=0.5", &["--partitions", "1", "--seed", seed]), "slow");
        assert!(counts[0] > 0 && counts.iter().all(|count| *count == counts[0]), "{counts:?}");
        counts[0]
    };
    assert_eq!(drawn("3"), drawn("3"));
    assert_ne!(drawn("3"), drawn("4"));
}

#[test]
fn a_rate_of_nothing_is_nothing_and_without_faults_nothing_is_said_of_them() {
    let quiet = survived("disconnect=0,slow=0", &[]);
    assert_eq!((counts(&quiet, "disconnect"), counts(&quiet, "slow")), (vec![0; 3], vec![0; 3]));
    let none = run(&["compare", "--records", "10", "--rounds", "1", "--core", "mutex"]).ok().text();
    assert!(!none.contains(" met "), "{none}");
}

#[test]
fn what_cannot_be_promised_is_refused_before_anything_is_run() {
    for (args, says) in [
        (
            &["--faults", "fire"][..],
            "no such kind: fire; there are slow, drop-response, disconnect, leader-move, restart, error:CODE",
        ),
        (&["--faults", "slow,fire=1"], "no such kind: fire"),
        (&["--faults", "error:fire"], "no such code: fire; there are CORRUPT_MESSAGE, "),
        (
            &["--faults", "error:MESSAGE_TOO_LARGE"],
            "records may fail by MESSAGE_TOO_LARGE; there are CORRUPT_MESSAGE, ",
        ),
        (&["--faults", "slow=1.5"], "the rate of slow is a number from 0 to 1"),
        (&["--faults", "slow=-0.5"], "the rate of slow is a number from 0 to 1"),
        (&["--faults", "restart,slow,restart=1"], "--faults has restart twice"),
        (&["--faults", "slow", "--acks", "0"], "--faults with --acks 0: what a faulty broker loses is lost"),
        (&["--faults", "slow", "--acks", "1"], "only --acks all is idempotent"),
        (&["--acks", "0"], "without offsets in answers nothing can be found again"),
        (&["--acks", "2"], "give all, 1 or 0"),
        (&["--seed", "1"], "--faults"),
    ] {
        let said = run(&[&["compare"], args].concat()).refused(2);
        assert!(said.contains(says), "{args:?}: {said}");
    }
    let text = run(&["compare", "--acks", "1", "--records", "100", "--rounds", "1", "--core", "mutex"]).ok().text();
    assert!(text.ends_with("found again 100 of 100, lost 0, duplicated 0, out of order 0\n"), "{text}");
}
