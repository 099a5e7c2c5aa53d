//! ○ One request's life: route, pick, lease, send, rescue, report. Knows no HTTP version of the
//! client: what it needs of that side is the trait [`Client`].

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::attempt::{self, Outcome};
use super::buffer::Buffer;
use super::caller::Caller;
pub use super::client::{Client, Download, Upload};
use super::deadline::Ticket;
use super::dialling::{self, NoLease};
use super::local::{Local, Snapshot};
use super::pick::{self, Asks, Tried};
use super::{evidence, hold, sessions};
use crate::clock;
use crate::http1::{Method, Response};
use crate::retry::{self, Decision, Facts, Progress};
use crate::table::counters::{Loss, Proof, UpstreamError};
use crate::upstream::connect::TlsFault;
use crate::upstream::lease::{Chosen, Lease};

/// A request on its way.
#[derive(Debug)]
pub struct Call {
    /// As it was routed. A retry loads the table anew.
    pub table: Snapshot,
    /// Index of the service in `table`.
    pub service: usize,
    pub method: Method,
    /// It carries an `Idempotency-Key` that its route heeds.
    pub keyed: bool,
    /// When the exchange began, since the process's origin.
    pub started: Duration,
    pub tried: Tried,
    /// Where it goes next, once that is decided.
    pub next: Option<Chosen>,
    /// How far it got where it failed last.
    pub progress: Progress,
    /// Times it was sent again after it may have been sent.
    pub resent: u32,
    /// It met a connection that had died idle. From then on only new ones will do: it may be what
    /// they die of, and would end one after the other.
    pub met_stale: bool,
    /// Why it could be saved, if it was.
    pub rescued: Option<Proof>,
    /// It is counted as lost.
    pub lost: bool,
    /// It waits for an endpoint until then at the most; none: it never had to.
    pub hold_until: Option<Duration>,
    /// Its place among a thousand, where a part of the requests goes to another pool.
    pub drawn: Option<u16>,
    /// Endpoints that answered it with a gateway error, and with which.
    pub blamed: Vec<(Chosen, u16)>,
    pub last_error: Option<UpstreamError>,
    /// With [`UpstreamError::Tls`].
    pub tls_fault: Option<TlsFault>,
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

impl Call {
    pub fn new(table: Snapshot, service: usize, method: Method, started: Duration) -> Self {
        Self {
            table,
            service,
            method,
            keyed: false,
            started,
            tried: Tried::default(),
            next: None,
            progress: Progress::NotSent,
            resent: 0,
            met_stale: false,
            rescued: None,
            lost: false,
            hold_until: None,
            drawn: None,
            blamed: Vec::new(),
            last_error: None,
            tls_fault: None,
            last: None,
            attempts: 0,
            status: 0,
            first_byte: None,
            wants_times: false,
            body_timeout: Duration::ZERO,
            reusable: false,
            rest: None,
            switched: None,
        }
    }

    /// It may be sent again even where it was processed already.
    pub fn is_harmless(&self) -> bool {
        self.keyed || self.method.is_idempotent()
    }
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

/// What becomes of a request that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It goes to `call.next`, or to whoever is picked if that is not set.
    Resend,
    /// It may be sent again, but nobody is left to try.
    Stuck,
    Fail(Loss),
}

/// Whom a request may go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    Trusted,
    /// A doubted one where none is trusted.
    Any,
}

/// A deadline that only the limit of the whole exchange is sure to come before.
pub const UNTIL_TOTAL: Duration = Duration::from_secs(1 << 32);

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
        let mut lease = match obtain(local, ticket, client, call).await {
            Ok(lease) => lease,
            Err(ended) => return ended,
        };
        call.attempts += 1;
        call.last = Some(lease.chosen().clone());
        // Only a request that was rescued is asked how long that took.
        let began = call.rescued.map(|_| clock::now());
        let outcome = attempt::run(local, ticket, client, call, &mut lease, response).await;
        ticket.clear();
        let step = match outcome {
            Outcome::Ended(ended) => {
                report(local, call, &lease, ended, began);
                if let Some(rest) = call.rest.take() {
                    call.switched = Some((lease, rest));
                    return ended;
                }
                call.reusable &= ended == Ended::Answered && client.upload().done;
                keep(local, call, lease, response);
                return ended;
            }
            Outcome::Elsewhere => {
                count_response(local, call, &lease);
                call.status = 0;
                keep(local, call, lease, response);
                continue;
            }
            Outcome::Failed { error, progress } => {
                failed(local, client, call, &lease, error, progress)
            }
        };
        drop(lease);
        match step {
            Step::Resend => {}
            Step::Fail(loss) => return unanswered(local, call, loss),
            Step::Stuck => {
                if let Err(ended) = Box::pin(hold::wait(local, ticket, client, call)).await {
                    return ended;
                }
            }
        }
    }
}

