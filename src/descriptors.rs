//! ○ How many descriptors the process has left, told from their numbers: the kernel gives the
//! lowest free one, so whoever is given a high one knows that all below it are taken.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Resource, getrlimit};

/// What each user of descriptors leaves to those who need them more.
#[derive(Debug)]
pub struct Descriptors {
    limit: AtomicU64,
}

impl Default for Descriptors {
    fn default() -> Self {
        let descriptors = Self { limit: AtomicU64::new(0) };
        descriptors.refresh();
        descriptors
    }
}

impl Descriptors {
    /// Asks for the limit anew: an operator may change it (`prlimit`).
    pub fn refresh(&self) {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// A client's connection got this one: no more of them should be taken for now.
    pub fn is_last_for_clients(&self, descriptor: RawFd) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        is_beyond(descriptor, limit, reserve(limit))
    }

    /// There is another one for a client, as `any` open one shows.
    pub fn has_one_for_clients(&self, any: &impl AsFd) -> bool {
        let next = rustix::io::fcntl_dupfd_cloexec(any, 0);
        next.is_ok_and(|next| !self.is_last_for_clients(next.as_raw_fd()))
    }

    /// A connection to an endpoint got this one, which is needed for probes and the admin server.
    pub fn is_too_many_for_endpoints(&self, descriptor: RawFd) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        is_beyond(descriptor, limit, reserve(limit) / 4)
    }
}

/// An eighth is kept for connections to endpoints, so that who was accepted can be served, and a
/// quarter of that for all the rest.
fn reserve(limit: u64) -> u64 {
    (limit / 8).clamp(16, 1024)
}

fn is_beyond(descriptor: RawFd, limit: u64, reserve: u64) -> bool {
    u64::try_from(descriptor).is_ok_and(|number| number >= limit.saturating_sub(reserve))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_leave_some_to_endpoints_and_those_some_to_the_rest() {
        let descriptors = Descriptors { limit: AtomicU64::new(200) };
        let last = |number| descriptors.is_last_for_clients(number);
        assert_eq!((last(174), last(175), last(199)), (false, true, true));
        let beyond = |number| descriptors.is_too_many_for_endpoints(number);
        assert_eq!((beyond(193), beyond(194)), (false, true));
        let unlimited = Descriptors { limit: AtomicU64::new(u64::MAX) };
        assert!(!unlimited.is_last_for_clients(RawFd::MAX));
    }

    #[test]
    fn there_is_one_for_clients_as_long_as_the_next_number_is_low() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let next = u64::try_from(file.as_raw_fd()).unwrap();
        // Other tests open files meanwhile, so the numbers are far apart.
        assert!(Descriptors { limit: AtomicU64::new(next + 10_000) }.has_one_for_clients(&file));
        assert!(!Descriptors { limit: AtomicU64::new(16) }.has_one_for_clients(&file));
    }
}
