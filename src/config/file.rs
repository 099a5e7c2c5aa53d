//! ● The shape of the YAML file (private to this folder): which mappings there are and which keys
//! they have, and how a value of the tree is read.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::check::Severity;
use super::parse::{Key, Node, Place, Value, push_key};
use super::report::Report;
use super::units::{self, Bytes, Period, Wrong, quote};

/// One kind of mapping.
pub(super) struct Shape {
    /// With an article: `a listener`.
    pub(super) name: &'static str,
    pub(super) keys: &'static [&'static str],
    /// Keys of the schema whose feature is still to come: refused, never ignored.
    pub(super) later: &'static [&'static str],
}

const fn shape(
    name: &'static str,
    keys: &'static [&'static str],
    later: &'static [&'static str],
) -> Shape {
    Shape { name, keys, later }
}

pub(super) const TOP: Shape = shape(
    "the configuration",
    &["version", "admin", "process", "logging", "listeners", "services"],
    &["tracing", "acme"],
);
pub(super) const ADMIN: Shape = shape("`admin`", &["listen", "socket", "token"], &[]);
pub(super) const SECRET: Shape = shape("a secret", &["file", "env"], &[]);
pub(super) const PROCESS: Shape = shape(
    "`process`",
    &["workers", "lame_duck", "drain_timeout", "state_file", "history_file"],
    &[],
);
pub(super) const LOGGING: Shape = shape("`logging`", &["level", "format", "access_log"], &[]);
pub(super) const ACCESS_LOG: Shape = shape("`access_log`", &["output", "sample"], &[]);
pub(super) const LISTENER: Shape = shape(
    "a listener",
    &[
        "name",
        "bind",
        "mode",
        "protocols",
        "tls",
        "redirect",
        "proxy_protocol",
        "trusted_proxies",
        "limits",
        "routes",
        "service",
    ],
    &["allow", "deny"],
);
pub(super) const PROXY_PROTOCOL: Shape = shape("`proxy_protocol`", &["from"], &[]);
pub(super) const TLS: Shape = shape(
    "`tls` of a listener",
    &["cert_file", "key_file", "certificates", "min_version"],
    &["client_auth", "acme"],
);
pub(super) const CERTIFICATE: Shape =
    shape("a certificate", &["cert_file", "key_file"], &["acme", "domains"]);
pub(super) const LIMITS: Shape = shape(
    "`limits`",
    &[
        "max_connections",
        "header_timeout",
        "idle_timeout",
        "body_timeout",
        "max_header_size",
        "max_headers",
        "max_uri",
        "max_body_size",
        "max_concurrent_streams",
    ],
    &[],
);
pub(super) const ROUTE: Shape = shape(
    "a route",
    &["hosts", "path_prefix", "sni", "alpn", "service", "idempotency_key"],
    &["headers", "rewrite", "redirect", "timeouts", "retries", "allow", "deny"],
);
pub(super) const SERVICE: Shape = shape(
    "a service",
    &[
        "balance",
        "failover",
        "health_check",
        "outlier_detection",
        "retries",
        "timeouts",
        "upstream",
        "pools",
    ],
    &["hash_on", "sticky"],
);
pub(super) const FAILOVER: Shape =
    shape("`failover`", &["min_healthy", "failback", "when_none", "hold", "sessions"], &[]);
pub(super) const FAILBACK: Shape = shape("`failback`", &["mode", "stable_for", "ramp"], &[]);
pub(super) const HOLD: Shape = shape("`hold`", &["time", "requests"], &[]);
pub(super) const SESSIONS: Shape = shape("`sessions`", &["close_after", "spread"], &[]);
pub(super) const OUTLIER_DETECTION: Shape =
    shape("`outlier_detection`", &["consecutive_errors"], &[]);
pub(super) const RETRIES: Shape = shape("`retries`", &["attempts", "budget"], &[]);
pub(super) const TIMEOUTS: Shape =
    shape("`timeouts`", &["connect", "response_header", "idle", "total"], &[]);
