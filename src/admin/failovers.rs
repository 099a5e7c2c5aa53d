//! ● The failover records, as the API lists them.

use std::sync::Arc;

use http::StatusCode;
use serde_json::json;

use super::orders;
use super::path::pairs;
use super::reply::{self, Reply};
use crate::failover::Record;
use crate::table::Table;

/// Records in one answer unless told otherwise, and at the most.
const LIMIT: usize = 100;
const MOST: usize = 10_000;

/// `GET /api/v1/failovers?service=S&limit=N`: newest first.
pub(super) fn list(table: &Table, query: &str) -> Reply {
    let (service, limit) = match filter(query) {
        Ok(filter) => filter,
        Err(wrong) => return reply::problem(StatusCode::BAD_REQUEST, &wrong),
    };
    let mut records: Vec<&Arc<Record>> = match &service {
        Some(name) => match orders::known(table, name) {
            Ok(service) => service.history.records.iter().collect(),
            Err(unknown) => return orders::not_found(&unknown),
        },
        None => table.services.iter().flat_map(|service| &service.history.records).collect(),
    };
    records.sort_by_key(|record| std::cmp::Reverse(record.times.decided));
    records.truncate(limit);
    let records: Vec<&Record> = records.into_iter().map(|record| &**record).collect();
    reply::json(StatusCode::OK, &json!({ "failovers": records }))
}

fn filter(query: &str) -> Result<(Option<String>, usize), String> {
    let (mut service, mut limit) = (None, LIMIT);
    for (name, value) in pairs(query).ok_or("the query is not text")? {
        match &*name {
            "service" => service = Some(value),
            "limit" => match value.parse() {
                Ok(number @ 1..=MOST) => limit = number,
                _ => return Err(format!("limit: a number from 1 to {MOST}, not {value:?}")),
            },
            _ => return Err(format!("no parameter {name:?}; there are: service, limit")),
        }
    }
    Ok((service, limit))
}

/// `GET /api/v1/failovers/ID`.
pub(super) fn one(table: &Table, id: &str) -> Reply {
    let mut records = table.services.iter().flat_map(|service| &service.history.records);
    match records.clone().find(|record| record.id == id) {
        Some(record) => reply::json(StatusCode::OK, &**record),
        None if records.next().is_none() => {
            orders::not_found(&format!("no failover {id:?}: nothing has moved yet"))
        }
        None => orders::not_found(&format!(
            "no failover {id:?}; /api/v1/failovers lists those that are kept"
        )),
    }
}
