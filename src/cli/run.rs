//! ○ `standfast run`: checks, starts, and heeds signals until it is told to stop.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tracing_subscriber::filter::LevelFilter;

use super::load::{self, RealWorld};
use super::{check, raise_descriptor_limit};
use crate::app::{self, Running};
use crate::config::{self, Config, Level, LogFormat};
use crate::control::{Event, Source};
use crate::observe::panics;

/// EX_CONFIG of sysexits.h.
const BAD_CONFIG: u8 = 78;

/// Serves what `path` configures.
pub fn run(path: &Path, check_first: bool) -> ExitCode {
    if check_first {
        // Prints the report; what is wrong is said again below, with the exit code of `run`.
        let _ = check::check(path, false, &RealWorld);
    }
    let file = path.display().to_string();
    let (config, warnings) = match load::load(path) {
        Ok(loaded) => loaded,
        Err(diagnostics) => {
            eprint!("{}", check::render(&diagnostics, &file, false));
            return ExitCode::from(BAD_CONFIG);
        }
    };
    start_logging(&config.logging);
    panics::watch();
    raise_descriptor_limit();
    for warning in &warnings {
        tracing::warn!(file, "{warning}");
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&[error.to_string()]),
    };
    runtime.block_on(serve(config, path.to_owned()))
}

async fn serve(config: Config, path: PathBuf) -> ExitCode {
    // Before anything is started, so that no signal that comes meanwhile ends the process.
    let signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => return fail(&[format!("signals cannot be heeded: {error}")]),
    };
    let running = match app::start(config, source(path)) {
        Ok(running) => running,
        Err(errors) => return fail(&errors),
    };
    announce(&running);
    let outcome = heed(&running, signals).await;
    let again = running.drain.clone();
    tokio::select! {
        drained = running.stop() => {
            tracing::info!(forced = drained.forced, "stopped");
            outcome
        }
        () = again.asked_again() => {
            tracing::warn!("stopped at once, as told twice");
            outcome
        }
    }
}

/// Where reloads read.
fn source(path: PathBuf) -> Source {
    Source {
        file: path.display().to_string(),
        load: Box::new(move || load::load(&path)),
        describe: |old, new| config::diff::diff(old, new).iter().map(ToString::to_string).collect(),
    }
}

fn announce(running: &Running) {
    for (listener, address) in running.addresses() {
        tracing::info!(listener = &**listener, %address, "listening");
    }
    if let Some(address) = running.admin_address() {
        tracing::info!(%address, "admin listening");
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        workers = running.workers(),
        pid = std::process::id(),
        "ready"
    );
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    reopen: Signal,
    upgrade: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reopen: signal(SignalKind::user_defined1())?,
            upgrade: signal(SignalKind::user_defined2())?,
        })
    }
}

/// Heeds signals until the process is asked to stop, or should; the exit code it then has. From
/// then on, a signal to stop asks that it be at once.
async fn heed(running: &Running, mut signals: Signals) -> ExitCode {
    let outcome = loop {
        tokio::select! {
            _ = signals.hangup.recv() => reload(&running.control),
            _ = signals.reopen.recv() => running.reopen_logs(),
            _ = signals.upgrade.recv() => {
                tracing::warn!("SIGUSR2: upgrading in place is not available yet");
            }
            _ = signals.terminate.recv() => running.drain.ask(),
            _ = signals.interrupt.recv() => running.drain.ask(),
            () = running.drain.asked() => {
                tracing::info!("stopping: requests in flight may finish");
                break ExitCode::SUCCESS;
            }
            defect = running.failure() => {
                tracing::error!(defect, "stopping, to be started anew");
                // So that one signal is enough to end it now.
                running.drain.ask();
                break ExitCode::FAILURE;
            }
        }
    };
    let drain = running.drain.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => drain.ask(),
                _ = signals.interrupt.recv() => drain.ask(),
            }
        }
    });
    outcome
}

/// A full queue means that reloads asked for before have not begun yet: they will read what is
/// there then, so that this one may be forgotten.
fn reload(control: &mpsc::Sender<Event>) {
    let _ = control.try_send(Event::Reload { force: false, reply: None });
}

fn start_logging(logging: &config::Logging) {
    let level = match logging.level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
    };
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt().with_writer(io::stderr).with_max_level(level);
    let builder = builder.with_target(false).with_ansi(colour);
    // Only a second call could fail, and there is none.
    let _ = match logging.format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => builder.try_init(),
    };
}

fn fail(errors: &[String]) -> ExitCode {
    for error in errors {
        tracing::error!("{error}");
    }
    ExitCode::FAILURE
}
