//! Network namespaces without names, and a process namespace in which all processes of the rig live.
//!
//! Nothing needs cleaning up: a namespace ends with the last descriptor of it, and the init of the
//! process namespace ends (and with it everything in there) when the pipe from the rig closes,
//! however the rig ended: finished, panicked, interrupted or killed.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// A network namespace, alive as long as this value.
pub struct Space {
    net: File,
}

/// The process namespace; dropping it kills every process in it.
pub struct Nursery {
    pid: File,
    init: Child,
    /// Closed by the kernel when the rig ends, which ends the init.
    pipe: Option<ChildStdin>,
}

impl Space {
    /// A new one, with its loopback up.
    pub fn new() -> Self {
        let net = apart(|| {
            unshare(UnshareFlags::NEWNET);
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let space = Self { net };
        space.run("ip", "link set lo up\n");
        space
    }

    /// Another handle of the same namespace.
    pub fn again(&self) -> Self {
        Self { net: self.net.try_clone().unwrap() }
    }

    /// Runs `inside` on a thread of this namespace. Sockets made there belong to it for good.
    pub fn within<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        apart(|| {
            self.enter();
            inside()
        })
    }

    /// Moves the calling thread into this namespace.
    pub fn enter(&self) {
        move_into_link_name_space(self.net.as_fd(), Some(LinkNameSpaceType::Network))
            .unwrap_or_else(|error| panic!("cannot enter a namespace: {error}; {NEEDS}"));
    }

    /// Where other programs find it while the rig lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.net.as_raw_fd())
    }

    /// Starts `command` here, in the nursery, as the leader of a process group.
    pub fn spawn(&self, nursery: &Nursery, command: &mut Command) -> std::io::Result<Child> {
        apart(|| {
            self.enter();
            // Takes effect for the children of this thread alone.
            move_into_link_name_space(nursery.pid.as_fd(), Some(LinkNameSpaceType::ProcessID))
                .unwrap_or_else(|error| panic!("cannot enter a namespace: {error}; {NEEDS}"));
            command.process_group(0).spawn()
        })
    }

    /// Gives `ip -batch` or `nft -f` its commands, and waits.
    pub fn run(&self, program: &str, commands: &str) {
        self.lever(program).pull(commands);
    }

    /// Starts `ip` or `nft` so that it waits for its commands with everything else done.
    pub fn lever(&self, program: &str) -> Lever {
        let arguments: &[&str] = if program == "ip" { &["-batch", "-"] } else { &["-f", "-"] };
        let child = self.within(|| {
            Command::new(program)
                .args(arguments)
                .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap_or_else(|error| panic!("cannot run {program}: {error}; {NEEDS}"))
        });
        Lever { child }
    }
}

/// What a machine must have for the rig.
const NEEDS: &str = "the rig needs root, Linux, and the programs ip (iproute2) and nft (nftables)";

/// A program that waits for its commands.
pub struct Lever {
    child: Child,
}

impl Lever {
    /// Hands the commands over; they take effect within a millisecond or two.
    pub fn send(&mut self, commands: &str) {
        let mut stdin = self.child.stdin.take().expect("a lever is pulled once");
        // If the program is gone, its status tells why.
        let _ = stdin.write_all(commands.as_bytes());
    }

    /// Waits until they were carried out.
    pub fn wait(self) {
        let output = self.child.wait_with_output().unwrap();
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {why}", output.status);
    }

    /// Both.
    pub fn pull(mut self, commands: &str) {
        self.send(commands);
        self.wait();
    }
}

impl Nursery {
    /// `dir` is removed at the end, when nothing writes there any more.
    pub fn new(dir: &Path) -> Self {
        apart(|| {
            unshare(UnshareFlags::NEWPID);
            let mut init = Command::new("sh")
                .args(["-c", "cat >/dev/null; kill -9 -1; rm -rf -- \"$0\""])
                .arg(dir)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .process_group(0)
                .spawn()
                .unwrap();
            let pid = File::open(format!("/proc/{}/ns/pid", init.id())).unwrap();
            let pipe = init.stdin.take();
            Self { pid, init, pipe }
        })
    }
}

impl Drop for Nursery {
    fn drop(&mut self) {
        drop(self.pipe.take());
        // The kernel holds an init back until all others of its namespace are reaped, and those
        // are our children: whoever has one keeps a reference to the nursery, so this ends at once.
        let _ = self.init.wait();
    }
}

#[expect(
    deprecated,
    reason = "the other form is unsafe for the sake of UnshareFlags::FILES, which is not used here"
)]
fn unshare(flags: UnshareFlags) {
    rustix::thread::unshare(flags)
        .unwrap_or_else(|error| panic!("cannot make a namespace: {error}; {NEEDS}"));
}

/// On a thread of its own, whose namespaces end with it.
fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