/// Keeps the connection of an answer that was read whole, unless the service has left its endpoint.
fn keep(local: &Local, call: &Call, lease: Lease, response: &Response) {
    let clean = call.reusable && response.keep_alive() && !local.draining.get();
    if clean && !sessions::is_left(local, lease.chosen()) {
        let now_millis = local.registry.now_millis();
        lease.give_back(local, response.keep_alive_timeout(), now_millis);
    }
}

/// A connection to the next endpoint. What fails here was not sent and moves on at once.
pub async fn obtain<C: Caller>(
    local: &Local,
    ticket: &Ticket,
    client: &mut C,
    call: &mut Call,
) -> Result<Lease, Ended> {
    loop {
        // Boxed: what follows a failure is rare, and its state is larger than all the rest.
        let Some(chosen) = call.next.take().or_else(|| choose(local, call)) else {
            Box::pin(hold::wait(local, ticket, client, call)).await?;
            continue;
        };
        let in_flight = match dialling::reuse(local, call, chosen) {
            Ok(lease) => return Ok(lease),
            Err(in_flight) => in_flight,
        };
        match Box::pin(dialling::connect(local, ticket, client, call, in_flight)).await {
            Ok(lease) => return Ok(lease),
            Err(NoLease::Ended(ended)) => return Err(ended),
            Err(NoLease::Stuck) => {
                Box::pin(hold::wait(local, ticket, client, call)).await?;
            }
        }
    }
}

/// Where a request goes that no failure has sent anywhere.
fn choose(local: &Local, call: &mut Call) -> Option<Chosen> {
    refresh(local, call);
    next(local, call, Trust::Trusted).or_else(|| {
        // Those who wait already find out when a doubted one is well again.
        let waits = hold::others_wait(&call.table.services[call.service]);
        if waits { None } else { next(local, call, Trust::Any) }
    })
}

/// A retry loads the table anew; the service keeps its name if not its place.
pub fn refresh(local: &Local, call: &mut Call) {
    let table = local.table();
    if table.generation != call.table.generation {
        let name = &call.table.services[call.service].config.name;
        let Some(index) = table.service_index(name) else { return };
        call.service = index;
    }
    call.table = table;
}

/// The next endpoint to try, if any is left.
pub fn next(local: &Local, call: &mut Call, trust: Trust) -> Option<Chosen> {
    let share = call.table.services[call.service].share;
    let first = share.filter(|share| {
        let drawn = call.drawn.get_or_insert_with(|| local.rng.borrow_mut().u16(..1000));
        *drawn < share.permille
    });
    let asks = Asks {
        tried: &call.tried,
        resendable: call.is_harmless(),
        first: first.map(|share| share.pool),
        trusted_only: trust == Trust::Trusted,
    };
    pick::choose(local, &call.table, call.service, &asks)
}

/// Judges the head of an answer that came at `now`; the attempt asks before any of it is passed on.
/// True where the request goes elsewhere instead, which is noted in `call.next`.
pub fn heard<C: Client>(
    local: &Local,
    client: &C,
    call: &mut Call,
    chosen: &Chosen,
    now: Duration,
) -> bool {
    let status = call.status;
    if !evidence::is_gateway_error(status) {
        evidence::answered(local, call, chosen, now);
        return false;
    }
    evidence::gateway_error(local, call, chosen, (status, now), || client.origin());
    call.tried.add(chosen.endpoint().id);
    match decide(local, client, call, Progress::Sent) {
        Step::Resend => true,
        Step::Stuck | Step::Fail(_) => {
            lose(local, call, Loss::EndpointError);
            false
        }
    }
}

/// What becomes of a request that failed at an endpoint without an answer.
fn failed<C: Client>(
    local: &Local,
    client: &C,
    call: &mut Call,
    lease: &Lease,
    error: UpstreamError,
    progress: Progress,
) -> Step {
    call.last_error = Some(error);
    let id = lease.chosen().endpoint().id;
    if error == UpstreamError::Malformed {
        return Step::Fail(Loss::Malformed);
    }
    if error == UpstreamError::Timeout && progress == Progress::Answered {
        return Step::Fail(Loss::Timeout);
    }
    let stale = lease.reused && error == UpstreamError::Reset;
    let facts = facts(client, call, progress, false);
    if let Some(proof) = retry::after_stale(facts).filter(|_| stale) {
        call.progress = progress;
        call.met_stale = true;
        call.rescued = Some(proof);
        return Step::Resend;
    }
    if let Some(kind) = evidence::sighted(error) {
        local.sight(id, kind);
    }
    call.tried.add(id);
    decide(local, client, call, progress)
}

/// May it be tried elsewhere? Notes in `call.next` where, and the proof.
pub fn decide<C: Caller>(local: &Local, client: &C, call: &mut Call, progress: Progress) -> Step {
    refresh(local, call);
    call.progress = progress;
    match next(local, call, Trust::Any) {
        Some(next) => approve(local, client, call, next),
        None => match ask(local, facts(client, call, progress, true), call) {
            Decision::Resend(_) => Step::Stuck,
            Decision::Fail(loss) => Step::Fail(loss),
        },
    }
}

