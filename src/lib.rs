//! Standfast: a load balancer in front of a hot and a standby Kubernetes cluster.
//!
//! **A file either decides or does, never both.** Deciding files (●) are pure: values in, values
//! out; `now`, randomness and limits are arguments. Doing files (○) are thin tokio shells that ask
//! and carry out the answer. Everything meets in one immutable [`table::Table`] with one writer.
//!
//! ```text
//! request path   listen → tls → proxy ─ route ─ balance ─ upstream → response     reads one Table
//! per request
//!                                │ observations
//! health path    probe ── health (verdict, when next) ──┐
//!                                └── failover (which pool, why) ── control ── builds a Table,
//! stores it once ──▶ Table
//! config path    file / SIGHUP / API → config (parse, check, diff) ──┘   (the only writer)
//! views          admin, metrics                                          read the same Table
//! ```
//!
//! Words, one meaning each: **listener** bound address and protocol · **route** host and path →
//! service · **service** what users ask for · **pool** the endpoints of one Kubernetes cluster ·
//! **endpoint** one address and port · **probe** one health check · **observation** the result of a
//! probe or of live traffic · **verdict** unknown / up / down · **failover** the move of a service
//! from one pool to another · **table** the immutable snapshot all workers read. Connections kept
//! for reuse are idle connections.
//!
//! Time inside deciding files is a [`std::time::Duration`] since the process's monotonic origin
//! (see [`clock`]), so that a state machine can be driven by a test or a simulation.
//!
//! The dependency rule (kept by `tests/tidy.rs`): `main → cli/app → shells → table →
//! {route balance health failover config http1 retry} → std`.

pub mod app; // ○ composition root: build, wire, start, drain
pub mod cli; // ○ one file a command family

pub mod listen; // ○ bind all, accept
pub mod proxy; // ○ one request's life
pub mod tls; // ○ certificates, accept, dial
pub mod upstream; // ○ connections to endpoints: opened, kept, leased

pub mod admin; // ○ API, readiness, status
pub mod control; // ○ folds events, publishes one Table
pub mod observe; // ○ metrics, access log
pub mod probe; // ○ one task an endpoint

pub mod clock; // ○ the process's monotonic origin
pub mod current; // ○ where the current Table lives: one ArcSwap, one store
pub mod descriptors; // ○ how many are left, and for whom
pub mod drain; // ○ one signal, watchers, a limit, then force
pub mod stream; // ○ a byte stream, plain or TLS
pub mod sys; // ○ the system calls that need `unsafe`

pub mod table; // ● the snapshot: routes, services, pools, endpoints, live counters

pub mod balance; // ● which endpoint of a pool
pub mod config; // ● text → checked values; two configs → a diff
pub mod failover; // ● which pool serves, and why
pub mod health; // ● observations → verdict, and when to probe next
pub mod http1; // ● the wire format, strictly
pub mod retry; // ● may this failure be tried elsewhere?
pub mod route; // ● host and path → service