pub(super) const UPSTREAM: Shape = shape(
    "`upstream`",
    &["protocol", "proxy_protocol", "tls", "max_connections", "max_requests", "warm"],
    &[],
);
pub(super) const UPSTREAM_TLS: Shape =
    shape("`tls` of `upstream`", &["server_name", "ca_file", "verify"], &["cert_file", "key_file"]);
pub(super) const HEALTH_CHECK: Shape = shape(
    "a health check",
    &[
        "type",
        "path",
        "host",
        "interval",
        "timeout",
        "fast_interval",
        "unhealthy_threshold",
        "fall",
        "healthy_threshold",
        "rise",
        "expect",
    ],
    &["tls", "service"],
);
pub(super) const EXPECT: Shape = shape("`expect`", &["status", "body_contains", "header"], &[]);
pub(super) const POOL: Shape =
    shape("a pool", &["name", "endpoints", "health_check", "upstream"], &["resolve"]);
pub(super) const ENDPOINT: Shape = shape("an endpoint", &["url", "weight"], &[]);

/// What serves today where a key is still to come: the shape's name, the key, what to do.
const INSTEAD: &[(&str, &str, &str)] = &[(
    HEALTH_CHECK.name,
    "tls",
    "write it as `tls` of `upstream` (of the service or of the pool), which probes obey too",
)];

/// A value of the tree with its path, able to report on itself.
#[derive(Clone)]
pub(super) struct Item<'a> {
    node: &'a Node,
    at: Place,
    pub(super) path: String,
    report: &'a Report<'a>,
}

impl<'a> Item<'a> {
    pub(super) fn root(node: &'a Node, report: &'a Report<'a>) -> Self {
        Self { node, at: node.at, path: String::new(), report }
    }

    pub(super) fn line(&self) -> usize {
        self.at.line
    }

    pub(super) fn error(&self, message: impl Into<String>, remedy: impl Into<String>) {
        self.report.push(Severity::Error, &self.path, self.at, message.into(), remedy.into());
    }

    pub(super) fn warn(&self, message: impl Into<String>, remedy: impl Into<String>) {
        self.report.push(Severity::Warning, &self.path, self.at, message.into(), remedy.into());
    }

    /// Strikes this value out of every snippet.
    pub(super) fn hide(&self) {
        if let Some(text) = self.scalar() {
            self.report.hide(text);
        }
    }

