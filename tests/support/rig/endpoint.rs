//! One endpoint: a real NGINX as the ingress, in a network namespace of its own.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::proxy::get;
use super::space::{Nursery, Space};
use super::wait;

/// Where the application of an endpoint listens, in the endpoint's own namespace.
pub const APP: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 9000);

/// Where an ingress tells which generation of its certificate is in use.
const GENERATION: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9001);

/// What an ingress does with every request.
const LOCATION: &str = "location / { proxy_pass http://app; proxy_http_version 1.1; \
                        proxy_set_header Upgrade $http_upgrade; \
                        proxy_set_header Connection $or_upgrade; }";

pub struct Endpoint {
    pub space: Space,
    pub address: SocketAddr,
    dir: PathBuf,
    nursery: Arc<Nursery>,
    child: Option<Child>,
    /// Of its certificate.
    generation: u32,
}

impl Endpoint {
    /// Does not start the ingress yet.
    pub fn new(dir: &Path, space: Space, address: SocketAddr, nursery: Arc<Nursery>) -> Self {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("nginx.conf"), configuration(dir, address)).unwrap();
        Self { space, address, dir: dir.to_owned(), nursery, child: None, generation: 0 }
    }

    /// Starts the ingress and does not wait.
    pub fn start(&mut self) {
        let mut command = Command::new("nginx");
        command
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .args(["-e", "stderr", "-p"])
            .arg(&self.dir)
            .arg("-c")
            .arg(self.dir.join("nginx.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(self.dir.join("stderr")).unwrap());
        let child = self.space.spawn(&self.nursery, &mut command);
        self.child = Some(child.unwrap_or_else(|error| panic!("the rig needs nginx: {error}")));
    }

    /// TLS on port 443 with this certificate from now on; returns once new connections get it.
    pub fn certify(&mut self, cert_file: &Path, key_file: &Path) {
        self.generation += 1;
        let (ip, generation) = (self.address.ip(), self.generation);
        let (cert, key) = (cert_file.display(), key_file.display());
        let server = format!(
            "server {{ listen {ip}:443 ssl backlog=4096; ssl_certificate {cert}; \
             ssl_certificate_key {key}; {LOCATION} }}\n\
             server {{ listen {GENERATION}; return 200 {generation}; }}\n"
        );
        fs::write(self.dir.join("tls.conf"), server).unwrap();
        let master = Pid::from_child(self.child.as_ref().expect("a running ingress"));
        kill_process(master, Signal::HUP).unwrap();
        let current = generation.to_string();
        let answered = || Some(get(GENERATION, "/").ok()?.1 == current);
        self.space.within(|| wait("the ingress reloads", || answered()?.then_some(())));
    }

    /// To master and worker at once.
    pub fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            kill_process_group(Pid::from_child(child), signal).unwrap();
        }
    }

    /// Waits for the end of an ingress that was killed, its worker included.
    pub fn reap(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.wait().unwrap();
            // The worker is not our child, but nobody listens once it is gone.
            let refused = || TcpStream::connect(self.address).is_err().then_some(());
            self.space.within(|| wait("the ingress is gone", refused));
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("stderr")).unwrap_or_default()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
            let _ = child.wait();
        }
    }
}

fn configuration(dir: &Path, address: SocketAddr) -> String {
    let dir = dir.display();
    let (app, port) = APP;
    let head = nginx_head(&dir, "1");
    format!(
        "{head}
    upstream app {{ server {app}:{port} max_fails=0; keepalive 256; }}
    include {dir}/tls.con[f];
    server {{
        listen {address} backlog=4096;
        {LOCATION}
    }}
}}
"
    )
}

/// How the configuration of every NGINX of the rig begins, up to inside of `http {`.
pub fn nginx_head(dir: &impl std::fmt::Display, workers: &str) -> String {
    format!(
        "\
user root;
daemon off;
worker_processes {workers};
worker_rlimit_nofile 16384;
pid {dir}/pid;
error_log stderr error;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path {dir}/1; proxy_temp_path {dir}/2; fastcgi_temp_path {dir}/3;
    uwsgi_temp_path {dir}/4; scgi_temp_path {dir}/5;
    map $http_upgrade $or_upgrade {{ default upgrade; '' ''; }}"
    )
}
