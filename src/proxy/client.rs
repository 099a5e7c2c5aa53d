//! ○ The side a request came from, as far as an exchange has to know it.

use std::io;
use std::task::{Context, Poll};

use super::buffer::Buffer;
use super::caller::Caller;
use super::local::Local;
use super::pump::Broken;
pub use super::pump::{Download, Upload};
use crate::http1::Response;
use crate::stream::Stream;
use crate::table::live::Origin;

/// The side a request came from.
pub trait Client: Caller {
    /// Starts the upload from its beginning, with the head as this endpoint is to get it.
    fn begin_upload(&mut self, fallback_host: &[u8]);
    /// Sends head and body to the endpoint. `Broken::Source` is the client, `Sink` the endpoint.
    fn poll_upload(
        &mut self,
        local: &Local,
        cx: &mut Context<'_>,
        endpoint: &mut Stream,
    ) -> Poll<Result<(), Broken>>;
    /// Passes an informational response on.
    fn poll_informational(
        &mut self,
        cx: &mut Context<'_>,
        response: &Response,
        head: &[u8],
    ) -> Poll<io::Result<()>>;
    /// Starts the answer with this head; its body begins at `body_at` of the endpoint's buffer.
    fn begin_download(&mut self, local: &Local, response: &Response, head: &[u8], body_at: usize);
    /// Passes head and body on. `Broken::Source` is the endpoint, `Sink` the client.
    fn poll_download(
        &mut self,
        local: &Local,
        cx: &mut Context<'_>,
        endpoint: &mut Stream,
        buffer: &mut Buffer,
    ) -> Poll<Result<(), Broken>>;
    fn download(&self) -> Download;
    /// Ready once the client has cancelled this request, where its protocol has a word for that.
    fn poll_cancelled(&mut self, cx: &mut Context<'_>) -> Poll<()>;
    /// What tells this request from others where errors are counted.
    fn origin(&self) -> Origin;
}
