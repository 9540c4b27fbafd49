#![no_main]
use libfuzzer_sys::fuzz_target;
use unlatched::record::Codec;

fuzz_target!(
    init: unlatched_fuzz::seeds::decode(Codec::None),
    |data: &[u8]| unlatched_fuzz::decode::run(Codec::None, data)
);
