#![no_main]

use libfuzzer_sys::fuzz_target;
use unlatched::record::Codec;
use unlatched_fuzz::Target;

const TARGET: Target = Target::Decode(Codec::Gzip);

fuzz_target!(init: TARGET.seed(), |data: &[u8]| TARGET.run(data));
