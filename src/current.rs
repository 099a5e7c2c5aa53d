//! ○ Where the current [`Table`] lives: one `ArcSwap`, one `store`, and a signal that it changed.

use std::cell::RefCell;
use std::rc::Rc;
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

/// The table as one thread holds it. Cloning touches nothing another core writes.
pub type Snapshot = Rc<Arc<Table>>;

/// One thread's view of the table.
#[derive(Debug)]
pub struct View {
    reader: RefCell<Reader>,
    snapshot: RefCell<Snapshot>,
}

impl View {
    pub fn new(mut reader: Reader) -> Self {
        let snapshot = RefCell::new(Rc::new(Arc::clone(reader.load())));
        Self { reader: RefCell::new(reader), snapshot }
    }

    /// The current table: one relaxed load and a local count while nothing changes.
    pub fn table(&self) -> Snapshot {
        let mut reader = self.reader.borrow_mut();
        let current = reader.load();
        let mut snapshot = self.snapshot.borrow_mut();
        if !Arc::ptr_eq(current, &snapshot) {
            *snapshot = Rc::new(Arc::clone(current));
        }
        Rc::clone(&snapshot)
    }
}
