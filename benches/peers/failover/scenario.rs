//! The faults, each as what is done to the rig and when, and what the issue requires of Standfast.

use std::time::Duration;

use clap::ValueEnum;

use crate::args::Args;
use crate::peer::{Peer, Program};
use crate::rig::load::Plan;
use crate::rig::proxy::{FRONT, Proxy};
use crate::rig::report::Report;
use crate::rig::websocket::State;
use crate::rig::{At, Fault, Pool, Rig, wait};
use crate::run::Run;

/// What happens while the load runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// kill -9 of all hot endpoints
    Kill,
    /// hot black-holed: packets vanish in both directions
    Drop,
    /// the links of all hot endpoints go down
    Link,
    /// all hot endpoints stopped: they accept and never answer
    Stop,
    /// a firewall rejects with ICMP port unreachable
    Reject,
    /// a firewall rejects with TCP resets
    Reset,
    /// all hot endpoints answer 503, to probes too
    #[value(name = "503")]
    Refuse,
    /// all hot endpoints answer 503 to users, and probes well
    #[value(name = "503-users")]
    RefuseUsers,
    /// kill -9 of one of three hot endpoints
    OneKilled,
    /// one of three hot endpoints black-holed
    OneDropped,
    /// one of three hot endpoints answers 503 to users
    #[value(name = "one-503")]
    One503,
    /// hot dies, then the standby; the standby comes back
    BothHotFirst,
    /// the standby dies, then hot; the standby comes back
    BothStandbyFirst,
    /// both die at once; the standby comes back
    BothAtOnce,
    /// hot alternates between up and down
    Flap,
    /// one URI answers 500 to one client at 1,000/s
    BadUri,
    /// the proxy is stopped for 3 s
    Paused,
    /// the proxy is cut off from both pools for 2 s
    Isolated,
    /// hot answers 100 ms later
    Slow,
    /// a planned switch to the standby, and back
    Switch,
    /// WebSockets beside the load, hot black-holed
    Websockets,
    /// 100 reloads while hot is dead
    Reloads,
    /// 20 times kill -9 of the proxy and a new start, while hot answers 503
    Restarts,
}

/// What the issue asks for, in milliseconds; nothing is ever delivered twice but GET.
#[derive(Debug, Default)]
pub(crate) struct Required {
    pub(crate) lost_get: Option<usize>,
    pub(crate) lost_post: Option<usize>,
    pub(crate) first: Option<f64>,
    pub(crate) p99: Option<f64>,
    pub(crate) p999: Option<f64>,
    pub(crate) moved_within: Option<f64>,
    /// The standby serves at the end, or hot still does.
    pub(crate) moves: Option<bool>,
}

/// Which stretch of time counts.
pub(crate) struct Struck {
    /// Requests due from here on; the fault.
    pub(crate) from: Duration,
    pub(crate) until: Duration,
    /// The pool whose first success is looked for, and since when.
    pub(crate) success: Option<(Pool, Duration)>,
    pub(crate) notes: Vec<String>,
}

impl Scenario {
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// As a sentence.
    pub(crate) fn title(self) -> String {
        let value = self.to_possible_value();
        let help = value.as_ref().and_then(clap::builder::PossibleValue::get_help);
        help.map_or_else(String::new, ToString::to_string)
    }

    /// Does this peer know how to take part?
    pub(crate) fn applies_to(self, peer: &Peer) -> bool {
        self != Self::Reloads || peer.can_reload()
    }

    pub(crate) fn required(self) -> Required {
        let none = Required { lost_get: Some(0), ..Required::default() };
        let first = |first, p999| Required {
            first: Some(first),
            p999: Some(p999),
            moves: Some(true),
            lost_get: Some(0),
            ..Required::default()
        };
        let stays = Required { moves: Some(false), lost_get: Some(0), ..Required::default() };
        let one = Required { lost_post: Some(2), p999: Some(60.0), moves: Some(false), ..none };
        match self {
            Self::Kill => first(7.0, 10.0),
            Self::Websockets => none,
            Self::Drop | Self::Link => Required { moved_within: Some(300.0), ..first(60.0, 100.0) },
            Self::Stop => {
                Required { p99: Some(350.0), lost_post: Some(100), p999: None, ..first(300.0, 0.0) }
            }
            Self::Reject | Self::Reset => first(20.0, 20.0),
            Self::Refuse => Required { lost_post: Some(3), moves: Some(true), ..none },
            Self::RefuseUsers => Required { lost_post: Some(5), moves: Some(true), ..none },
            Self::OneKilled | Self::OneDropped | Self::One503 => one,
            Self::BothHotFirst | Self::BothStandbyFirst | Self::BothAtOnce => {
                Required { first: Some(150.0), ..Required::default() }
            }
            Self::Flap => Required { moves: Some(true), ..none },
            Self::Slow => Required { lost_post: Some(0), ..stays },
            Self::BadUri | Self::Paused | Self::Isolated | Self::Switch => {
                Required { lost_post: Some(0), moves: Some(false), ..none }
            }
            Self::Reloads => Required { lost_post: Some(0), moves: Some(true), ..none },
            // What a kill -9 of the proxy cuts is lost with any of them.
            Self::Restarts => Required { moves: Some(true), ..Required::default() },
        }
    }

