//! ○ The state file: written whole or not at all by a thread of its own, read once at the start.
//!
//! A full disk, or one that takes seconds to sync, delays nobody: control leaves the newest state
//! in a place where the writer finds it, and goes on.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::saved::{self, Saved};
use crate::clock;
use crate::failover::record::{Clock, Stamp};

/// No state of ours is larger, so a file that is was not written by us.
const LARGEST: u64 = 1 << 30;
/// How long the end of the process waits for the last write.
const FAREWELL: Duration = Duration::from_secs(2);
/// What is to be done after a cold start.
const ANEW: &str = "order anew what was held, drained or off before";

/// Reads the state file, and says in the log what came of it. None: a cold start.
pub fn read(path: &Path, clock: Clock) -> Option<(Saved, Duration)> {
    let file = path.display();
    let bytes = match read_bounded(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            tracing::info!(%file, "no state file yet: a cold start");
            return None;
        }
        Err(error) => {
            tracing::warn!(%file, %error, "the state file cannot be read: a cold start; {ANEW}");
            return None;
        }
    };
    match saved::decode(&bytes, clock.stamp(clock.now)) {
        Ok((saved, age)) => {
            let age = age.as_secs_f64();
            tracing::info!(%file, age, services = saved.services.len(), "state restored");
            Some((saved, Duration::from_secs_f64(age)))
        }
        Err(unusable) => {
            let why = unusable.to_string();
            tracing::warn!(%file, why, "the state file is not heeded: a cold start; {ANEW}");
            None
        }
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LARGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// How writing goes.
#[derive(Debug, Default)]
pub struct Writes {
    pub done: AtomicU64,
    pub failed: AtomicU64,
}

/// The thread that writes. Dropped, it writes what was left to it and ends.
#[derive(Debug)]
pub struct StateFile {
    desk: Arc<Desk>,
    pub writes: Arc<Writes>,
}

/// Where control leaves what is to be written.
#[derive(Debug, Default)]
struct Desk {
    paper: Mutex<Paper>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Paper {
    newest: Option<Saved>,
    writing: bool,
    closed: bool,
}

impl StateFile {
    /// # Errors
    /// The thread cannot be started.
    pub fn start(path: PathBuf) -> io::Result<Self> {
        let desk = Arc::new(Desk::default());
        let writes = Arc::new(Writes::default());
        let (shared, counted) = (Arc::clone(&desk), Arc::clone(&writes));
        let writer = move || write_all(&path, &shared, &counted);
        std::thread::Builder::new().name("state-file".to_owned()).spawn(writer)?;
        Ok(Self { desk, writes })
    }

    /// To be written soon; what was left before and is not written yet is out of date.
    pub fn offer(&self, saved: Saved) {
        self.desk.paper.lock().unwrap_or_else(PoisonError::into_inner).newest = Some(saved);
        self.desk.changed.notify_all();
    }
}

impl Drop for StateFile {
    fn drop(&mut self) {
        let mut paper = self.desk.paper.lock().unwrap_or_else(PoisonError::into_inner);
        paper.closed = true;
        self.desk.changed.notify_all();
        let busy = |paper: &mut Paper| paper.newest.is_some() || paper.writing;
        // A disk that hangs must not keep the process from ending.
        let _ = self.desk.changed.wait_timeout_while(paper, FAREWELL, busy);
    }
}

fn write_all(path: &Path, desk: &Desk, writes: &Writes) {
    let mut failing = None;
    loop {
        let mut paper = desk.paper.lock().unwrap_or_else(PoisonError::into_inner);
        let saved = loop {
            if let Some(saved) = paper.newest.take() {
                break saved;
            }
            if paper.closed {
                return;
            }
            paper = desk.changed.wait(paper).unwrap_or_else(PoisonError::into_inner);
        };
        paper.writing = true;
        drop(paper);
        tell(path, &mut failing, write(path, &saved), writes);
        desk.paper.lock().unwrap_or_else(PoisonError::into_inner).writing = false;
        desk.changed.notify_all();
    }
}

/// One line when it begins to fail, fails otherwise, or succeeds again.
fn tell(path: &Path, failing: &mut Option<String>, result: Result<(), String>, writes: &Writes) {
    let file = path.display();
    match result {
        Ok(()) => {
            writes.done.fetch_add(1, Ordering::Relaxed);
            if failing.take().is_some() {
                tracing::info!(%file, "the state file is written again");
            }
        }
        Err(error) => {
            writes.failed.fetch_add(1, Ordering::Relaxed);
            if failing.as_ref() != Some(&error) {
                tracing::warn!(
                    %file,
                    error,
                    "the state file cannot be written: a restart within {} min goes on from the \
                     last one, a later one from nothing; make room there, or let this user write",
                    saved::AGE_MOST.as_secs() / 60
                );
                *failing = Some(error);
            }
        }
    }
}

/// Beside the file first, and in its place once it is on the disk: whoever reads finds the old one
/// or the new one, whenever the power goes. Errors say where.
fn write(path: &Path, saved: &Saved) -> Result<(), String> {
    let written_at = Stamp(u64::try_from(clock::unix().as_micros()).unwrap_or(u64::MAX));
    let bytes = saved::encode(saved, written_at).map_err(|error| error.to_string())?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let at = |place: &Path, error: io::Error| format!("{}: {error}", place.display());
    // What a crash left there, or somebody who wants us to write to where his link points.
    let _ = fs::remove_file(&beside);
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(&beside);
    let mut file = file.map_err(|error| at(&beside, error))?;
    let written = file.write_all(&bytes).and_then(|()| file.sync_all());
    let moved = written.map_err(|error| at(&beside, error)).and_then(|()| {
        fs::rename(&beside, path).map_err(|error| at(path, error))?;
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or_else(|| Path::new("."));
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(|error| at(directory, error))
    });
    if moved.is_err() {
        // Half a file would take room where there is none.
        let _ = fs::remove_file(&beside);
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock_now() -> Clock {
        Clock { now: clock::now(), unix: clock::unix() }
    }

    fn until(claim: impl Fn() -> bool) {
        let begin = clock::now();
        while !claim() {
            assert!(clock::now() - begin < Duration::from_secs(30), "it never came to that");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn what_was_offered_last_is_in_the_file_when_the_process_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        assert_eq!(read(&path, clock_now()), None);
        let state = StateFile::start(path.clone()).unwrap();
        for _ in 0..100 {
            state.offer(Saved::default());
        }
        drop(state);
        let (saved, age) = read(&path, clock_now()).unwrap();
        assert_eq!(saved, Saved::default());
        assert!(age < Duration::from_secs(30));
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "nothing lies beside it: {left:?}");
    }

    #[test]
    fn what_lies_beside_is_replaced_and_a_link_there_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, beside) = (dir.path().join("state.json"), dir.path().join("state.json.new"));
        let victim = dir.path().join("victim");
        fs::write(&victim, "theirs").unwrap();
        std::os::unix::fs::symlink(&victim, &beside).unwrap();
        write(&path, &Saved::default()).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "theirs");
        fs::write(&beside, "half of").unwrap();
        write(&path, &Saved::default()).unwrap();
        assert!(read(&path, clock_now()).is_some() && !beside.exists());
        fs::create_dir(&beside).unwrap();
        let error = write(&path, &Saved::default()).unwrap_err();
        assert!(error.starts_with(&beside.display().to_string()), "{error}");
    }

    #[test]
    fn a_file_that_cannot_be_written_is_counted_and_written_once_it_can_be() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("missing").join("state.json");
        let state = StateFile::start(path.clone()).unwrap();
        state.offer(Saved::default());
        until(|| state.writes.failed.load(Ordering::Relaxed) > 0);
        fs::create_dir(dir.path().join("missing")).unwrap();
        state.offer(Saved::default());
        until(|| state.writes.done.load(Ordering::Relaxed) > 0);
        assert!(read(&path, clock_now()).is_some());
    }
}
