//! ○ The bytes of a client's connection as h2 sees them: those read before it began, then the
//! stream's, all counted.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::stream::Stream;
use crate::table::counters::ListenerCounters;

pub(super) struct Wire<'a> {
    pub(super) stream: &'a mut Stream,
    /// Read already, and handed out first.
    pub(super) begun: &'a [u8],
    pub(super) counters: Arc<ListenerCounters>,
    pub(super) worker: usize,
}

impl AsyncRead for Wire<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if this.begun.is_empty() {
            ready!(Pin::new(&mut *this.stream).poll_read(cx, buf))?;
        } else {
            let (now, later) = this.begun.split_at(buf.remaining().min(this.begun.len()));
            buf.put_slice(now);
            this.begun = later;
        }
        let count = (buf.filled().len() - before) as u64;
        this.counters.workers.of(this.worker).received_bytes.add(count);
        Poll::Ready(Ok(()))
    }
}

impl Wire<'_> {
    fn sent(&self, count: usize) {
        self.counters.workers.of(self.worker).sent_bytes.add(count as u64);
    }
}

impl AsyncWrite for Wire<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = ready!(Pin::new(&mut *this.stream).poll_write(cx, buf))?;
        this.sent(count);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = ready!(Pin::new(&mut *this.stream).poll_write_vectored(cx, slices))?;
        this.sent(count);
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().stream).poll_shutdown(cx)
    }
}