    /// One proxy, one fault, once.
    pub(crate) fn run(self, peer: &Peer, args: &Args) -> Run {
        let mut rig = Rig::new();
        let (peer, note) = match self {
            Self::Restarts => peer.remembering(&rig),
            Self::Websockets => (peer.closing_at_once(), None),
            _ => (peer.clone(), None),
        };
        let peer = &peer;
        let mut proxy = peer.start(&rig);
        let watch = (peer.program == Program::Standfast).then(|| proxy.watch(rig.origin()));
        let load = rig.load(Plan {
            most: args.connections,
            timeout: seconds(args.patience),
            ..Plan::new(FRONT)
        });
        // A second for connections to be opened and caches to fill is not counted.
        rig.run_for(Duration::from_secs(1));
        let calm = rig.now();
        rig.run_for(seconds(args.healthy));
        let mut struck = self.strike(&mut rig, &mut proxy, peer, args);
        struck.notes.extend(note);
        let report = rig.finish(load);
        let moves = watch.map(|watch| watch.moves());
        let first = struck.success.and_then(|(pool, since)| self.first(&report, pool, since));
        let mut run = Run::new(self, peer, calm, &struck, first, &report, moves);
        let to_hot = report.delivered_to(Pool::Hot, struck.from);
        if self == Self::Restarts && to_hot > 0 {
            run.missed.push(format!("{to_hot} requests reached hot after a restart"));
        }
        let moves = run.moves.as_ref().map_or(0, Vec::len);
        if self == Self::Flap && moves > 1 {
            run.missed.push(format!("moved {moves} times"));
        }
        run
    }

    /// Of a request due after the fault; or, where nobody could answer, of any request.
    fn first(self, report: &Report, pool: Pool, since: Duration) -> Option<Duration> {
        match self {
            Self::BothHotFirst | Self::BothStandbyFirst | Self::BothAtOnce => {
                report.first_answer(since, pool)
            }
            _ => report.first_success(since, pool),
        }
    }

