//! What the fuzz targets do with the bytes that they are given is in `tests/fuzz`, where `cargo test` does the same with the seeds. `fuzz/run` builds and starts the targets.
#![allow(dead_code)]

#[path = "../../tests/fuzz/compression_name.rs"]
mod compression_name;
#[path = "../../tests/fuzz/decode.rs"]
mod decode;
#[path = "../../tests/fuzz/log_recovery.rs"]
mod log_recovery;
#[cfg_attr(unlatched_count, path = "../../tests/fuzz/memory.rs")]
mod memory;
#[path = "../../tests/fuzz/seeds.rs"]
mod seeds;
#[path = "../../tests/fuzz/varint.rs"]
mod varint;

use std::fs;
use std::path::Path;

use unlatched::record::Codec;

/// A target: where it begins, and what it does.
pub enum Target {
    Decode(Codec),
    LogRecovery,
    Varint,
    CompressionName,
}

impl Target {
    /// Writes its seeds into the folder that `UNLATCHED_SEEDS` names, before the fuzzer looks there.
    pub fn seed(&self) {
        let Some(directory) = std::env::var_os("UNLATCHED_SEEDS") else { return };
        fs::create_dir_all(&directory).expect("a place for seeds");
        let seeds = match self {
            Self::Decode(codec) => seeds::decode(*codec),
            Self::LogRecovery => seeds::log_recovery(),
            Self::Varint => seeds::varint(),
            Self::CompressionName => seeds::compression_name(),
        };
        for (name, bytes) in seeds {
            fs::write(Path::new(&directory).join(name), bytes).expect("a place for a seed");
        }
    }

    /// Does with `data` what it is for.
    pub fn run(&self, data: &[u8]) {
        match self {
            Self::Decode(codec) => decode::run(*codec, data),
            Self::LogRecovery => log_recovery::run(data),
            Self::Varint => varint::run(data),
            Self::CompressionName => compression_name::run(data),
        }
    }
}
