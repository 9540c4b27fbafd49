#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: unlatched_fuzz::seeds::compression_name(),
    |data: &[u8]| unlatched_fuzz::compression_name::run(data)
);
