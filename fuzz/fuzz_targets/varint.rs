#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: unlatched_fuzz::seeds::varint(),
    |data: &[u8]| unlatched_fuzz::varint::run(data)
);
