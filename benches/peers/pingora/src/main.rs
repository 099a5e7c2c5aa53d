//! The least proxy Pingora makes: connections kept to both sides, endpoints in turn, services by
//! host, `X-Forwarded-For` added, no log. `pingora-peer FILE`; the file has a word and its values
//! on each line:
//!
//! ```text
//! plain 127.0.0.1:8080
//! tls 127.0.0.1:8443 cert.pem key.pem
//! workers 1
//! service 127.0.0.1:9001 127.0.0.1:9002
//! route app.example.com 0
//! ```
//!
//! `route` names a service by its place in the file; without one the first service has all.

use std::collections::HashMap;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use pingora_core::server::Server;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error as ProxyError, ErrorType};
use pingora_http::RequestHeader;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

/// Connections kept to endpoints; nginx is given as many.
const KEPT: usize = 4096;

struct Service {
    endpoints: Vec<SocketAddr>,
    turn: AtomicUsize,
}

#[derive(Default)]
struct Proxy {
    services: Vec<Service>,
    routes: HashMap<String, usize>,
}

#[derive(Default)]
struct Site {
    plain: String,
    tls: Vec<String>,
    workers: usize,
    proxy: Proxy,
}

impl Site {
    fn read(text: &str) -> Result<Self, Box<dyn Error>> {
        let mut site = Self { workers: 1, ..Self::default() };
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["plain", address] => site.plain = address.to_owned(),
                ["tls", address, cert, key] => {
                    site.tls = [address, cert, key].map(str::to_owned).to_vec();
                }
                ["workers", count] => site.workers = count.parse()?,
                ["service", ref endpoints @ ..] => {
                    let endpoints: Result<_, _> = endpoints.iter().map(|e| e.parse()).collect();
                    let turn = AtomicUsize::new(0);
                    site.proxy.services.push(Service { endpoints: endpoints?, turn });
                }
                ["route", host, service] => {
                    site.proxy.routes.insert(host.to_owned(), service.parse()?);
                }
                _ => return Err(format!("what is `{line}`?").into()),
            }
        }
        Ok(site)
    }
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = ();

    fn new_ctx(&self) -> Self::CTX {}

    async fn upstream_peer(
        &self,
        session: &mut Session,
        _: &mut (),
    ) -> pingora_core::Result<Box<HttpPeer>> {
        let host = session.req_header().headers.get("host").and_then(|host| host.to_str().ok());
        let service = match host.and_then(|host| self.routes.get(host)) {
            Some(&service) => self.services.get(service),
            None if self.routes.is_empty() => self.services.first(),
            None => None,
        };
        let Some(service) = service else {
            return Err(ProxyError::new(ErrorType::HTTPStatus(404)));
        };
        let turn = service.turn.fetch_add(1, Ordering::Relaxed);
        let endpoint = service.endpoints[turn % service.endpoints.len()];
        Ok(Box::new(HttpPeer::new(endpoint, false, String::new())))
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        _: &mut (),
    ) -> pingora_core::Result<()> {
        if let Some(client) = session.client_addr().and_then(|address| address.as_inet()) {
            request.append_header("X-Forwarded-For", client.ip().to_string())?;
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let file = std::env::args().nth(1).ok_or("usage: pingora-peer FILE | --version")?;
    if file == "--version" {
        // The lock file says which version was built.
        println!("{}", version().ok_or("Cargo.lock names no pingora-core")?);
        return Ok(());
    }
    let site = Site::read(&std::fs::read_to_string(&file)?)?;
    let conf = ServerConf {
        threads: site.workers,
        upstream_keepalive_pool_size: KEPT,
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut proxy = http_proxy_service(&server.configuration, site.proxy);
    proxy.add_tcp(&site.plain);
    if let [address, cert, key] = &site.tls[..] {
        proxy.add_tls(address, cert, key)?;
    }
    server.add_service(proxy);
    server.run_forever()
}

fn version() -> Option<String> {
    let lock = include_str!("../Cargo.lock");
    let at = lock.find("name = \"pingora-core\"")?;
    let line = lock[at..].lines().nth(1)?;
    Some(format!("Pingora {}", line.split('"').nth(1)?))
}