/// May it be sent to this endpoint, or to one of another pool? Notes in `call.next` where, and the
/// proof.
pub fn approve<C: Caller>(local: &Local, client: &C, call: &mut Call, next: Chosen) -> Step {
    let changes = changes_pool(call, &next);
    let facts = facts(client, call, call.progress, changes);
    let decision = ask(local, facts, call);
    let cells = next.service().counters.workers.of(local.worker);
    match decision {
        Decision::Resend(proof) => {
            cells.retries.increment();
            call.resent += u32::from(call.progress == Progress::Sent);
            call.rescued = Some(proof);
            call.next = Some(next);
            Step::Resend
        }
        Decision::Fail(Loss::Attempts) if call.resent < attempts_max(call) && !changes => {
            // The budget is used up; to go to another pool costs none.
            call.tried.leave(next.pool());
            match self::next(local, call, Trust::Any) {
                Some(other) if changes_pool(call, &other) => approve(local, client, call, other),
                _ => {
                    cells.budget_exhausted.increment();
                    Step::Fail(Loss::Attempts)
                }
            }
        }
        Decision::Fail(loss) => Step::Fail(loss),
    }
}

fn ask(local: &Local, facts: Facts, call: &Call) -> Decision {
    local.with_budget(&call.table, call.service, |budget| {
        retry::decide(facts, attempts_max(call), budget)
    })
}

fn attempts_max(call: &Call) -> u32 {
    call.table.services[call.service].config.retries.attempts
}

fn facts<C: Caller>(client: &C, call: &Call, progress: Progress, changes_pool: bool) -> Facts {
    Facts {
        idempotent: call.method.is_idempotent(),
        keyed: call.keyed,
        replayable: client.upload().may_replay,
        progress,
        resent: call.resent,
        changes_pool,
    }
}

/// The next one is in a pool that has not failed the request yet: a way back there and forth would
/// evade the budget. By name, for a reload may have moved either.
fn changes_pool(call: &Call, next: &Chosen) -> bool {
    let pool = next.pool();
    call.last.as_ref().is_some_and(|last| last.pool().config.name != pool.config.name)
        && !pool.endpoints.iter().any(|endpoint| call.tried.contains(endpoint.id))
}

pub fn earn_budget(local: &Local, call: &Call) {
    let share = call.table.services[call.service].config.retries.budget;
    local.with_budget(&call.table, call.service, |budget| budget.earn(share));
}

/// Ends a request that no endpoint answered.
pub fn unanswered(local: &Local, call: &mut Call, loss: Loss) -> Ended {
    lose(local, call, loss);
    Ended::Unanswered(loss)
}

/// Ends a request whose client left while no endpoint that is well had it.
pub fn abandoned(local: &Local, call: &mut Call) -> Ended {
    lose(local, call, Loss::ClientLeft);
    Ended::ClientGone
}

/// Counts a request as lost, once.
fn lose(local: &Local, call: &mut Call, loss: Loss) {
    if !std::mem::replace(&mut call.lost, true) {
        let service = &call.table.services[call.service];
        service.counters.workers.of(local.worker).lost[loss as usize].increment();
    }
}

/// Counts an exchange that reached an endpoint; `began`: its last attempt, if others came before.
fn report(local: &Local, call: &mut Call, lease: &Lease, ended: Ended, began: Option<Duration>) {
    count_response(local, call, lease);
    match ended {
        Ended::Cut(loss) => lose(local, call, loss),
        // It gave up what an endpoint that was well would have answered.
        Ended::ClientGone if call.status == 0 && evidence::is_in_doubt(local, lease.chosen()) => {
            lose(local, call, Loss::ClientLeft);
        }
        _ => {}
    }
    if ended == Ended::Answered && !call.lost {
        count_rescue(local, call, lease, began);
    }
}

/// Counts what reached an endpoint in the end, if others failed it before.
pub fn count_rescue(local: &Local, call: &Call, lease: &Lease, began: Option<Duration>) {
    let Some(proof) = call.rescued else { return };
    let cells = lease.chosen().service().counters.workers.of(local.worker);
    cells.rescued[proof as usize].increment();
    let waited = began.map_or(Duration::ZERO, |began| began.saturating_sub(call.started));
    let micros = waited.as_micros() as u64;
    cells.rescue_wait_micros.add(micros);
    cells.rescue_wait_most_micros.fetch_max(micros, Ordering::Relaxed);
}

/// Counts an answer of which the endpoint gave at least the head.
fn count_response(local: &Local, call: &Call, lease: &Lease) {
    if call.status >= 200 {
        let endpoint = lease.chosen().endpoint().counters.workers.of(local.worker);
        endpoint.responses[usize::from(call.status / 100 - 1)].increment();
    }
}
