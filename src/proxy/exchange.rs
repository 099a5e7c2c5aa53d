//! ○ One request's life: route, pick, lease, send, rescue, report. Knows no HTTP version of the
//! client: what it needs of that side is the trait [`Client`].

use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use super::attempt::{self, Outcome};
use super::buffer::Buffer;
use super::deadline::Ticket;
use super::local::{Local, Snapshot};
use super::pick::{self, Tried};
use super::pump::Broken;
use super::sessions;
use crate::http1::{Method, Response};
use crate::retry::{self, Decision, Facts, Progress};
use crate::stream::Stream;
use crate::table::counters::{Loss, Proof, UpstreamError};
use crate::table::live::Seen;
use crate::upstream::connect::ConnectError;
use crate::upstream::lease::{self, Chosen, Lease};

/// The side a request came from.
pub trait Client {
    /// Starts the upload from its beginning, with the head as this endpoint is to get it.
    fn begin_upload(&mut self, fallback_host: &[u8]);
    /// Sends head and body to the endpoint. `Broken::Source` is the client, `Sink` the endpoint.
    fn poll_upload(
        &mut self,
        local: &Local,
        cx: &mut Context<'_>,
        endpoint: &mut Stream,
    ) -> Poll<Result<(), Broken>>;
    fn upload(&self) -> Upload;
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
}

/// How far an upload got.
#[derive(Debug, Clone, Copy)]
pub struct Upload {
    /// Head and body were written whole.
    pub done: bool,
    /// All of it could be sent again.
    pub may_replay: bool,
    /// Bytes written to the connection.
    pub wire_bytes: u64,
    /// The next bytes must come from the client.
    pub waits_for_client: bool,
}

/// How far an answer got.
#[derive(Debug, Clone, Copy)]
pub struct Download {
    /// Bytes of the endpoint's buffer that belong to the answer, once it was read whole.
    pub position: usize,
    pub wire_bytes: u64,
}

