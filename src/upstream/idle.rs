//! ○ Idle connections of one worker: bounded, the last one used is the first one used again.

use crate::stream::Stream;
use crate::table::EndpointId;

/// A connection with what its kernel has been given, for the proof that a request was not read.
#[derive(Debug)]
pub struct Connection {
    pub stream: Stream,
    /// Bytes written to the socket so far; not counted for TLS.
    pub written: u64,
}

/// By slot of the endpoint; a slot that changed hands drops what it held.
#[derive(Debug, Default)]
pub struct Idle {
    slots: Vec<Slot>,
    /// Some were taken or dropped since [`Idle::was_touched`].
    touched: bool,
}

#[derive(Debug, Default)]
struct Slot {
    serial: u32,
    kept: Vec<Kept>,
}

#[derive(Debug)]
struct Kept {
    connection: Connection,
    /// Milliseconds since the origin.
    since: u64,
    expires: u64,
}

impl Idle {
    /// Idle connections a worker keeps to one endpoint at the most.
    pub const MAX: usize = 1024;
    /// Who was not used for so long, in milliseconds, is not needed for the load of the moment.
    const SPARE: u64 = 1_000;

    /// The last connection put back that is still alive as far as can be seen.
    pub fn take(&mut self, id: EndpointId, now_millis: u64) -> Option<Connection> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        if slot.serial != id.serial {
            slot.kept.clear();
            return None;
        }
        while let Some(mut kept) = slot.kept.pop() {
            self.touched = true;
            if kept.expires > now_millis && !kept.connection.stream.has_input() {
                return Some(kept.connection);
            }
        }
        None
    }

    /// Keeps a connection from `since` until it `expires`, to be used next.
    pub fn put(&mut self, id: EndpointId, connection: Connection, since: u64, expires: u64) {
        if let Some(kept) = self.slot(id) {
            kept.push(Kept { connection, since, expires });
        }
    }

    /// Keeps a connection, to be used after all others.
    pub fn put_first(&mut self, id: EndpointId, connection: Connection, since: u64, expires: u64) {
        if let Some(kept) = self.slot(id) {
            kept.insert(0, Kept { connection, since, expires });
        }
    }

    /// Where to keep another one; `None` if there are as many as may be.
    fn slot(&mut self, id: EndpointId) -> Option<&mut Vec<Kept>> {
        let index = id.slot as usize;
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, Slot::default);
        }
        let slot = &mut self.slots[index];
        if slot.serial != id.serial {
            slot.kept.clear();
            slot.serial = id.serial;
        }
        (slot.kept.len() < Self::MAX).then_some(&mut slot.kept)
    }

    /// True where some were taken or dropped since it was last asked.
    pub fn was_touched(&mut self) -> bool {
        std::mem::take(&mut self.touched)
    }

    pub fn count(&self, id: EndpointId) -> usize {
        match self.slots.get(id.slot as usize) {
            Some(slot) if slot.serial == id.serial => slot.kept.len(),
            _ => 0,
        }
    }

    /// How many will still be kept at that moment.
    pub fn lasting(&self, id: EndpointId, millis: u64) -> usize {
        match self.slots.get(id.slot as usize) {
            Some(slot) if slot.serial == id.serial => {
                slot.kept.iter().filter(|kept| kept.expires > millis).count()
            }
            _ => 0,
        }
    }

    /// Drops what is over its time, closed by its endpoint, or kept to an endpoint that `is_gone`.
    pub fn sweep(&mut self, now_millis: u64, mut is_gone: impl FnMut(EndpointId) -> bool) {
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if slot.kept.is_empty() {
                continue;
            }
            let before = slot.kept.len();
            if is_gone(EndpointId { slot: index as u32, serial: slot.serial }) {
                slot.kept = Vec::new();
            }
            slot.kept.retain_mut(|kept| {
                kept.expires > now_millis && !kept.connection.stream.has_input()
            });
            self.touched |= slot.kept.len() < before;
        }
    }

    /// Drops those that were not used for [`Self::SPARE`], to free descriptors.
    pub fn shed(&mut self, now_millis: u64) {
        for slot in &mut self.slots {
            let before = slot.kept.len();
            slot.kept.retain(|kept| kept.since + Self::SPARE > now_millis);
            self.touched |= slot.kept.len() < before;
        }
    }

    /// Drops all of them.
    pub fn clear(&mut self) {
        self.slots.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_those_that_nobody_used_for_a_second_are_shed() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let id = EndpointId { slot: 2, serial: 1 };
        let mut idle = Idle::default();
        for since in [0, 500, 900] {
            let stream = Stream::Plain(tokio::net::TcpStream::connect(address).await.unwrap());
            idle.put(id, Connection { stream, written: since }, since, 60_000);
        }
        idle.shed(999);
        assert_eq!(idle.count(id), 3);
        idle.shed(1_500);
        assert_eq!(idle.count(id), 1);
        assert_eq!(idle.take(id, 1_500).unwrap().written, 900);
    }
}
