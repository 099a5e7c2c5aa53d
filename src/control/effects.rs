//! ○ What control does to the world, behind one trait, so that a simulation can stand in for it.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::config::Config;
use crate::listen;
use crate::probe::{self, Outcome, Patience, Subject};
use crate::proxy::worker::Workers;
use crate::table::ListenerId;
use crate::tls::{self, Certificates};

pub trait Effects: Send + Sync + 'static {
    /// Certificates built but not in force yet.
    type Prepared: Send + 'static;
    /// Bound but not accepted from yet; dropped, they are closed again.
    type Sockets;

    /// Since the process's origin.
    fn now(&self) -> Duration;

    /// One probe; its outcome says when it began by [`Effects::now`].
    fn ask(&self, subject: &Subject, patience: Patience) -> impl Future<Output = Outcome> + Send;

    /// May take long; called apart from the thread that probes.
    ///
    /// # Errors
    /// A sentence that names the file.
    fn prepare(&self, config: &Config) -> Result<Self::Prepared, String>;

    fn replace(&self, prepared: Self::Prepared);

    /// # Errors
    /// The address is taken, is not ours, or needs a privilege.
    fn bind(&self, address: SocketAddr) -> io::Result<Self::Sockets>;

    fn listen(&self, id: ListenerId, sockets: Self::Sockets);

    fn unlisten(&self, id: ListenerId);
}

/// The real world.
#[derive(Debug)]
pub struct World {
    pub certificates: Arc<Certificates>,
    pub workers: Arc<Workers>,
}

impl Effects for World {
    type Prepared = tls::Prepared;
    type Sockets = Vec<TcpListener>;

    fn now(&self) -> Duration {
        clock::now()
    }

    fn ask(&self, subject: &Subject, patience: Patience) -> impl Future<Output = Outcome> + Send {
        probe::ask(subject, &self.certificates, patience)
    }

    fn prepare(&self, config: &Config) -> Result<tls::Prepared, String> {
        Certificates::prepare(config)
    }

    fn replace(&self, prepared: tls::Prepared) {
        self.certificates.replace(prepared);
    }

    fn bind(&self, address: SocketAddr) -> io::Result<Vec<TcpListener>> {
        listen::bind(address, self.workers.count())
    }

    fn listen(&self, id: ListenerId, sockets: Vec<TcpListener>) {
        self.workers.listen(id, sockets);
    }

    fn unlisten(&self, id: ListenerId) {
        self.workers.unlisten(id);
    }
}
