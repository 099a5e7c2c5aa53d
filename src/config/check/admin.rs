//! ● The process as a whole: admin server, threads, stopping, logs.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::reader::Reader;
use super::writes::{self, Writing};
use crate::config::file::{self, Item};
use crate::config::units::{quote, wrong};
use crate::config::{AccessLog, Admin, Level, LogFormat, Logging, Output, Process, Secret};
use crate::config::{names, units};

/// The longest time any setting may ask for: longer ones are mistakes of unit.
pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);
pub(super) const MILLI: Duration = Duration::from_millis(1);

pub(super) fn admin(reader: &Reader<'_>, item: Option<Item<'_>>) -> Admin {
    let mut admin = Admin {
        listen: (Ipv4Addr::LOCALHOST, 9090).into(),
        listen_is_explicit: false,
        socket: None,
        token: None,
    };
    let Some(table) = item.and_then(|item| item.table(&file::ADMIN)) else {
        return admin;
    };
    let socket = table.get("socket");
    admin.socket = socket.and_then(|item| writes::path(reader, &item, Writing::Bound));
    admin.token = table.get("token").and_then(|item| token(reader, &item));
    let Some(item) = table.get("listen") else {
        return admin;
    };
    admin.listen_is_explicit = true;
    if let Some(listen) = item.parse(names::bind) {
        admin.listen = listen;
        if !is_loopback(listen) && !table.has("token") {
            item.warn(
                "the admin server can be reached from other machines and has no token",
                "listen on 127.0.0.1, or write `token: { file: PATH }`",
            );
        }
    }
    admin
}

fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// A token travels in a header, so it is made of visible ASCII.
fn token(reader: &Reader<'_>, item: &Item<'_>) -> Option<Secret> {
    let token = reader.secret(item)?;
    if token.0.iter().all(u8::is_ascii_graphic) {
        return Some(token);
    }
    item.error(
        "the token has a character that cannot stand in a header",
        "use letters, digits and punctuation without spaces, on one line",
    );
    None
}

pub(super) fn process(reader: &Reader<'_>, item: Option<Item<'_>>) -> Process {
    let table = item.and_then(|item| item.table(&file::PROCESS));
    let get = |key| table.as_ref()?.get(key);
    let duration = |key, default| {
        get(key).and_then(|item| item.duration(Duration::ZERO..=DAY)).unwrap_or(default)
    };
    let workers = get("workers").filter(|item| !item.is("auto")).and_then(|item| {
        let workers = u16::try_from(item.integer(1..=1024)?).ok()?;
        let cores = reader.world.cores();
        if usize::from(workers) > cores {
            item.warn(
                format!("{workers} workers share {cores} usable cores"),
                "write `auto`: one worker for each usable core",
            );
        }
        Some(workers)
    });
    let file = |key, writing| writes::path(reader, &get(key)?, writing);
    Process {
        workers,
        lame_duck: duration("lame_duck", Duration::ZERO),
        drain_timeout: duration("drain_timeout", Duration::from_secs(30)),
        state_file: file("state_file", Writing::Replaced),
        history_file: file("history_file", Writing::Rotated),
    }
}

pub(super) fn logging(reader: &Reader<'_>, item: Option<Item<'_>>) -> Logging {
    let table = item.and_then(|item| item.table(&file::LOGGING));
    let get = |key| table.as_ref()?.get(key);
    let levels = [
        ("error", Level::Error),
        ("warn", Level::Warn),
        ("info", Level::Info),
        ("debug", Level::Debug),
    ];
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    Logging {
        level: get("level").and_then(|item| item.choice(&levels, &[])).unwrap_or(Level::Info),
        format: get("format")
            .and_then(|item| item.choice(&formats, &[]))
            .unwrap_or(LogFormat::Json),
        access_log: get("access_log").and_then(|item| access_log(reader, item)),
    }
}

/// A mapping, `true` for all of it, or `false`.
fn access_log(reader: &Reader<'_>, item: Item<'_>) -> Option<AccessLog> {
    let whole = AccessLog { output: Output::Stdout, sample: 1.0 };
    if !item.is_map() {
        return item.flag()?.then_some(whole);
    }
    let table = item.table(&file::ACCESS_LOG)?;
    let sample = table.get("sample").and_then(|item| item.parse(units::percentage));
    Some(AccessLog {
        output: table.get("output").and_then(|item| output(reader, &item)).unwrap_or(whole.output),
        sample: sample.unwrap_or(whole.sample),
    })
}

fn output(reader: &Reader<'_>, item: &Item<'_>) -> Option<Output> {
    let output = item.parse(|text| match text {
        "stdout" => Ok(Output::Stdout),
        "stderr" => Ok(Output::Stderr),
        path if path.contains('/') => Ok(Output::File(path.into())),
        _ => wrong(
            format!("{} is neither `stdout`, `stderr` nor a path", quote(text)),
            format!("write `stdout`, `stderr`, or a path with a slash, e.g. `./{text}`"),
        ),
    })?;
    if let Output::File(_) = &output {
        writes::path(reader, item, Writing::Appended);
    }
    Some(output)
}
