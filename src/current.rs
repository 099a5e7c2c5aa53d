//! ○ Where the current [`Table`] lives: one `ArcSwap`, one `store`, and a signal that it changed.

use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};
use tokio::sync::watch;

use crate::table::Table;

/// The one place of the current table. Written by control alone.
#[derive(Debug)]
pub struct Current {
    table: Arc<ArcSwap<Table>>,
    version: watch::Sender<u64>,
}

impl Current {
    pub fn new(table: Table) -> Arc<Self> {
        let version = watch::Sender::new(table.version);
        Arc::new(Self { table: Arc::new(ArcSwap::from_pointee(table)), version })
    }

    /// For views; workers read through [`Current::reader`].
    pub fn load(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// Makes `table` the one all workers see at their next request.
    pub fn publish(&self, table: Table) {
        let version = table.version;
        self.table.store(Arc::new(table));
        self.version.send_replace(version);
    }

    /// Tells when a table was published.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    pub fn reader(&self) -> Reader {
        Reader(Cache::new(Arc::clone(&self.table)))
    }
}

/// A cached read: one relaxed load while nothing changes.
#[derive(Debug)]
pub struct Reader(Cache<Arc<ArcSwap<Table>>, Arc<Table>>);

impl Reader {
    pub fn load(&mut self) -> &Arc<Table> {
        self.0.load()
    }
}
