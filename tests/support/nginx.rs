//! Real NGINX ingresses, one process group each, so that they can be killed, stopped and started.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::certs::Pair;
use super::client::Client;
use super::lab::Lab;
use super::{free_address, until};

/// An ingress that answers everything with the name of its pool, `/healthz` with 200, and keeps
/// files under `/files/` (GET, and PUT by WebDAV).
pub struct Nginx {
    pub address: SocketAddr,
    dir: PathBuf,
    child: Option<Child>,
    tls: bool,
}

impl Nginx {
    pub fn start(lab: &Lab, pool: &str) -> Self {
        Self::start_with(lab, pool, None)
    }

    pub fn start_tls(lab: &Lab, pool: &str, pair: &Pair) -> Self {
        Self::start_with(lab, pool, Some((pair, "")))
    }

    /// Each connection costs a whole handshake, for no session is taken up again.
    pub fn start_forgetful(lab: &Lab, pool: &str, pair: &Pair) -> Self {
        Self::start_with(lab, pool, Some((pair, "ssl_session_tickets off;")))
    }

    fn start_with(lab: &Lab, pool: &str, tls: Option<(&Pair, &str)>) -> Self {
        let address = free_address();
        let dir = lab.path(&format!("nginx-{}", address.port()));
        fs::create_dir_all(dir.join("files")).unwrap();
        fs::write(dir.join("nginx.conf"), configuration(&dir, address, pool, tls)).unwrap();
        let mut nginx = Self { address, dir, child: None, tls: tls.is_some() };
        nginx.restart();
        nginx
    }

    /// Where `/files/NAME` lies.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join("files").join(name)
    }

    /// As endpoints are written in a configuration.
    pub fn url(&self) -> String {
        format!("http{}://{}", if self.tls { "s" } else { "" }, self.address)
    }

    /// As endpoints are named in metrics.
    pub fn name(&self) -> String {
        self.address.to_string()
    }

    /// SIGKILL to master and workers at once; returns when the last of them is gone.
    pub fn kill9(&mut self) {
        self.signal_all(Signal::KILL);
        if let Some(mut child) = self.child.take() {
            child.wait().unwrap();
        }
        // Workers are not our children, but nobody listens once they are gone.
        until("the workers are gone", || TcpStream::connect(self.address).is_err().then_some(()));
    }

    /// SIGSTOP to all of it: connections stay, nothing answers.
    pub fn freeze(&self) {
        self.signal_all(Signal::STOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal_all(Signal::CONT);
    }

    /// A graceful end: requests in flight finish, idle connections are closed.
    pub fn quit(&mut self) {
        if let Some(mut child) = self.child.take() {
            kill_process(Pid::from_child(&child), Signal::QUIT).unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts it (again) and waits until it answers.
    pub fn restart(&mut self) {
        let child = Command::new("nginx")
            .arg("-p")
            .arg(&self.dir)
            .arg("-c")
            .arg(self.dir.join("nginx.conf"))
            .arg("-e")
            .arg(self.dir.join("error.log"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(self.dir.join("stderr")).unwrap())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("nginx is needed (tests/run installs it): {error}"));
        self.child = Some(child);
        until("nginx answers", || {
            let child = self.child.as_mut()?;
            if let Some(status) = child.try_wait().unwrap() {
                let log = fs::read_to_string(self.dir.join("error.log")).unwrap_or_default();
                panic!("nginx ended: {status}\n{log}");
            }
            self.answers().then_some(())
        });
    }

    fn answers(&self) -> bool {
        if self.tls {
            return TcpStream::connect(self.address).is_ok();
        }
        Client::try_get(self.address, "/healthz").is_ok_and(|answer| answer.status() == 200)
    }

    fn signal_all(&self, signal: Signal) {
        if let Some(child) = &self.child {
            kill_process_group(Pid::from_child(child), signal).unwrap();
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
            let _ = child.wait();
        }
    }
}

fn configuration(
    dir: &Path,
    address: SocketAddr,
    pool: &str,
    tls: Option<(&Pair, &str)>,
) -> String {
    let dir = dir.display();
    // As root, workers would become `nobody`, who may not write to the test's directory.
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let (ssl, certificate) = match tls {
        Some((Pair { cert_file, key_file }, more)) => (
            " ssl",
            format!(
                "ssl_certificate {}; ssl_certificate_key {}; {more}",
                cert_file.display(),
                key_file.display()
            ),
        ),
        None => ("", String::new()),
    };
    format!(
        r#"
{user}
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
pid {dir}/nginx.pid;
error_log {dir}/error.log warn;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
    client_max_body_size 0;
    sendfile on;
    server {{
        listen {address} backlog=4096{ssl};
        {certificate}
        default_type text/plain;
        add_header X-Served-By {pool};
        location = /healthz {{ return 200 "ok\n"; }}
        location /files/ {{ alias {dir}/files/; dav_methods PUT DELETE; }}
        location / {{ return 200 "{pool}\n"; }}
    }}
}}
"#
    )
}
