//! ● The YAML crate, hidden: the one file that names it.
//!
//! YAML becomes a tree of [`Node`]s that know their place. The shape is checked over that tree and
//! not by `Deserialize`, because a derived reader stops at the first mistake and an operator wants
//! them all. Scalars are kept as text: whether `8080` is a port or a name is the reader's decision.

use std::collections::HashMap;
use std::fmt;

use super::units::quote;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::options::{DuplicateKeyPolicy, NonFiniteFloatPolicy};
use serde_yaml::{Error, MessageFormatter, Options, Spanned, UserMessageFormatter};

/// Line and column, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) column: usize,
}

/// A value and where it is used (for an alias: where the alias stands).
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) at: Place,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    /// A key without a value, `~` or `null`.
    Null,
    /// The text of a scalar, quoted or not.
    Scalar(String),
    List(Vec<Node>),
    /// In the order of the file; keys are unique.
    Map(Vec<(Key, Node)>),
    /// Something already reported: whoever reads it stays silent.
    Broken,
}

#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) text: String,
    pub(super) at: Place,
}

/// What is wrong with the YAML itself.
#[derive(Debug)]
pub(super) struct Fault {
    /// Empty where the fault is one of the syntax.
    pub(super) path: String,
    pub(super) at: Place,
    pub(super) message: String,
    pub(super) remedy: String,
}

/// Reads the text. Duplicate keys leave a tree (the first one counts), so that the rest of the
/// file can be checked in the same run; any other fault of the syntax leaves none.
pub(super) fn parse(text: &str) -> (Option<Node>, Vec<Fault>) {
    let error = match read(text, DuplicateKeyPolicy::Error) {
        Ok(raw) => return (Some(Builder::new(text).node(raw)), Vec::new()),
        Err(error) => error,
    };
    let Error::DuplicateMappingKey { key, location } = cause(&error) else {
        return (None, vec![fault(&error)]);
    };
    let found = duplicate(key.as_deref().unwrap_or_default(), "", place(location), None);
    let mut builder = Builder::new(text);
    let node = match read(text, DuplicateKeyPolicy::LastWins) {
        Ok(raw) => Some(builder.node(raw)),
        Err(error) => {
            builder.faults.push(fault(&error));
            None
        }
    };
    if builder.faults.iter().all(|fault| fault.at != found.at) {
        builder.faults.push(found);
    }
    (node, builder.faults)
}

fn read(text: &str, duplicate_keys: DuplicateKeyPolicy) -> Result<Spanned<Raw>, Error> {
    serde_yaml::from_str_with_options(text, options(duplicate_keys))
}

/// The crate wraps an error met behind an alias; the cause is what the operator can act on.
fn cause(error: &Error) -> &Error {
    match error {
        Error::AliasError { error, .. } | Error::WithSnippet { error, .. } => cause(error),
        other => other,
    }
}

