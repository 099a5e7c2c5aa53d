//! ○ Byte buffers from a store of each worker: an idle connection holds none.

use std::cell::RefCell;
use std::io;
use std::task::{Context, Poll, ready};

use super::side::Parts;
use crate::stream::Stream;

/// A head and what followed it into the same read, or a run of body bytes.
#[derive(Debug, Default)]
pub struct Buffer {
    data: Box<[u8]>,
    end: usize,
}

/// A worker's spare buffers, last used first, so that the next one is in the cache.
#[derive(Debug, Default)]
pub struct Store {
    small: RefCell<Vec<Box<[u8]>>>,
    large: RefCell<Vec<Box<[u8]>>>,
    parts: RefCell<Vec<Parts>>,
}

impl Buffer {
    /// Holds a 16 KiB response together with its head.
    pub const SMALL: usize = 18 * 1024;
    /// For bodies in flight: fewer system calls for the same bytes.
    pub const LARGE: usize = 256 * 1024;

    /// Just these bytes and no room.
    pub fn exact(bytes: &[u8]) -> Self {
        Self { data: bytes.into(), end: bytes.len() }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.data[..self.end]
    }

    pub fn len(&self) -> usize {
        self.end
    }

    pub fn is_empty(&self) -> bool {
        self.end == 0
    }

    pub fn room(&self) -> usize {
        self.data.len() - self.end
    }

    pub fn is_large(&self) -> bool {
        self.data.len() > Self::SMALL
    }

    /// Forgets everything from `length` on.
    pub fn truncate(&mut self, length: usize) {
        self.end = self.end.min(length);
    }

    /// Forgets the first `count` bytes.
    pub fn consume(&mut self, count: usize) {
        self.data.copy_within(count..self.end, 0);
        self.end -= count;
    }

    /// Moves `from..` down to `to`, over what stands between.
    pub fn close_gap(&mut self, to: usize, from: usize) {
        self.data.copy_within(from..self.end, to);
        self.end -= from - to;
    }

    /// Reads once into the free room, which must not be empty; 0 is the end.
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Stream,
    ) -> Poll<io::Result<usize>> {
        let count = ready!(stream.poll_read_some(cx, &mut self.data[self.end..]))?;
        self.end += count;
        Poll::Ready(Ok(count))
    }

    /// Appends as many of `bytes` as there is room for, and says how many.
    pub fn put(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.room());
        self.data[self.end..self.end + count].copy_from_slice(&bytes[..count]);
        self.end += count;
        count
    }

    /// Gets a small buffer if there is none yet.
    pub fn ensure(&mut self, store: &Store) {
        if self.data.is_empty() {
            self.data = store.take_small();
        }
    }

    /// Makes more room, up to `most` bytes in all, keeping the content. False if there is no more.
    pub fn grow(&mut self, store: &Store, most: usize) -> bool {
        if self.data.len() >= most || self.is_large() {
            return false;
        }
        let mut larger = store.take_large();
        larger[..self.end].copy_from_slice(self.bytes());
        store.put(std::mem::replace(&mut self.data, larger));
        true
    }

    /// Gives the memory back to the store.
    pub fn release(&mut self, store: &Store) {
        self.end = 0;
        store.put(std::mem::take(&mut self.data));
    }
}

impl Store {
    /// Bytes kept at the most: 1 MiB in small ones, 4 MiB in large ones.
    const SMALL_MAX: usize = 64;
    const LARGE_MAX: usize = 16;
    /// A few KiB each.
    const PARTS_MAX: usize = 64;

    fn take_small(&self) -> Box<[u8]> {
        self.small.borrow_mut().pop().unwrap_or_else(|| vec![0; Buffer::SMALL].into())
    }

    fn take_large(&self) -> Box<[u8]> {
        self.large.borrow_mut().pop().unwrap_or_else(|| vec![0; Buffer::LARGE].into())
    }

    pub fn take_parts(&self) -> Parts {
        self.parts.borrow_mut().pop().unwrap_or_default()
    }

    pub fn put_parts(&self, parts: Parts) {
        let mut shelf = self.parts.borrow_mut();
        if shelf.len() < Self::PARTS_MAX {
            shelf.push(parts);
        }
    }

    fn put(&self, data: Box<[u8]>) {
        let (shelf, most) = match data.len() {
            Buffer::SMALL => (&self.small, Self::SMALL_MAX),
            Buffer::LARGE => (&self.large, Self::LARGE_MAX),
            _ => return,
        };
        let mut shelf = shelf.borrow_mut();
        if shelf.len() < most {
            shelf.push(data);
        }
    }
}
