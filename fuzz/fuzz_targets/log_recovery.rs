#![no_main]

use libfuzzer_sys::fuzz_target;
use unlatched_fuzz::Target;

const TARGET: Target = Target::LogRecovery;

fuzz_target!(init: TARGET.seed(), |data: &[u8]| TARGET.run(data));
