//! ○ The command line: one file a command family.
//!
//! Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 usage, 78 a bad
//! configuration at `run` (EX_CONFIG of sysexits.h, which a supervisor need not try again).

pub mod backtest;
pub mod check;
pub mod control;
pub mod demo;
pub mod load;
mod numbers;
pub mod run;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use control::orders::{self, DrillArgs, ModeArgs, SwitchArgs};
use control::{Address, Client, Format, records};
use load::RealWorld;

/// A load balancer in front of a hot and a standby Kubernetes cluster
#[derive(Debug, Parser)]
#[command(name = "standfast", version, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 usage, 78 bad configuration at `run`.\n\
    Signals: HUP reload, TERM or INT drain and exit (twice: at once), USR1 reopen logs.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until told to stop
    Run {
        /// The configuration
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
        /// Print what `check` prints before serving
        #[arg(long)]
        check_first: bool,
    },
    /// Two ingresses, TLS, load, a kill and a failover on this machine, without a configuration
    Demo(demo::Options),
    /// Check a configuration: every error at once, with line, snippet and remedy
    Check {
        /// The configuration; `-` is standard input
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what a reload would rebind, keep, drain and move
    Diff {
        /// The configuration that runs
        old: PathBuf,
        /// The one a reload would apply
        new: PathBuf,
    },
    /// Show who serves each service now, and why
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        at: At,
    },
    /// Read the configuration again, as SIGHUP does, and show the outcome
    Reload {
        /// Also if that removes more than half of the endpoints
        #[arg(long)]
        force: bool,
        /// As JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        at: At,
    },
    /// Finish requests in flight and stop, as SIGTERM does
    Drain {
        #[command(flatten)]
        at: At,
    },
    /// Move a service to another pool; it stays there until health forces a move
    Switch {
        #[command(flatten)]
        order: SwitchArgs,
        #[command(flatten)]
        at: At,
    },
    /// End a hold, and the standing of a switch: health and failback decide again
    Release {
        /// Which service
        service: String,
        /// Why, for the log
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        at: At,
    },
    /// Take an endpoint out of use, or back in
    Mode {
        #[command(flatten)]
        order: ModeArgs,
        #[command(flatten)]
        at: At,
    },
    /// Show the failover records, newest first, one line each
    History {
        /// Of this service alone
        service: Option<String>,
        /// As JSON
        #[arg(long)]
        json: bool,
        /// How many
        #[arg(long, value_name = "N", default_value_t = 20,
            value_parser = clap::value_parser!(u16).range(1..=10_000))]
        limit: u16,
        #[command(flatten)]
        at: At,
    },
    /// Tell one failover in full: its cost, its course, its evidence, what decided, what comes next
    Explain {
        /// As `history` shows it, such as app-3
        id: String,
        /// As JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        at: At,
    },
    /// Rehearse a failover, and report its time and cost; exit code 1 if it did not pass
    Drill {
        #[command(flatten)]
        order: DrillArgs,
        /// As JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        at: At,
    },
    /// Show what a configuration would have decided on a recorded probe history
    Backtest {
        /// The configuration
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
        /// What `process.history_file` names; what was set aside as FILE.1 is read as well
        #[arg(long, value_name = "FILE")]
        history: PathBuf,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Print a completion script
    Completions { shell: clap_complete::Shell },
    #[command(external_subcommand)]
    Other(Vec<String>),
}

/// Which process a control command talks to.
#[derive(Debug, Args)]
struct At {
    /// Admin socket or address, such as /run/standfast/admin.sock or http://127.0.0.1:9090
    #[arg(long, value_name = "PATH|URL", conflicts_with = "config")]
    admin: Option<Address>,
    /// Take the address (and the token) from this configuration
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Commands this version knows by name alone.
const LATER: [&str; 4] = ["top", "upgrade", "schema", "man"];

/// Runs the command given; the process's exit code.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run { config, check_first } => run::run(&config, check_first),
        Command::Demo(options) => demo::demo(&options),
        Command::Check { config, json } => check::check(&config, json, &RealWorld),
        Command::Diff { old, new } => check::diff(&old, &new, &RealWorld),
        Command::Status { json, at } => {
            with(&at, |client, out| control::status(client, Format::of(json), out))
        }
        Command::Reload { force, json, at } => {
            with(&at, |client, out| control::reload(client, force, json, out))
        }
        Command::Drain { at } => with(&at, control::drain),
        Command::Switch { order, at } => {
            with(&at, |client, out| orders::switch(client, &order, out))
        }
        Command::Release { service, reason, at } => {
            with(&at, |client, out| orders::release(client, &service, reason.as_deref(), out))
        }
        Command::Mode { order, at } => with(&at, |client, out| orders::mode(client, &order, out)),
        Command::History { service, json, limit, at } => with(&at, |client, out| {
            records::history(client, service.as_deref(), limit, Format::of(json), out)
        }),
        Command::Explain { id, json, at } => {
            with(&at, |client, out| records::explain(client, &id, Format::of(json), out))
        }
        Command::Drill { order, json, at } => {
            with(&at, |client, out| orders::drill(client, &order, Format::of(json), out))
        }
        Command::Backtest { config, history, json } => backtest::backtest(&config, &history, json),
        Command::Completions { shell } => completions(shell, &mut io::stdout()),
        Command::Other(words) => other(&words),
    }
}

