//! What the fuzz targets do with the bytes that they are given. `fuzz/run` builds and starts them.

pub mod compression_name;
pub mod decode;
pub mod log_recovery;
pub mod memory;
pub mod seeds;
pub mod varint;