    pub(super) fn is_map(&self) -> bool {
        matches!(self.node.value, Value::Map(_))
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self.node.value, Value::List(_))
    }

    /// True for the scalar `text`.
    pub(super) fn is(&self, text: &str) -> bool {
        self.scalar() == Some(text)
    }

    /// The text of a scalar, without a finding where there is none.
    pub(super) fn scalar(&self) -> Option<&'a str> {
        match &self.node.value {
            Value::Scalar(text) => Some(text),
            _ => None,
        }
    }

    fn unexpected(&self, expected: &str, remedy: &str) {
        let found = match &self.node.value {
            Value::Broken => return,
            Value::Null => "nothing".into(),
            Value::Scalar(text) => quote(text),
            Value::List(_) => "a list".into(),
            Value::Map(_) => "a mapping".into(),
        };
        self.error(format!("expected {expected}, found {found}"), remedy);
    }

    pub(super) fn text(&self) -> Option<&'a str> {
        match &self.node.value {
            Value::Scalar(text) if !text.is_empty() => Some(text),
            Value::Scalar(_) => {
                self.error("this value is empty", "write a value, or remove the key");
                None
            }
            _ => {
                self.unexpected("a single value", "write one value here");
                None
            }
        }
    }

    /// Reads the text by `read` and reports what it says is wrong.
    pub(super) fn parse<T>(&self, read: impl FnOnce(&'a str) -> Result<T, Wrong>) -> Option<T> {
        let found = read(self.text()?);
        found.map_err(|wrong| self.error(wrong.message, wrong.remedy)).ok()
    }

    pub(super) fn duration(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        let value = self.parse(units::duration)?;
        self.within(value, range, Period)
    }

    pub(super) fn size(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let value = self.parse(units::size)?;
        self.within(value, range, Bytes)
    }

    pub(super) fn integer(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let value = self.parse(|text| match text.parse::<u64>() {
            Ok(value) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(value),
            _ => units::wrong(
                format!("expected a whole number, found {}", quote(text)),
                format!("write a number between {} and {}", range.start(), range.end()),
            ),
        })?;
        self.within(value, range, |number| number)
    }

    fn within<T, D>(&self, value: T, range: RangeInclusive<T>, show: impl Fn(T) -> D) -> Option<T>
    where
        T: PartialOrd + Copy,
        D: std::fmt::Display,
    {
        if range.contains(&value) {
            return Some(value);
        }
        let side = if value < *range.start() { "small" } else { "large" };
        let (start, end) = (show(*range.start()), show(*range.end()));
        self.error(
            format!("{} is too {side}", show(value)),
            format!("write a value between {start} and {end}"),
        );
        None
    }

    pub(super) fn flag(&self) -> Option<bool> {
        self.choice(&[("true", true), ("false", false)], &[])
    }

    /// One of a few words; `later` are words whose feature is still to come.
    pub(super) fn choice<T: Copy>(&self, words: &[(&str, T)], later: &[&str]) -> Option<T> {
        let text = self.text()?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let known = words.iter().map(|(word, _)| *word);
        if later.contains(&text) {
            let message = format!("{} is not available yet", quote(text));
            self.error(message, format!("write {}", one_of(known)));
            return None;
        }
        let remedy = match closest(text, known.clone()) {
            Some(close) => format!("did you mean `{close}`?"),
            None => "write one of them".into(),
        };
        self.error(format!("expected {}, found {}", one_of(known), quote(text)), remedy);
        None
    }

    /// The items of a list that must not be empty.
    pub(super) fn list(&self) -> Option<Vec<Self>> {
        let Value::List(nodes) = &self.node.value else {
            self.unexpected("a list", "write `[…]`, or one line with `- ` for each");
            return None;
        };
        if nodes.is_empty() {
            self.error("this list is empty", "add an entry, or remove the key");
            return None;
        }
        let item = |(index, node): (usize, &'a Node)| Item {
            node,
            at: node.at,
            path: format!("{}[{index}]", self.path),
            report: self.report,
        };
        Some(nodes.iter().enumerate().map(item).collect())
    }

    /// The entries of a mapping whose keys are names the operator chose.
    pub(super) fn entries(&self) -> Option<Vec<(&'a Key, Self)>> {
        let Value::Map(entries) = &self.node.value else {
            self.unexpected("a mapping", "write `name: …`, one for each");
            return None;
        };
        Some(entries.iter().map(|(key, node)| (key, self.child(key, node))).collect())
    }

    /// A mapping of this shape; unknown keys and those of later versions are reported here.
    pub(super) fn table(&self, shape: &Shape) -> Option<Table<'a>> {
        let Value::Map(entries) = &self.node.value else {
            let example = shape.keys.first().copied().unwrap_or("key");
            self.unexpected(
                &format!("a mapping ({})", shape.name),
                &format!("write its keys, e.g. `{example}: …`; known are {}", list(shape.keys)),
            );
            return None;
        };
        let mut meant = Vec::new();
        for (key, node) in entries {
            if shape.keys.contains(&key.text.as_str()) {
                continue;
            }
            let found = self.child(key, node).at_key(key);
            meant.extend(found.unknown_key(&key.text, shape));
        }
        Some(Table { item: self.clone(), entries, meant })
    }

    /// Reports a key the shape does not have; answers the key that was probably meant.
    fn unknown_key(&self, key: &str, shape: &Shape) -> Option<&'static str> {
        if shape.later.contains(&key) {
            let instead =
                INSTEAD.iter().find(|(name, later, _)| (*name, *later) == (shape.name, key));
            let remove = format!("remove `{key}`");
            let remedy = instead.map_or(remove, |(_, _, instead)| (*instead).to_owned());
            self.error(format!("`{key}` of {} is not available yet", shape.name), remedy);
            return None;
        }
        let close = closest(key, shape.keys.iter().copied());
        let remedy = match close {
            Some(close) => format!("did you mean `{close}`?"),
            None => format!("known keys of {} are {}", shape.name, list(shape.keys)),
        };
        self.error(format!("unknown key {} in {}", quote(key), shape.name), remedy);
        close
    }

    fn child(&self, key: &Key, node: &'a Node) -> Self {
        let mut path = self.path.clone();
        push_key(&mut path, &key.text);
        Item { node, at: node.at, path, report: self.report }
    }

    /// The same item, pointing at its key.
    pub(super) fn at_key(mut self, key: &Key) -> Self {
        self.at = key.at;
        self
    }
}

