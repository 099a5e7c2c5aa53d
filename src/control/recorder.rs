//! ○ Writes the probe history: a thread of its own, so that no disk delays control.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use super::probe_history::{Line, Moved, Runs, Seen};
use crate::clock;
use crate::failover::record::Stamp;

/// Observations that may wait for the disk; more are dropped and counted.
const QUEUE: usize = 8192;
const FLUSH: Duration = Duration::from_secs(1);
/// How long the end of the process waits for the last lines.
const FAREWELL: Duration = Duration::from_secs(2);
/// Where the file is set aside as `FILE.1` and begun anew.
const ROTATE_AT: u64 = 64 << 20;

/// The thread that writes. Dropped, it writes what it has and ends.
#[derive(Debug)]
pub struct Recorder {
    /// None only while it is dropped.
    sender: Option<SyncSender<Entry>>,
    pub dropped: Arc<AtomicU64>,
    /// Closed when the thread has ended.
    ended: Receiver<()>,
}

#[derive(Debug)]
enum Entry {
    Seen(Seen),
    Moved(Moved),
}

impl Recorder {
    /// # Errors
    /// The thread cannot be started.
    pub fn start(path: PathBuf) -> io::Result<Self> {
        Self::start_rotating(path, ROTATE_AT)
    }

    fn start_rotating(path: PathBuf, rotate_at: u64) -> io::Result<Self> {
        let (sender, entries) = sync_channel(QUEUE);
        let (life, ended) = sync_channel(0);
        let dropped = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&dropped);
        let tape = Tape { path, rotate_at, file: None, buffer: Vec::new(), failing: None };
        let writer = move || {
            let _life = life;
            record(&entries, tape, &counted);
        };
        std::thread::Builder::new().name("history".to_owned()).spawn(writer)?;
        Ok(Self { sender: Some(sender), dropped, ended })
    }

    pub fn seen(&self, seen: Seen) {
        self.send(Entry::Seen(seen));
    }

    pub fn moved(&self, moved: Moved) {
        self.send(Entry::Moved(moved));
    }

    fn send(&self, entry: Entry) {
        let sent = self.sender.as_ref().is_some_and(|sender| sender.try_send(entry).is_ok());
        if !sent {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.sender = None;
        // A disk that hangs must not keep the process from ending.
        let _ = self.ended.recv_timeout(FAREWELL);
    }
}

fn record(entries: &Receiver<Entry>, mut tape: Tape, dropped: &AtomicU64) {
    let mut runs = Runs::default();
    let mut flush_at = clock::now() + FLUSH;
    loop {
        let entry = entries.recv_timeout(flush_at.saturating_sub(clock::now()));
        let (lines, goes_on) = match entry {
            Ok(Entry::Seen(seen)) => (runs.note(seen), true),
            Ok(Entry::Moved(moved)) => (vec![Line::Moved(moved)], true),
            Err(RecvTimeoutError::Timeout) => (runs.finished(now()), true),
            Err(RecvTimeoutError::Disconnected) => (runs.rest(), false),
        };
        lines.iter().for_each(|line| tape.add(line));
        if clock::now() >= flush_at || !goes_on {
            tape.flush(dropped);
            flush_at = clock::now() + FLUSH;
        }
        if !goes_on {
            return;
        }
    }
}

fn now() -> Stamp {
    Stamp(u64::try_from(clock::unix().as_micros()).unwrap_or(u64::MAX))
}

/// The file, and what is to be written to it.
#[derive(Debug)]
struct Tape {
    path: PathBuf,
    rotate_at: u64,
    /// With its length. None at first, and after something went wrong.
    file: Option<(File, u64)>,
    buffer: Vec<u8>,
    /// What went wrong last, said once.
    failing: Option<String>,
}

impl Tape {
    fn add(&mut self, line: &Line) {
        // Nothing in a line can fail to be JSON, and half a line is passed over by the reader.
        let _ = serde_json::to_writer(&mut self.buffer, line);
        self.buffer.push(b'\n');
    }

