//! ○ A byte stream to a client or an endpoint, plain or TLS. Polled, so that both directions of an
//! exchange can make progress in one task.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::sys;

/// TLS is boxed: its state is large and a plain stream should not pay for it.
#[derive(Debug)]
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// How the other side of a connection left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// It sends no more. A client that closed looks no different from one that still waits for its
    /// answer.
    Ended,
    /// It is gone: nothing we send can reach it.
    Broken,
}

impl Stream {
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }

    /// Ready when a read would give bytes, the end or an error. Needs no buffer of the caller, so
    /// an idle connection holds none.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(tcp) => tcp.poll_read_ready(cx),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_fill_buf(cx).map_ok(|_| ()),
        }
    }

    /// Reads at most `buf.len()` bytes; 0 is the end.
    pub fn poll_read_some(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut read = ReadBuf::new(buf);
        ready!(Pin::new(self).poll_read(cx, &mut read))?;
        Poll::Ready(Ok(read.filled().len()))
    }

    /// What is known without waiting: bytes, the end or an error are there already, in the kernel
    /// or deciphered before and not read yet. Costs no system call while the runtime has seen no
    /// event for the socket.
    pub fn has_input(&mut self) -> bool {
        let mut byte = [0u8; 1];
        let waits = matches!(self.tcp().try_read(&mut byte),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        !waits || self.has_plaintext()
    }

    /// TLS has deciphered bytes, or the end, that nobody has read.
    pub fn has_plaintext(&mut self) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        self.is_tls() && self.poll_readable(cx).is_ready()
    }

    /// Ready when the other side has ended the connection and left nothing to read.
    pub fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<Left> {
        let left = match self {
            Self::Plain(tcp) => {
                let mut byte = [0u8; 1];
                ready!(tcp.poll_peek(cx, &mut ReadBuf::new(&mut byte)))
            }
            Self::Tls(tls) => ready!(Pin::new(tls.as_mut()).poll_fill_buf(cx)).map(<[u8]>::len),
        };
        match left {
            // A reset that came after its end, or before all it had sent was read, shows nowhere
            // else, and wakes nobody: who cares asks again from time to time.
            Ok(_) if self.is_reset() => Poll::Ready(Left::Broken),
            Ok(0) => Poll::Ready(Left::Ended),
            Ok(_) => Poll::Pending,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Left::Ended),
            Err(_) => Poll::Ready(Left::Broken),
        }
    }

    fn is_reset(&self) -> bool {
        sys::tcp_progress(self).is_ok_and(|progress| progress.closed)
    }

    /// Asks the kernel itself, for where an event not yet delivered would matter.
    pub fn has_input_now(&self) -> bool {
        let mut byte = [0u8; 1];
        let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
        !matches!(rustix::net::recv(self, &mut byte, flags), Err(rustix::io::Errno::AGAIN))
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp().as_fd()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_shutdown(cx),
        }
    }
}
