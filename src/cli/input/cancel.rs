//! Ending an input from outside, also one that waits for data that does not come.
//!
//! A pipe or a terminal is read on a thread of its own, one read for each that is asked for. Whoever asked waits for
//! the answer or for the [`Cancel`], whichever comes first. After a cancel the thread may stay in its read for ever; it
//! holds nothing that anybody waits for, and ends with the program.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use parking_lot::Mutex;

use crate::primitive::atomic::AtomicBool;
use crate::primitive::atomic::Ordering::Relaxed;

/// The length of one read, in bytes.
const CHUNK: usize = 64 << 10;

/// Ends the inputs that were opened with it. Clones are the same one.
#[derive(Clone, Default)]
pub struct Cancel(Arc<Shared>);

struct Shared {
    asked: AtomicBool,
    /// Whoever may wait for data.
    waiting: Mutex<Vec<Sender<Answer>>>,
}

impl Default for Shared {
    fn default() -> Self {
        Self { asked: AtomicBool::new(false), waiting: Mutex::default() }
    }
}

impl Cancel {
    /// Ends them. Never waits.
    pub fn cancel(&self) {
        // Relaxed: the flag orders nothing; who is about to wait registers under the lock and looks again.
        self.0.asked.store(true, Relaxed);
        for waiting in self.0.waiting.lock().drain(..) {
            // One that is gone does not wait.
            let _ = waiting.send(Answer::Cancelled);
        }
    }

    /// Whether they have been ended.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        // Relaxed: see `cancel`.
        self.0.asked.load(Relaxed)
    }
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cancel").field(&self.is_cancelled()).finish()
    }
}

enum Answer {
    /// The buffer, and how much of it was filled.
    Read(Vec<u8>, io::Result<usize>),
    Cancelled,
}

/// A reader whose reads a [`Cancel`] ends, with an error.
pub(super) struct Cancellable {
    cancel: Cancel,
    /// The reader, until the first read.
    inner: Option<Box<dyn Read + Send>>,
    /// The way to the thread that reads, from the first read on.
    thread: Option<(Sender<Vec<u8>>, Receiver<Answer>)>,
    buffer: Vec<u8>,
    /// What of the buffer was read and not yet handed on.
    left: std::ops::Range<usize>,
}

impl Cancellable {
    pub(super) fn new(inner: Box<dyn Read + Send>, cancel: Cancel) -> Self {
        Self { cancel, inner: Some(inner), thread: None, buffer: Vec::new(), left: 0..0 }
    }

    /// Starts the thread that reads.
    fn start(&mut self, mut inner: Box<dyn Read + Send>) -> io::Result<()> {
        let (requests, asked) = channel::<Vec<u8>>();
        let (answers, answered) = channel();
        self.cancel.0.waiting.lock().push(answers.clone());
        thread::Builder::new().name("input".to_owned()).spawn(move || {
            for mut buffer in asked {
                let read = inner.read(&mut buffer);
                if answers.send(Answer::Read(buffer, read)).is_err() {
                    return;
                }
            }
        })?;
        self.buffer.resize(CHUNK, 0);
        self.thread = Some((requests, answered));
        Ok(())
    }
}

impl Read for Cancellable {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.left.is_empty() {
            if let Some(inner) = self.inner.take() {
                self.start(inner)?;
            }
            let gone = || io::Error::other("the thread that reads is gone");
            let cancelled = || io::Error::other("cancelled");
            let (requests, answers) = self.thread.as_ref().ok_or_else(gone)?;
            if self.cancel.is_cancelled() {
                return Err(cancelled());
            }
            requests.send(std::mem::take(&mut self.buffer)).map_err(|_| gone())?;
            let Answer::Read(buffer, read) = answers.recv().map_err(|_| gone())? else {
                return Err(cancelled());
            };
            self.buffer = buffer;
            self.left = 0..read?;
        }
        let len = self.left.len().min(out.len());
        out[..len].copy_from_slice(&self.buffer[self.left.start..][..len]);
        self.left.start += len;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives what is sent to it, and waits where nothing is.
    struct Slow(Receiver<&'static [u8]>);

    impl Read for Slow {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let Ok(bytes) = self.0.recv() else { return Ok(0) };
            out[..bytes.len()].copy_from_slice(bytes);
            Ok(bytes.len())
        }
    }

    fn slow() -> (Sender<&'static [u8]>, Cancel, Cancellable) {
        let (typed, slow) = channel();
        let cancel = Cancel::default();
        (typed, cancel.clone(), Cancellable::new(Box::new(Slow(slow)), cancel))
    }

    #[test]
    fn what_is_read_comes_in_order_whatever_room_there_is() {
        let (typed, _, mut reader) = slow();
        for bytes in [&b"abc"[..], b"d", b"ef"] {
            typed.send(bytes).unwrap();
        }
        drop(typed);
        let mut all = Vec::new();
        let mut room = [0; 2];
        loop {
            match reader.read(&mut room).unwrap() {
                0 => break,
                len => all.extend_from_slice(&room[..len]),
            }
        }
        assert_eq!(all, b"abcdef");
    }

    #[test]
    fn a_read_that_waits_ends_with_the_cancel() {
        let (typed, cancel, mut reader) = slow();
        typed.send(b"a").unwrap();
        assert_eq!(reader.read(&mut [0; 8]).unwrap(), 1);
        thread::scope(|scope| {
            let waiting = scope.spawn(move || reader.read(&mut [0; 8]).is_err());
            cancel.cancel();
            assert!(waiting.join().unwrap());
        });
        drop(typed);
    }

    #[test]
    fn a_cancel_before_the_first_read_counts() {
        let (typed, cancel, mut reader) = slow();
        cancel.cancel();
        assert!(reader.read(&mut [0; 8]).is_err());
        drop(typed);
    }
}
