#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: unlatched_fuzz::seeds::log_recovery(),
    |data: &[u8]| unlatched_fuzz::log_recovery::run(data)
);
