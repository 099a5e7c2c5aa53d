//! ● What reading needs besides the text: files, variables and secrets, each asked of the world.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;

use super::World;
use crate::config::Secret;
use crate::config::file::{self, Item};
use crate::config::parse::{Node, Value, push_index, push_key};
use crate::config::report::Report;

/// What a file holds, or why it cannot be read.
type Content = Result<Rc<[u8]>, String>;

pub(super) struct Reader<'a> {
    pub(super) world: &'a dyn World,
    report: &'a Report<'a>,
    /// A certificate of many listeners is read once.
    files: RefCell<HashMap<PathBuf, Content>>,
    digest: RefCell<Digest>,
    /// Files the process will write → the line that names them.
    pub(super) written: RefCell<HashMap<PathBuf, usize>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &str, world: &'a dyn World, report: &'a Report<'a>) -> Self {
        let digest = RefCell::new(Digest::new(text.as_bytes()));
        let (files, written) = (RefCell::default(), RefCell::default());
        Self { world, report, files, digest, written }
    }

    pub(super) fn digest(&self) -> String {
        format!("{:016x}", self.digest.borrow().0)
    }

    /// The file an item names; its content becomes part of the digest.
    pub(super) fn file(&self, item: &Item<'_>) -> Option<(PathBuf, Vec<u8>)> {
        let (path, content) = self.secret_file(item)?;
        self.digest.borrow_mut().add(&content);
        Some((path, content))
    }

    /// The file an item names. Secrets stay out of the digest: it is shown to everyone, and would
    /// let a weak token be guessed.
    pub(super) fn secret_file(&self, item: &Item<'_>) -> Option<(PathBuf, Vec<u8>)> {
        let path = PathBuf::from(item.text()?);
        let mut files = self.files.borrow_mut();
        let read = files.entry(path.clone()).or_insert_with(|| {
            let content = self.world.read_file(&path);
            content.map(Rc::from).map_err(|error| error.to_string())
        });
        match read {
            Ok(content) => Some((path, content.to_vec())),
            Err(error) => {
                item.error(
                    format!("cannot read `{}`: {error}", path.display()),
                    "correct the path (relative ones start at the working directory), or make the \
                     file readable",
                );
                None
            }
        }
    }

    /// `{ file: … }`, `{ env: … }`, or the value itself with a warning.
    pub(super) fn secret(&self, item: &Item<'_>) -> Option<Secret> {
        if !item.is_map() {
            let text = item.text()?;
            item.hide();
            item.warn(
                "this secret stands in the file",
                "move it to a file of its own and write `{ file: PATH }`",
            );
            return Some(Secret(text.into()));
        }
        let table = item.table(&file::SECRET)?;
        match (table.get("file"), table.get("env")) {
            (Some(file), None) => {
                let (_, content) = self.secret_file(&file)?;
                filled(&file, content)
            }
            (None, Some(env)) => {
                let name = env.text()?;
                let Some(value) = self.world.env(name) else {
                    unset(&env, name);
                    return None;
                };
                filled(&env, value.into_bytes())
            }
            _ => {
                item.error(
                    "a secret has exactly one of `file` and `env`",
                    "write `{ file: PATH }` or `{ env: NAME }`",
                );
                None
            }
        }
    }

    /// Replaces `${VAR}` and `${VAR:-default}` in every value. After parsing, so that no value can
    /// add keys; in values alone, so that no variable can rename one.
    pub(super) fn expand(&self, root: &mut Node) {
        self.expand_below(root, &mut String::new());
    }

    fn expand_below(&self, node: &mut Node, path: &mut String) {
        let length = path.len();
        match &mut node.value {
            Value::Scalar(text) if text.contains("${") => match self.expanded(text) {
                Ok(expanded) => *text = expanded,
                Err((message, remedy)) => {
                    self.report.push(super::Severity::Error, path, node.at, message, remedy);
                    node.value = Value::Broken;
                }
            },
            Value::List(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    push_index(path, index);
                    self.expand_below(item, path);
                    path.truncate(length);
                }
            }
            Value::Map(entries) => {
                for (key, value) in entries {
                    push_key(path, &key.text);
                    self.expand_below(value, path);
                    path.truncate(length);
                }
            }
            Value::Scalar(_) | Value::Null | Value::Broken => {}
        }
    }

    fn expanded(&self, text: &str) -> Result<String, (String, String)> {
        let mut expanded = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            let (before, from) = rest.split_at(start);
            // `$${` is a literal `${`.
            if let Some(before) = before.strip_suffix('$') {
                expanded.push_str(before);
                expanded.push_str("${");
                rest = &from[2..];
                continue;
            }
            let Some((inside, after)) = from[2..].split_once('}') else {
                let remedy = "write `${NAME}`, or `$${` for a literal `${`";
                return Err(("`${` without a `}`".into(), remedy.into()));
            };
            expanded.push_str(before);
            expanded.push_str(&self.variable(inside)?);
            rest = after;
        }
        expanded.push_str(rest);
        Ok(expanded)
    }

    fn variable(&self, inside: &str) -> Result<String, (String, String)> {
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if name.is_empty() || !name.bytes().all(letter) || name.as_bytes()[0].is_ascii_digit() {
            return Err((
                format!("`${{{}}}` does not name a variable", inside.escape_debug()),
                "write `${NAME}` or `${NAME:-default}`".into(),
            ));
        }
        let value = self.world.env(name).filter(|value| !value.is_empty() || default.is_none());
        let Some(value) = value.or_else(|| default.map(str::to_owned)) else {
            return Err((
                format!("the variable `{name}` is not set"),
                format!("set it, or give a default: `${{{name}:-…}}`"),
            ));
        };
        self.digest.borrow_mut().add(value.as_bytes());
        Ok(value)
    }
}

fn unset(item: &Item<'_>, name: &str) {
    item.error(
        format!("the variable `{}` is not set", name.escape_debug()),
        "set it in the environment of the process",
    );
}

/// A secret without the newline editors leave behind.
fn filled(item: &Item<'_>, mut content: Vec<u8>) -> Option<Secret> {
    while content.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        content.pop();
    }
    if content.is_empty() {
        item.error("this secret is empty", "write the secret into the place named here");
        return None;
    }
    Some(Secret(content))
}

/// 64-bit FNV-1a (draft-eastlake-fnv): stable from build to build, which std's hashers are not.
struct Digest(u64);

impl Digest {
    fn new(bytes: &[u8]) -> Self {
        let mut digest = Self(0xcbf2_9ce4_8422_2325);
        digest.add(bytes);
        digest
    }

    fn add(&mut self, bytes: &[u8]) {
        // The length keeps two neighbouring parts from passing for one.
        for byte in bytes.iter().copied().chain((bytes.len() as u64).to_le_bytes()) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}
