//! ○ The commands that talk to a running process through its admin server: `status`, `reload`,
//! `drain`, and in [`orders`] and [`records`] what an operator orders and looks up.
//!
//! Results go to the writer given; a [`Failure`] is for standard error and exit code 1.

mod client;
pub mod orders;
pub(crate) mod records;
pub(crate) mod text;

use std::fmt;
use std::io::{self, IsTerminal as _, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::admin::view::{Service, Status};
use crate::config;
use client::{Answer, Limit};
use text::Paint;

/// Where the admin server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Unix(PathBuf),
    /// Host and port.
    Http(String),
}

/// Whom to talk to, and what to show.
#[derive(Debug, Clone)]
pub struct Client {
    pub address: Address,
    /// Needed for changes over TCP.
    pub token: Option<String>,
}

/// Why a command failed: lines for people, without a last line end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure(pub String);

pub type Outcome = Result<(), Failure>;

/// How results are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// As the API answers; stable.
    pub json: bool,
    /// For people: in colour.
    pub(crate) paint: Paint,
}

impl Format {
    /// In colour on a terminal alone, and there only unless `NO_COLOR` is set (no-color.org).
    pub fn of(json: bool) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { json, paint: Paint(io::stdout().is_terminal() && colour && !dumb) }
    }
}

/// How long to look whether a process that drains has ended; both of its own limits are shorter
/// unless they were set to more than this.
const DRAIN_LIMIT: Duration = Duration::from_secs(3600);
const DRAIN_LOOK: Duration = Duration::from_millis(200);

impl Default for Address {
    /// Where the admin server is if the configuration says nothing.
    fn default() -> Self {
        Self::Http("127.0.0.1:9090".to_owned())
    }
}

impl Address {
    /// The socket if there is one, for it needs no token; else the TCP address.
    pub fn of(admin: &config::Admin) -> Self {
        if let Some(path) = &admin.socket {
            return Self::Unix(path.clone());
        }
        let ip = match admin.listen.ip() {
            // An address that means all of them is reached on loopback.
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        Self::Http(SocketAddr::new(ip, admin.listen.port()).to_string())
    }
}

impl FromStr for Address {
    type Err = String;

    /// `http://HOST:PORT`, `HOST:PORT`, or the path of a socket, which holds a slash.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("https://") {
            return Err("the admin server speaks plain http; use http:// or its socket".to_owned());
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.into()));
        }
        let host = match text.strip_prefix("http://") {
            Some(rest) => rest.trim_end_matches('/'),
            None if text.contains('/') => return Ok(Self::Unix(text.into())),
            None => text,
        };
        let port = host.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        let has_path = host.contains('/');
        match port {
            Some(_) if !has_path && host.parse::<http::uri::Authority>().is_ok() => {
                Ok(Self::Http(host.to_owned()))
            }
            _ => Err("expected a path such as /run/standfast/admin.sock, or \
                      http://127.0.0.1:9090"
                .to_owned()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Http(host) => write!(f, "http://{host}"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

/// `standfast status`: who serves each service now, and why. `json`: as the API answers.
pub fn status(client: &Client, format: Format, out: &mut dyn Write) -> Outcome {
    let answer = expect(client.get("/api/v1/status")?)?;
    if format.json {
        out.write_all(&answer.body)?;
        return Ok(());
    }
    let status: Status = read(client, &answer, "a status")?;
    out.write_all(text::status::status(&status, format.paint).as_bytes())?;
    Ok(())
}

/// One service as it stands now.
fn service(client: &Client, name: &str) -> Result<Service, Failure> {
    let answer = expect(client.get("/api/v1/status")?)?;
    let status: Status = read(client, &answer, "a status")?;
    let found = status.services.into_iter().find(|service| service.name == name);
    found.ok_or_else(|| Failure(format!("no service {name:?}")))
}

/// `standfast reload`: reads the configuration anew, and tells what changed or what is wrong.
pub fn reload(client: &Client, force: bool, json: bool, out: &mut dyn Write) -> Outcome {
    let path = if force { "/api/v1/reload?force=true" } else { "/api/v1/reload" };
    let answer = client.post(path, &Value::Null, Limit::Order)?;
    let told = answer.json();
    if answer.status == 422 {
        let mut lines = detail(&answer);
        lines.push_str(&text::diagnostics(&told["diagnostics"]));
        return Err(Failure(lines));
    }
    let answer = expect(answer)?;
    if json {
        out.write_all(&answer.body)?;
    } else {
        out.write_all(text::reloaded(&told).as_bytes())?;
    }
    Ok(())
}

/// `standfast drain`: the process takes no more work, ends what it has, and exits. Waits for that.
pub fn drain(client: &Client, out: &mut dyn Write) -> Outcome {
    expect(client.post("/api/v1/drain", &Value::Null, Limit::Order)?)?;
    writeln!(out, "draining: waiting for requests in flight")?;
    out.flush()?;
    let begun = Instant::now();
    while client.is_there() {
        if begun.elapsed() > DRAIN_LIMIT {
            return Err(Failure("the process drains still; see `standfast status`".to_owned()));
        }
        std::thread::sleep(DRAIN_LOOK);
    }
    writeln!(out, "stopped after {}", text::duration(begun.elapsed().as_secs_f64()))?;
    Ok(())
}

/// The body of an answer as what it should be.
fn read<T: DeserializeOwned>(client: &Client, answer: &Answer, what: &str) -> Result<T, Failure> {
    serde_json::from_slice(&answer.body)
        .map_err(|error| Failure(format!("{} did not answer {what}: {error}", client.address)))
}

/// A success, or what the problem says.
fn expect(answer: Answer) -> Result<Answer, Failure> {
    if (200..300).contains(&answer.status) { Ok(answer) } else { Err(Failure(detail(&answer))) }
}

fn detail(answer: &Answer) -> String {
    match answer.json()["detail"].as_str() {
        Some(detail) => text::clean(detail),
        None => format!("the admin server answered with {}", answer.status),
    }
}

#[cfg(test)]
mod tests;
