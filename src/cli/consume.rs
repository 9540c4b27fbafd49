//! `unlatched consume`: the records of a topic in a log directory, one a line.

use std::io::{self, BufWriter, ErrorKind, Write};
use std::process::ExitCode;

use anyhow::{Result, bail};

use super::args::ConsumeArgs;
use crate::broker::embedded::Consumer;

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
    for partition in partitions {
        for record in consumer.records(partition, 0)? {
            let record = record.inspect_err(|_| {
                // What was whole before the damage is printed.
                let _ = out.flush();
            })?;
            let value = record.value.as_deref().unwrap_or_default();
            if let Some(status) = closed(out.write_all(value).and_then(|()| out.write_all(b"\n")))? {
                return Ok(status);
            }
        }
    }
    Ok(closed(out.flush())?.unwrap_or(ExitCode::SUCCESS))
}

/// A reader that has seen enough, such as `head`, is no failure.
fn closed(written: io::Result<()>) -> io::Result<Option<ExitCode>> {
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Some(ExitCode::SUCCESS)),
        other => other.map(|()| None),
    }
}
