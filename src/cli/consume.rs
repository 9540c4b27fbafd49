//! `unlatched consume`: the records of a topic in a log directory, one a line.

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use super::args::ConsumeArgs;
use crate::broker::embedded::{Consumer, ReadError};

/// Prints the values of a topic's records.
pub(super) fn run(args: &ConsumeArgs) -> Result<ExitCode> {
    let consumer = Consumer::open(&args.log_dir, &args.topic)?;
    let partitions = match args.partition {
        Some(one) if one >= consumer.partitions() => {
            bail!("{} has partitions 0 to {}, and no {one}", args.topic, consumer.partitions() - 1)
        }
        Some(one) => one..one + 1,
        None => 0..consumer.partitions(),
    };
    let mut out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let mut status = ExitCode::SUCCESS;
    for partition in partitions {
        // Whatever a producer was allowed to put into a batch, it can be read.
        let records = match consumer.batches(partition, 0) {
            Ok(batches) => batches.max_uncompressed_bytes(i32::MAX as usize).records(),
            Err(error) => {
                status = damaged(&error);
                continue;
            }
        };
        for record in records {
            // What is whole in front of the damage was printed; the other partitions may be whole altogether.
            let record = match record {
                Ok(record) => record,
                Err(error) => {
                    status = damaged(&error);
                    break;
                }
            };
            let value = record.value.as_deref().unwrap_or_default();
            if !print(out.write_all(value).and_then(|()| out.write_all(b"\n")))? {
                return Ok(status);
            }
        }
    }
    print(out.flush())?;
    Ok(status)
}

/// Says what is wrong with a log.
fn damaged(error: &ReadError) -> ExitCode {
    super::note(format_args!("error: {error}"));
    ExitCode::FAILURE
}

/// Whether anybody still reads.
fn print(written: io::Result<()>) -> Result<bool> {
    super::has_reader(written).context("cannot write to standard output")
}