/// A request on its way.
#[derive(Debug)]
pub struct Call {
    /// As it was routed. A retry loads the table anew.
    pub table: Snapshot,
    /// Index of the service in `table`.
    pub service: usize,
    pub method: Method,
    pub tried: Tried,
    /// Times it was sent again after it may have been sent.
    pub resent: u32,
    /// Why it could be saved, if it was.
    pub rescued: Option<Proof>,
    pub last_error: Option<UpstreamError>,
    /// Tried last; in the table of that attempt, which may be older than `table`.
    pub last: Option<Chosen>,
    pub attempts: u32,
    /// Of the response passed on; 0 if none was.
    pub status: u16,
    /// From the origin, when the response head came.
    pub first_byte: Option<Duration>,
    pub wants_times: bool,
    /// Longest silence while the request's body is on its way.
    pub body_timeout: Duration,
    /// The endpoint's connection stands at the border of two messages.
    pub reusable: bool,
    /// The endpoint switched protocols, and what it sent behind its answer.
    pub rest: Option<Buffer>,
    /// Then, the connection itself.
    pub switched: Option<(Lease, Buffer)>,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The answer was passed on whole.
    Answered,
    /// No endpoint answered; nothing was passed on, so the client is owed an answer of ours.
    Unanswered(Loss),
    /// The request itself was at fault; the client is owed this status.
    Refused(u16, &'static str),
    /// The answer broke off; the client must see that.
    Cut(Loss),
    /// The client left.
    ClientGone,
}

/// Sends the request to one endpoint after the other until one answers or none may be tried.
pub async fn run<C: Client>(
    local: &Local,
    ticket: &Ticket,
    client: &mut C,
    call: &mut Call,
    response: &mut Response,
) -> Ended {
    earn_budget(local, call);
    ticket.limit(call.table.services[call.service].config.timeouts.total);
    let ended = attempts(local, ticket, client, call, response).await;
    ticket.limit(None);
    ended
}

async fn attempts<C: Client>(
    local: &Local,
    ticket: &Ticket,
    client: &mut C,
    call: &mut Call,
    response: &mut Response,
) -> Ended {
    loop {
        let mut lease = match obtain(local, client, call).await {
            Ok(lease) => lease,
            Err(ended) => return ended,
        };
        call.attempts += 1;
        call.last = Some(lease.chosen().clone());
        let outcome = attempt::run(local, ticket, client, call, &mut lease, response).await;
        ticket.clear();
        match outcome {
            Outcome::Ended(ended) => {
                report(local, call, &lease, ended);
                if let Some(rest) = call.rest.take() {
                    call.switched = Some((lease, rest));
                    return ended;
                }
                let clean = ended == Ended::Answered && call.reusable && client.upload().done;
                let clean = clean && !sessions::is_left(local, lease.chosen());
                if clean && response.keep_alive() && !local.draining.get() {
                    lease.give_back(local, response.keep_alive_timeout());
                }
                return ended;
            }
            Outcome::Failed { error, progress } => {
                if let Some(ended) = failed(local, client, call, &lease, error, progress) {
                    return ended;
                }
            }
        }
    }
}

/// A connection to the next endpoint. What fails here was not sent and moves on at once.
async fn obtain<C: Client>(local: &Local, client: &C, call: &mut Call) -> Result<Lease, Ended> {
    loop {
        refresh(local, call);
        let Some(chosen) = pick::choose(local, &call.table, call.service, &call.tried) else {
            return Err(Ended::Unanswered(lose(local, call, Loss::NoEndpoint)));
        };
        let must_be_alive = !call.method.is_idempotent();
        // Boxed: connecting is rare, and its state is larger than all the rest.
        let failed = match lease::reuse(local, chosen.enter(), must_be_alive) {
            Ok(lease) => return Ok(lease),
            Err(in_flight) => match Box::pin(lease::dial(local, in_flight)).await {
                Ok(lease) => return Ok(lease),
                Err(failed) => failed,
            },
        };
        let (in_flight, error) = failed;
        let chosen = in_flight.chosen();
        call.last = Some(chosen.clone());
        call.tried.add(chosen.endpoint().id);
        call.attempts += 1;
        let kind = sighted(error.reason).filter(|_| !error.self_fault);
        if let Some(kind) = kind {
            local.sight(chosen.endpoint().id, kind);
        }
        log_connect_error(call, chosen.endpoint().config.name.as_ref(), &error);
        call.last_error = Some(error.reason);
        if let Some(ended) = decide(local, client, call, Progress::NotSent) {
            return Err(ended);
        }
    }
}

/// A retry loads the table anew; the service keeps its name if not its place.
fn refresh(local: &Local, call: &mut Call) {
    let table = local.table();
    if table.generation != call.table.generation {
        let name = &call.table.services[call.service].config.name;
        let Some(index) = table.services.iter().position(|s| s.config.name == *name) else {
            return;
        };
        call.service = index;
    }
    call.table = table;
}

/// What becomes of a request that failed at an endpoint: `None` to try the next one.
fn failed<C: Client>(
    local: &Local,
    client: &C,
    call: &mut Call,
    lease: &Lease,
    error: UpstreamError,
    progress: Progress,
) -> Option<Ended> {
    call.last_error = Some(error);
    let id = lease.chosen().endpoint().id;
    if error == UpstreamError::Malformed
        || error == UpstreamError::Timeout && progress == Progress::Answered
    {
        let loss = if error == UpstreamError::Malformed { Loss::Malformed } else { Loss::Timeout };
        return Some(Ended::Unanswered(lose(local, call, loss)));
    }
    let stale = lease.reused && error == UpstreamError::Reset;
    let facts = facts(client, call, progress, false);
    if let Some(proof) = retry::after_stale(facts).filter(|_| stale) {
        call.rescued = Some(proof);
        return None;
    }
    if let Some(kind) = sighted(error) {
        local.sight(id, kind);
    }
    call.tried.add(id);
    decide(local, client, call, progress)
}

/// What control is told of a failure.
fn sighted(error: UpstreamError) -> Option<Seen> {
    Some(match error {
        UpstreamError::Refused => Seen::Refused,
        UpstreamError::Unreachable => Seen::Unreachable,
        UpstreamError::Tls => Seen::Tls,
        UpstreamError::ConnectTimeout | UpstreamError::Timeout => Seen::Silent,
        UpstreamError::Reset => Seen::Reset,
        UpstreamError::Malformed => return None,
    })
}

/// May it be tried elsewhere? `None` if so, with the proof noted.
fn decide<C: Client>(
    local: &Local,
    client: &C,
    call: &mut Call,
    progress: Progress,
) -> Option<Ended> {
    refresh(local, call);
    let next = pick::choose(local, &call.table, call.service, &call.tried);
    let Some(next) = next else {
        let loss = if progress == Progress::Sent && !call.method.is_idempotent() {
            Loss::NotIdempotent
        } else {
            Loss::NoEndpoint
        };
        return Some(Ended::Unanswered(lose(local, call, loss)));
    };
    let facts = facts(client, call, progress, changes_pool(call.last.as_ref(), &next));
    let retries = &next.service().config.retries;
    let decision = local.with_budget(&call.table, call.service, |budget| {
        retry::decide(facts, retries.attempts, budget)
    });
    let cells = next.service().counters.workers.of(local.worker);
    match decision {
        Decision::Resend(proof) => {
            cells.retries.increment();
            call.resent += u32::from(progress == Progress::Sent);
            call.rescued = Some(proof);
            None
        }
        Decision::Fail(loss) => {
            if loss == Loss::Attempts && call.resent < retries.attempts {
                cells.budget_exhausted.increment();
            }
            Some(Ended::Unanswered(lose(local, call, loss)))
        }
    }
}

fn facts<C: Client>(client: &C, call: &Call, progress: Progress, changes_pool: bool) -> Facts {
    Facts {
        idempotent: call.method.is_idempotent(),
        replayable: client.upload().may_replay,
        progress,
        resent: call.resent,
        changes_pool,
    }
}

/// By name, for a reload may have moved either.
fn changes_pool(last: Option<&Chosen>, next: &Chosen) -> bool {
    last.is_some_and(|last| last.pool().config.name != next.pool().config.name)
}

fn earn_budget(local: &Local, call: &Call) {
    let share = call.table.services[call.service].config.retries.budget;
    local.with_budget(&call.table, call.service, |budget| budget.earn(share));
}

fn lose(local: &Local, call: &Call, loss: Loss) -> Loss {
    let service = &call.table.services[call.service];
    service.counters.workers.of(local.worker).lost[loss as usize].increment();
    loss
}

/// Counts an exchange that reached an endpoint.
fn report(local: &Local, call: &Call, lease: &Lease, ended: Ended) {
    let chosen = lease.chosen();
    let endpoint = chosen.endpoint().counters.workers.of(local.worker);
    if call.status >= 200 {
        endpoint.responses[usize::from(call.status / 100 - 1)].increment();
    }
    let service = chosen.service().counters.workers.of(local.worker);
    match (ended, call.rescued) {
        (Ended::Answered, Some(proof)) => service.rescued[proof as usize].increment(),
        (Ended::Cut(loss), _) => service.lost[loss as usize].increment(),
        _ => {}
    }
}

fn log_connect_error(call: &Call, endpoint: &str, error: &ConnectError) {
    let service = &*call.table.services[call.service].config.name;
    if error.self_fault {
        tracing::warn!(service, endpoint, detail = error.detail, "cannot connect: our own fault");
    } else {
        tracing::debug!(service, endpoint, detail = error.detail, "cannot connect");
    }
}