/// Rendered first: clap panics where a reader such as `head` leaves before the end.
fn completions(shell: clap_complete::Shell, out: &mut dyn Write) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "standfast", &mut script);
    match out.write_all(&script).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("standfast: the script cannot be written: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Raises the limit of open descriptors as far as this process may.
pub(crate) fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open descriptors cannot be raised");
    }
}

fn with(at: &At, command: impl Fn(&Client, &mut dyn Write) -> control::Outcome) -> ExitCode {
    let outcome = at.client().and_then(|client| command(&client, &mut io::stdout().lock()));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("standfast: {failure}");
            ExitCode::FAILURE
        }
    }
}

impl At {
    fn client(&self) -> Result<Client, control::Failure> {
        let Some(path) = &self.config else {
            let address = self.admin.clone().unwrap_or_default();
            return Ok(Client { address, token: None });
        };
        let (config, _) = load::load(path).map_err(|diagnostics| {
            let file = path.display().to_string();
            let text = check::render(&diagnostics, &file, false);
            control::Failure(format!("the configuration does not say where to reach it\n{text}"))
        })?;
        let token = config.admin.token.as_ref();
        let token = token.map(|token| String::from_utf8_lossy(&token.0).into_owned());
        Ok(Client { address: Address::of(&config.admin), token })
    }
}

fn other(words: &[String]) -> ExitCode {
    let name = words.first().map_or("", String::as_str);
    if LATER.contains(&name) {
        return not_yet(name);
    }
    let mut unknown = format!("unrecognized subcommand '{name}'");
    if let Some(near) = nearest(name) {
        unknown.push_str(&format!(", did you mean '{near}'?"));
    }
    Cli::command().error(clap::error::ErrorKind::InvalidSubcommand, unknown).exit()
}

fn not_yet(name: &str) -> ExitCode {
    eprintln!("standfast: `{name}` is not available yet in version {VERSION}");
    ExitCode::FAILURE
}

/// The command that was probably meant.
fn nearest(name: &str) -> Option<String> {
    let command = Cli::command();
    let known = command.get_subcommands().map(clap::Command::get_name);
    let scored = known.map(|known| (strsim::jaro_winkler(name, known), known));
    let best = scored.max_by(|one, other| one.0.total_cmp(&other.0));
    best.filter(|(score, _)| *score > 0.8).map(|(_, known)| known.to_owned())
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_reader_that_leaves_early_ends_completions_without_a_panic() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut script = Vec::new();
        for out in [&mut Gone as &mut dyn Write, &mut script] {
            assert_eq!(completions(clap_complete::Shell::Bash, out), ExitCode::SUCCESS);
        }
        assert!(script.starts_with(b"_standfast()"));
    }

    #[test]
    fn a_control_command_takes_an_address_or_a_configuration_but_not_both() {
        let parse = |words: &str| Cli::try_parse_from(words.split(' '));
        assert!(parse("standfast status --admin /run/a.sock").is_ok());
        assert!(parse("standfast status -c a.yaml --json").is_ok());
        assert!(parse("standfast status -c a.yaml --admin /run/a.sock").is_err());
        assert!(parse("standfast run").is_err());
        assert!(parse("standfast switch app --to standby").is_err());
        assert!(parse("standfast switch app --to standby --reason x --hold --force").is_ok());
        assert!(parse("standfast mode app/hot/[fd00::1]:80 drain --reason x").is_ok());
        assert!(parse("standfast mode app/hot drain --reason x").is_err());
        assert!(parse("standfast mode app/hot/a:80 on --reason x").is_err());
        assert!(parse("standfast history app --limit 0").is_err());
    }

    #[test]
    fn a_drill_is_of_one_kind_and_a_decision_watches_nothing() {
        let parse = |words: &str| Cli::try_parse_from(words.split(' '));
        assert!(parse("standfast drill app").is_ok());
        assert!(parse("standfast drill app --share 5% --for 1m --max-errors 1%").is_ok());
        assert!(parse("standfast drill app --share 5% --full").is_err());
        assert!(parse("standfast drill app --for 1m").is_err());
        assert!(parse("standfast drill app --decision --for 1m").is_err());
    }

    #[test]
    fn a_mistyped_command_is_answered_with_the_one_meant() {
        assert_eq!(nearest("chekc").as_deref(), Some("check"));
        assert_eq!(nearest("relaod").as_deref(), Some("reload"));
        assert_eq!(nearest("zzz"), None);
    }

    #[test]
    fn the_demo_takes_a_port_and_a_bounded_rate() {
        let parse = |words: &str| Cli::try_parse_from(words.split(' '));
        let demo = parse("standfast demo --port 9443 --keep").unwrap().command;
        let Command::Demo(options) = demo else { panic!("not the demo") };
        assert_eq!((options.port, options.keep), (9443, true));
        assert!(parse("standfast demo --rate 0").is_err());
        assert!(parse("standfast demo --rate 1000000").is_err());
    }
}