    /// Writes the buffer, or drops and counts its lines.
    fn flush(&mut self, dropped: &AtomicU64) {
        if self.buffer.is_empty() {
            return;
        }
        let (written, result) = self.write();
        let unwritten = &self.buffer[written..];
        let lines = unwritten.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.buffer.clear();
        let file = self.path.display();
        let lost = dropped.fetch_add(lines, Ordering::Relaxed) + lines;
        match result.map_err(|error| error.to_string()) {
            Ok(()) => {
                if self.failing.take().is_some() {
                    tracing::info!(%file, dropped = lost, "the probe history is written again");
                }
            }
            Err(error) => {
                if self.failing.as_ref() != Some(&error) {
                    tracing::warn!(
                        %file,
                        error,
                        "the probe history cannot be written: its lines are dropped; make room \
                         there, or let this user write"
                    );
                    self.failing = Some(error);
                }
            }
        }
    }

    /// How many bytes of the buffer were written, all of them if nothing went wrong.
    fn write(&mut self) -> (usize, io::Result<()>) {
        let mut written = 0;
        let result = self.file().and_then(|(mut file, length)| {
            while let Some(rest) = self.buffer.get(written..).filter(|rest| !rest.is_empty()) {
                match file.write(rest) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(some) => written += some,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            Ok((file, length + written as u64))
        });
        (written, result.map(|file| self.file = Some(file)))
    }

    /// The file to write to, which is given back where nothing went wrong.
    fn file(&mut self) -> io::Result<(File, u64)> {
        let (file, length) = match self.file.take() {
            Some(open) => open,
            None => open(&self.path)?,
        };
        if length < self.rotate_at {
            return Ok((file, length));
        }
        fs::rename(&self.path, aside(&self.path))?;
        open(&self.path)
    }
}

/// To go on where it ended. A line that was torn is ended first.
fn open(path: &Path) -> io::Result<(File, u64)> {
    let mut file = OpenOptions::new().append(true).create(true).open(path)?;
    let length = file.metadata()?.len();
    if length > 0 {
        file.write_all(b"\n")?;
    }
    Ok((file, length))
}

/// Where what is full is set aside.
pub fn aside(path: &Path) -> PathBuf {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".1");
    PathBuf::from(aside)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::probe_history::parse;
    use crate::failover::record::Source;
    use crate::health::Observation;

    fn seen(number: u64) -> Seen {
        let at = Stamp(number * 1_000_000);
        Seen {
            service: "app".into(),
            pool: "hot".into(),
            endpoint: "a".into(),
            source: Source::Probe,
            observation: match number.is_multiple_of(2) {
                true => Observation::Success,
                false => Observation::Errors,
            },
            detail: "200".to_owned(),
            began: at,
            at,
        }
    }

    fn until(claim: impl Fn() -> bool) {
        let begin = clock::now();
        while !claim() {
            assert!(clock::now() - begin < Duration::from_secs(30), "it never came to that");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn lines(path: &Path) -> usize {
        let (lines, unreadable) = parse(&fs::read_to_string(path).unwrap_or_default());
        assert_eq!(unreadable, 0);
        lines.len()
    }

    #[test]
    fn what_was_seen_is_in_the_file_within_seconds_and_goes_on_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.jsonl");
        let recorder = Recorder::start(path.clone()).unwrap();
        (1..=11).for_each(|number| recorder.seen(seen(number)));
        until(|| lines(&path) >= 10);
        drop(recorder);
        until(|| lines(&path) == 11);
        let recorder = Recorder::start(path.clone()).unwrap();
        recorder.seen(seen(12));
        drop(recorder);
        until(|| lines(&path) == 12);
    }

    #[test]
    fn a_full_file_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.jsonl");
        for number in 1..=3 {
            let recorder = Recorder::start_rotating(path.clone(), 1).unwrap();
            recorder.seen(seen(number));
            drop(recorder);
            until(|| lines(&path) == 1 && (number == 1 || lines(&aside(&path)) == 1));
            until(|| fs::read_to_string(&path).unwrap().contains(&format!(":{number}000000,")));
        }
        assert_eq!((lines(&path), lines(&aside(&path))), (1, 1));
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let recorder = Recorder::start(dir.path().join("missing").join("history")).unwrap();
        let dropped = Arc::clone(&recorder.dropped);
        (1..=5).for_each(|number| recorder.seen(seen(number)));
        drop(recorder);
        until(|| dropped.load(Ordering::Relaxed) == 5);
    }
}
