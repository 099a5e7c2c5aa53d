//! ○ `history` and `explain`: what is recorded of moves.

use std::io::Write;
use std::time::SystemTime;

use serde::Deserialize;

use super::client::encoded;
use super::text::{self, Clock};
use super::{Client, Format, Outcome, expect, read};
use crate::failover::Record;
use crate::failover::record::Stamp;
use crate::sys;

#[derive(Debug, Deserialize)]
struct Listed {
    failovers: Vec<Record>,
}

/// Now, and the zone this machine is in.
pub(crate) fn clock() -> Clock {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let micros = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
    Clock { now: Stamp(micros), offset: sys::local_offset }
}

/// `standfast history`: the newest `limit` records, of one service or of all.
pub(crate) fn history(
    client: &Client,
    service: Option<&str>,
    limit: u16,
    format: Format,
    out: &mut dyn Write,
) -> Outcome {
    let of = service.map_or_else(String::new, |name| format!("&service={}", encoded(name)));
    let answer = expect(client.get(&format!("/api/v1/failovers?limit={limit}{of}"))?)?;
    if format.json {
        out.write_all(&answer.body)?;
        return Ok(());
    }
    let listed: Listed = read(client, &answer, "records")?;
    let page = text::history::history(&listed.failovers, clock(), format.paint);
    out.write_all(page.as_bytes())?;
    Ok(())
}

/// `standfast explain`: one record in full, and how its service stands now.
pub(crate) fn explain(client: &Client, id: &str, format: Format, out: &mut dyn Write) -> Outcome {
    let answer = expect(client.get(&format!("/api/v1/failovers/{}", encoded(id)))?)?;
    if format.json {
        out.write_all(&answer.body)?;
        return Ok(());
    }
    let record: Record = read(client, &answer, "a record")?;
    let service = super::service(client, &record.service).ok();
    let page = text::explain::explain(&record, service.as_ref(), clock(), format.paint);
    out.write_all(page.as_bytes())?;
    Ok(())
}