/// Room for a hundred thousand routes, none for a bomb of aliases.
fn options(duplicate_keys: DuplicateKeyPolicy) -> Options {
    serde_yaml::options! {
        budget: serde_yaml::budget! {
            max_depth: 32,
            flow_nesting_limit: 32,
            max_nodes: 2_000_000,
            max_events: 4_000_000,
            max_aliases: 100,
            max_anchors: 100,
            max_merge_keys: 100,
        },
        alias_limits: serde_yaml::alias_limits! {
            max_total_replayed_events: 100_000,
            max_replay_stack_depth: 16,
        },
        duplicate_keys: duplicate_keys,
        // A guess of the crate; as text it is refused where a number was meant.
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        strict_booleans: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}

fn fault(error: &Error) -> Fault {
    let error = cause(error);
    let at = error.location().as_ref().map(place).unwrap_or_default();
    let said = UserMessageFormatter.format_message(error);
    // Some messages of the crate speak to programmers.
    let message = match error {
        Error::Budget { .. } => "too large, too deep or too many aliases".into(),
        Error::NullIntoString { .. } => "a key is missing here".into(),
        Error::Unexpected { expected: "string scalar", .. } => "a key must be a name".into(),
        _ => said.replace(char::is_control, " "),
    };
    let remedy = match error {
        Error::MultipleDocuments { .. } => "keep one document: remove `---` and what follows it",
        Error::Budget { .. } => "write it flatter, and repeat less by aliases",
        _ if message.contains("tag") => "remove the tag (`!…`)",
        _ => {
            "check indentation, quotes and brackets here and on the line above; nothing after this \
             place was checked"
        }
    };
    let message = format!("not valid YAML: {message}");
    Fault { path: String::new(), at, message, remedy: remedy.into() }
}

fn duplicate(key: &str, path: &str, at: Place, first: Option<Place>) -> Fault {
    let earlier = first.map_or(String::new(), |place| format!(" (first on line {})", place.line));
    Fault {
        path: path.into(),
        at,
        message: format!("{} is written twice in the same mapping{earlier}", quote(key)),
        remedy: "keep one of them".into(),
    }
}

fn place(location: &serde_yaml::Location) -> Place {
    // Files have fewer than 2^32 lines.
    let [line, column] = [location.line(), location.column()].map(|n| n.try_into().unwrap_or(0));
    Place { line, column }
}

/// What the crate hands out: the type is its guess, so a guessed scalar is looked up in the text.
enum Raw {
    Null,
    Text(String),
    /// A plain scalar that looks like a number or a boolean, as the crate would print it.
    Guessed(String),
    List(Vec<Spanned<Self>>),
    Map(Vec<(Spanned<String>, Spanned<Self>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Guessed(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Guessed(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Guessed(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Guessed(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Raw, E> {
        Ok(Raw::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}

/// Turns what the crate read into nodes, and finds the duplicates it was told to let through.
struct Builder<'a> {
    text: &'a str,
    /// The dotted path of the mapping being built.
    path: String,
    faults: Vec<Fault>,
}

impl<'a> Builder<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, path: String::new(), faults: Vec::new() }
    }

    fn node(&mut self, raw: Spanned<Raw>) -> Node {
        let at = place(&raw.referenced);
        let value = match raw.value {
            Raw::Null => Value::Null,
            Raw::Text(text) => Value::Scalar(text),
            Raw::Guessed(guess) => {
                Value::Scalar(as_written(self.text, &raw.defined).unwrap_or(guess))
            }
            Raw::List(items) => Value::List(self.items(items)),
            Raw::Map(entries) => Value::Map(self.entries(entries)),
        };
        Node { value, at }
    }

    fn items(&mut self, items: Vec<Spanned<Raw>>) -> Vec<Node> {
        let length = self.path.len();
        let mut nodes = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            push_index(&mut self.path, index);
            nodes.push(self.node(item));
            self.path.truncate(length);
        }
        nodes
    }

    fn entries(&mut self, entries: Vec<(Spanned<String>, Spanned<Raw>)>) -> Vec<(Key, Node)> {
        let length = self.path.len();
        let mut seen: HashMap<String, Place> = HashMap::with_capacity(entries.len());
        let mut kept = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let at = place(&key.referenced);
            push_key(&mut self.path, &key.value);
            if let Some(first) = seen.get(&key.value) {
                self.faults.push(duplicate(&key.value, &self.path, at, Some(*first)));
            } else {
                seen.insert(key.value.clone(), at);
                let node = self.node(value);
                kept.push((Key { text: key.value, at }, node));
            }
            self.path.truncate(length);
        }
        kept
    }
}

pub(super) fn push_key(path: &mut String, key: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(key);
}

pub(super) fn push_index(path: &mut String, index: usize) {
    path.push_str(&format!("[{index}]"));
}

/// The scalar's own letters: `1.20` must not become `1.2`.
fn as_written(text: &str, location: &serde_yaml::Location) -> Option<String> {
    let span = location.span();
    let start = usize::try_from(span.byte_offset()?).ok()?;
    let length = usize::try_from(span.byte_len()?).ok()?;
    let written = text.get(start..start.checked_add(length)?)?.trim();
    (!written.is_empty()).then(|| written.to_owned())
}