    fn strike(self, rig: &mut Rig, proxy: &mut Proxy, peer: &Peer, args: &Args) -> Struck {
        let plain = match self {
            Self::Kill => (Fault::Kill, At::Hot),
            Self::Drop => (Fault::Drop, At::Hot),
            Self::Link => (Fault::LinkDown, At::Hot),
            Self::Stop => (Fault::Stop, At::Hot),
            Self::Reject => (Fault::Reject, At::Hot),
            Self::Reset => (Fault::Reset, At::Hot),
            Self::Refuse => (Fault::Refuse, At::Hot),
            Self::RefuseUsers => (Fault::RefuseUsers, At::Hot),
            Self::OneKilled => (Fault::Kill, At::One(1)),
            Self::OneDropped => (Fault::Drop, At::One(1)),
            Self::One503 => (Fault::RefuseUsers, At::One(1)),
            Self::Slow => (Fault::Slow(Duration::from_millis(100)), At::Hot),
            Self::BothHotFirst => return both(rig, &[At::Hot, At::Standby]),
            Self::BothStandbyFirst => return both(rig, &[At::Standby, At::Hot]),
            Self::BothAtOnce => return both(rig, &[At::Both]),
            Self::Flap => return flap(rig, args),
            Self::BadUri => return bad_uri(rig, args),
            Self::Paused => return paused(rig, proxy, args),
            Self::Isolated => return isolated(rig, args),
            Self::Switch => return switch(rig, proxy, peer),
            Self::Websockets => return websockets(rig, args),
            Self::Reloads => return reloads(rig, proxy, peer),
            Self::Restarts => return restarts(rig, proxy, peer),
        };
        let struck = rig.inject(plain.0, plain.1);
        rig.run_for(seconds(args.window));
        let success = (plain.1 == At::Hot).then_some((Pool::Standby, struck.at));
        Struck { from: struck.at, until: rig.now(), success, notes: Vec::new() }
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn both(rig: &mut Rig, order: &[At]) -> Struck {
    let from = rig.now();
    for &at in order {
        rig.inject(Fault::Kill, at);
        rig.run_for(seconds(1.5));
    }
    let lifted = rig.lift(Fault::Kill, At::Standby);
    // From the start of its ingresses; they need some 20 ms until they listen.
    let back = lifted.at;
    let note = format!("the standby was back {:.1} s later", (back - from).as_secs_f64());
    rig.run_for(seconds(4.0));
    let success = Some((Pool::Standby, back));
    Struck { from, until: rig.now(), success, notes: vec![note] }
}

fn flap(rig: &mut Rig, args: &Args) -> Struck {
    let from = rig.now();
    for _ in 0..args.cycles {
        rig.inject(Fault::Kill, At::Hot);
        rig.run_for(seconds(args.flap));
        rig.lift(Fault::Kill, At::Hot);
        rig.run_for(seconds(args.flap));
    }
    let notes = vec![format!("{} times {} s down and up", args.cycles, args.flap)];
    Struck { from, until: rig.now(), success: Some((Pool::Standby, from)), notes }
}

fn bad_uri(rig: &Rig, args: &Args) -> Struck {
    let from = rig.now();
    let bad = rig.load(Plan::bad(FRONT));
    rig.run_for(seconds(args.window));
    let until = rig.now();
    let bad = rig.finish(bad).all();
    let asked = bad.why.get("500").copied().unwrap_or(0);
    let notes =
        vec![format!("the bad URI was answered {asked} of {} times with 500", bad.requests)];
    Struck { from, until, success: None, notes }
}

fn paused(rig: &Rig, proxy: &Proxy, args: &Args) -> Struck {
    let from = rig.now();
    proxy.pause();
    rig.run_for(seconds(3.0));
    proxy.resume();
    rig.run_for(seconds(args.window / 2.0));
    Struck { from, until: rig.now(), success: None, notes: Vec::new() }
}

fn isolated(rig: &mut Rig, args: &Args) -> Struck {
    let struck = rig.isolate(true);
    rig.run_for(seconds(2.0));
    rig.isolate(false);
    rig.run_for(seconds(args.window * 0.7));
    Struck { from: struck.at, until: rig.now(), success: None, notes: Vec::new() }
}

fn switch(rig: &Rig, proxy: &Proxy, peer: &Peer) -> Struck {
    let from = rig.now();
    let mut notes = Vec::new();
    for to in [Pool::Standby, Pool::Hot] {
        if let Err(error) = peer.switch(rig, proxy, to) {
            notes.push(format!("refused: {}", error.trim()));
        }
        rig.run_for(seconds(2.0));
    }
    Struck { from, until: rig.now(), success: Some((Pool::Standby, from)), notes }
}

fn websockets(rig: &mut Rig, args: &Args) -> Struck {
    let count = args.websockets as usize;
    let sockets = rig.websockets(count);
    let struck = rig.inject(Fault::Drop, At::Hot);
    rig.run_for(seconds(args.window));
    let (mut told, mut cut, mut refused, mut last) = (0, 0, 0, Duration::ZERO);
    for state in sockets.states() {
        match state {
            State::Told { at, .. } => {
                told += 1;
                last = last.max(at);
            }
            State::Cut { at } => {
                cut += 1;
                last = last.max(at);
            }
            State::Refused { .. } => refused += 1,
            State::Opening | State::Open => {}
        }
    }
    let after = last.saturating_sub(struck.at).as_millis();
    let notes = vec![format!(
        "of {count} WebSockets {told} were told by a close frame, {cut} cut without a word (the last \
         after {after} ms), {} hang; {refused} were refused from the start",
        count - told - cut - refused
    )];
    let success = Some((Pool::Standby, struck.at));
    Struck { from: struck.at, until: rig.now(), success, notes }
}

fn reloads(rig: &mut Rig, proxy: &Proxy, peer: &Peer) -> Struck {
    rig.inject(Fault::Kill, At::Hot);
    rig.run_for(seconds(3.0));
    let from = rig.now();
    for _ in 0..100 {
        peer.reload(proxy);
        rig.run_for(seconds(0.08));
    }
    Struck { from, until: rig.now(), success: None, notes: Vec::new() }
}

fn restarts(rig: &mut Rig, proxy: &mut Proxy, peer: &Peer) -> Struck {
    rig.inject(Fault::Refuse, At::Hot);
    rig.run_for(seconds(4.0));
    let from = rig.now();
    for _ in 0..20 {
        proxy.kill();
        peer.start_again(rig, proxy);
        let next = rig.now() + seconds(0.25);
        wait("the next restart is due", || (rig.now() > next).then_some(()));
    }
    Struck { from, until: rig.now(), success: None, notes: Vec::new() }
}