/// A mapping of a known shape.
#[derive(Clone)]
pub(super) struct Table<'a> {
    pub(super) item: Item<'a>,
    entries: &'a [(Key, Node)],
    /// Keys that were probably meant by an unknown one: not reported as missing too.
    meant: Vec<&'static str>,
}

impl<'a> Table<'a> {
    fn entry(&self, key: &str) -> Option<(&'a Key, &'a Node)> {
        self.entries.iter().find(|(found, _)| found.text == key).map(|(key, node)| (key, node))
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// True where an unknown key, reported already, is probably this one.
    pub(super) fn was_meant(&self, key: &str) -> bool {
        self.meant.contains(&key)
    }

    /// The value of a key, if it is written; a key without a value is reported.
    pub(super) fn get(&self, key: &str) -> Option<Item<'a>> {
        let (key, node) = self.entry(key)?;
        let item = self.item.child(key, node);
        if matches!(node.value, Value::Null) {
            let item = item.at_key(key);
            item.error(format!("`{}` has no value", key.text), "write a value, or remove the key");
            return None;
        }
        Some(item)
    }

    /// As [`Table::get`]; a missing key is an error.
    pub(super) fn need(&self, key: &'static str, remedy: &str) -> Option<Item<'a>> {
        if !self.has(key) && !self.was_meant(key) {
            self.item.error(format!("`{key}` is missing"), remedy);
        }
        self.get(key)
    }

    /// The place of a key, for findings about it rather than its value.
    pub(super) fn key(&self, key: &str) -> Option<Item<'a>> {
        let (key, node) = self.entry(key)?;
        Some(self.item.child(key, node).at_key(key))
    }
}

/// Mappings laid over each other, the first on top: a pool narrows its service key by key.
#[derive(Clone)]
pub(super) struct Layers<'a>(pub(super) Vec<Table<'a>>);

impl<'a> Layers<'a> {
    pub(super) fn get(&self, key: &str) -> Option<Item<'a>> {
        self.0.iter().find(|table| table.has(key))?.get(key)
    }

    /// The mappings under one key, laid over each other likewise.
    pub(super) fn under(&self, key: &str, shape: &Shape) -> Self {
        let items = self.0.iter().filter_map(|table| table.get(key));
        Layers(items.filter_map(|item| item.table(shape)).collect())
    }
}

fn one_of<'w>(words: impl Iterator<Item = &'w str>) -> String {
    let words: Vec<_> = words.map(|word| format!("`{word}`")).collect();
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}

fn list(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// The word probably meant by a mistyped one: at most a third of its letters differ.
pub(super) fn closest<'w>(text: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    let distance = |word: &str| strsim::damerau_levenshtein(text, word);
    let near = words.map(|word| (distance(word), word));
    let best = near.min_by_key(|(distance, _)| *distance)?;
    let longest = text.chars().count().max(best.1.chars().count());
    (text.len() < 200 && best.0 * 3 <= longest.max(3)).then_some(best.1)
}
