//! ○ The one thread that writes, and what it shares with the workers.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::config::Output;

/// How long [`Handle::close`] waits for what is queued; a reader that stands still must not keep
/// the process from ending.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// A buffer that has grown beyond this for one huge line is not kept.
const KEEP_CAPACITY: usize = 128 * 1024;

/// Between tries where somebody made our standard output non-blocking.
const BLOCKED_PAUSE: Duration = Duration::from_millis(10);

/// Whole lines, each with its end.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) lines: u64,
}

#[derive(Debug)]
pub(super) enum Message {
    Batch(Batch),
    /// Look at the flags.
    Wake,
}

#[derive(Debug, Default)]
pub(super) struct Shared {
    dropped: AtomicU64,
    reopen: AtomicBool,
    closing: AtomicBool,
    /// Empty buffers. Locked for a push or a pop, 20 times a second by each worker.
    spare: Mutex<Vec<Vec<u8>>>,
}

impl Shared {
    pub(super) fn drop_lines(&self, lines: u64) {
        self.dropped.fetch_add(lines, Ordering::Relaxed);
    }

    pub(super) fn recycled(&self) -> Batch {
        let bytes = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Batch { bytes: bytes.unwrap_or_default(), lines: 0 }
    }

    pub(super) fn recycle(&self, batch: Batch) {
        let mut bytes = batch.bytes;
        if bytes.capacity() <= KEEP_CAPACITY {
            bytes.clear();
            self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
        }
    }
}

/// The access log as a whole.
#[derive(Debug)]
pub struct Handle {
    shared: Arc<Shared>,
    sender: SyncSender<Message>,
    /// Nothing is ever sent; it disconnects when the writer ends.
    done: Receiver<()>,
}

impl Handle {
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Opens the file anew before the next write, after it was renamed by a log rotation. Without
    /// effect on standard output and error.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        // If the queue is full, the writer comes by the flag anyway.
        let _ = self.sender.try_send(Message::Wake);
    }

    /// Lines that were not written: the writer was behind, or the write failed.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// [`Handle::dropped`] for the metrics, which outlive no handle but live elsewhere.
    pub fn dropped_counter(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let shared = Arc::clone(&self.shared);
        move || shared.dropped.load(Ordering::Relaxed)
    }

    /// Writes what the sinks have handed over and ends the writer; waits one second at most. True
    /// if everything was written. Sinks hand over what they have when they are dropped, so they
    /// must be gone before.
    pub fn close(self) -> bool {
        self.shared.closing.store(true, Ordering::Release);
        let _ = self.sender.try_send(Message::Wake);
        self.done.recv_timeout(CLOSE_LIMIT) != Err(RecvTimeoutError::Timeout)
    }
}

/// Opens the output and starts the thread.
pub(super) fn start(output: &Output, most: usize) -> io::Result<(SyncSender<Message>, Handle)> {
    let shared = Arc::new(Shared::default());
    let (sender, messages) = sync_channel(most);
    let (running, done) = sync_channel(0);
    let writer = Writer {
        file: open(output)?,
        output: output.clone(),
        shared: Arc::clone(&shared),
        failing: false,
        torn: false,
    };
    std::thread::Builder::new().name("access-log".to_owned()).spawn(move || {
        let _running: SyncSender<()> = running;
        writer.run(&messages);
    })?;
    Ok((sender.clone(), Handle { shared, sender, done }))
}

fn open(output: &Output) -> io::Result<File> {
    let standard = match output {
        Output::Stdout => io::stdout().as_fd().try_clone_to_owned()?,
        Output::Stderr => io::stderr().as_fd().try_clone_to_owned()?,
        Output::File(path) => return open_file(path),
    };
    Ok(File::from(standard))
}

fn open_file(path: &Path) -> io::Result<File> {
    let is_pipe = std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo());
    // Opening a named pipe for writing alone would wait for its reader (fifo(7)).
    File::options().append(true).read(is_pipe).create(true).open(path)
}

struct Writer {
    file: File,
    output: Output,
    shared: Arc<Shared>,
    /// The last write failed; said in the log when it changes.
    failing: bool,
    /// The last write ended inside a line.
    torn: bool,
}

impl Writer {
    fn run(mut self, messages: &Receiver<Message>) {
        while let Some(message) = self.next(messages) {
            if self.shared.reopen.swap(false, Ordering::AcqRel) {
                self.reopen();
            }
            if let Message::Batch(batch) = message {
                self.write(&batch);
                self.shared.recycle(batch);
            }
        }
    }

    /// Waits for a message; once closing, ends when there is none left.
    fn next(&self, messages: &Receiver<Message>) -> Option<Message> {
        match messages.try_recv() {
            Ok(message) => Some(message),
            Err(TryRecvError::Empty) if !self.shared.closing.load(Ordering::Acquire) => {
                messages.recv().ok()
            }
            Err(_) => None,
        }
    }

    fn reopen(&mut self) {
        match open(&self.output) {
            Ok(file) => (self.file, self.torn) = (file, false),
            Err(error) => tracing::warn!(%error, "access log not reopened; the old file is kept"),
        }
    }

    fn write(&mut self, batch: &Batch) {
        let outcome = self.write_all(&batch.bytes);
        let written = match &outcome {
            Ok(()) => batch.lines,
            Err((bytes, _)) => memchr::memchr_iter(b'\n', &batch.bytes[..*bytes]).count() as u64,
        };
        self.shared.drop_lines(batch.lines - written);
        self.report(outcome.err().map(|(_, error)| error));
    }

    fn report(&mut self, error: Option<io::Error>) {
        match error {
            Some(ref error) if !self.failing => {
                tracing::warn!(%error, "access log cannot be written; lines are dropped");
            }
            None if self.failing => {
                let dropped = self.shared.dropped.load(Ordering::Relaxed);
                tracing::info!(dropped, "access log is written again");
            }
            _ => {}
        }
        self.failing = error.is_some();
    }

    /// Errors: how many bytes were written before it.
    fn write_all(&mut self, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
        if self.torn {
            // A torn line is closed, so that the next one can be read.
            self.write_some(b"\n").map_err(|error| (0, error))?;
            self.torn = false;
        }
        let mut written = 0;
        while written < bytes.len() {
            match self.write_some(&bytes[written..]) {
                Ok(some) => written += some,
                Err(error) => return Err((written, error)),
            }
            self.torn = bytes[written - 1] != b'\n';
        }
        Ok(())
    }

    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.file.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(BLOCKED_PAUSE);
                }
                outcome => return outcome,
            }
        }
    }
}
