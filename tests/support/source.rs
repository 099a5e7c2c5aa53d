//! Reads Rust source as `tests/tidy.rs` judges it: code apart from comments and literals, without
//! its unit tests, line numbers kept. A scanner, not a parser: enough for names and braces.
#![allow(unreachable_pub, reason = "a part of a test binary")]

/// One source file.
#[derive(Debug, Clone)]
pub struct Source {
    /// From the crate's root, such as `src/route/mod.rs`.
    pub path: String,
    pub text: String,
    /// `text` without unit tests, comments and the insides of literals blanked.
    pub code: String,
    /// `text` with everything but comments blanked.
    pub comments: String,
    /// Lines without unit tests.
    pub lines: usize,
    /// Files of unit tests it declares, without `.rs` or `/mod.rs`.
    pub test_files: Vec<String>,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        let (code, comments) = split(text);
        let test_files = test_files(path, text);
        let (code, test_lines) = without_tests(&code);
        let lines = text.lines().count() - test_lines;
        Self { path: path.to_owned(), text: text.to_owned(), code, comments, lines, test_files }
    }

    /// Module path: `src/a/b.rs` is `[a, b]`, `src/a/mod.rs` is `[a]`, `src/lib.rs` is `[]`.
    pub fn module(&self) -> Vec<&str> {
        let path = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let path = path.strip_suffix(".rs").unwrap_or(path);
        let path = path.strip_suffix("/mod").unwrap_or(path);
        if path == "lib" || path == "main" { Vec::new() } else { path.split('/').collect() }
    }

    /// Lines (from 1) of the code where `needle` stands as a path or name of its own.
    pub fn names(&self, needle: &str) -> Vec<usize> {
        self.code
            .lines()
            .enumerate()
            .filter(|(_, line)| contains_word(line, needle))
            .map(|(number, _)| number + 1)
            .collect()
    }

    /// Every path into the crate the code names, as segments after `crate`; groups are taken apart.
    pub fn crate_paths(&self) -> Vec<Vec<String>> {
        let mut paths = Vec::new();
        for (at, _) in self.code.match_indices("crate::") {
            if is_start(&self.code, at) {
                expand(&self.code[at + "crate::".len()..], &[], &mut paths);
            }
        }
        let to_root = "super::".repeat(self.module().len());
        if !to_root.is_empty() {
            for (at, _) in self.code.match_indices(&to_root) {
                let before = &self.code[..at];
                if is_start(&self.code, at) && !before.ends_with("::") {
                    expand(&self.code[at + to_root.len()..], &[], &mut paths);
                }
            }
        }
        paths
    }

    /// Name, first line and length of every function with a body.
    pub fn functions(&self) -> Vec<(String, usize, usize)> {
        let mut functions = Vec::new();
        for (at, _) in self.code.match_indices("fn ") {
            let rest = &self.code[at + 3..];
            let name: String = rest.chars().take_while(|c| is_word(*c)).collect();
            if name.is_empty() || !is_start(&self.code, at) {
                continue;
            }
            if let Some((_, end)) = block(rest) {
                let line = self.code[..at].lines().count().max(1);
                functions.push((name, line, rest[..end].matches('\n').count() + 1));
            }
        }
        functions
    }
}

/// Files (from the crate's root, without `.rs` or `/mod.rs`) that are modules under `#[cfg(test)]`.
fn test_files(path: &str, text: &str) -> Vec<String> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let own = path.strip_suffix(".rs").unwrap_or(path);
    let own = own.strip_suffix("/mod").unwrap_or(own);
    let own = own.strip_suffix("/lib").unwrap_or(own);
    let mut files = Vec::new();
    for item in text.split("#[cfg(test)]\n").skip(1) {
        let mut lines = item.lines();
        let first = lines.next().unwrap_or("");
        if let Some(file) = first.strip_prefix("#[path = \"") {
            files.push(format!("{folder}/{}", file.trim_end_matches(".rs\"]")));
        } else if let Some((_, name)) = first.split_once("mod ") {
            files.extend(name.strip_suffix(';').map(|name| format!("{own}/{name}")));
        }
    }
    files
}

/// Where the next block begins and ends (after its brace); `None` if a `;` comes first.
fn block(code: &str) -> Option<(usize, usize)> {
    let mut depth = 0usize;
    let mut begin = 0;
    let mut parentheses = 0usize;
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' => parentheses += 1,
            ')' | ']' => parentheses = parentheses.saturating_sub(1),
            ';' if depth == 0 && parentheses == 0 => return None,
            '{' => {
                if depth == 0 {
                    begin = at;
                }
                depth += 1;
            }
            '}' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some((begin, at + 1));
                }
            }
            _ => {}
        }
    }
    None
}

/// Blanks every item under `#[cfg(test)]`; how many lines they took.
fn without_tests(code: &str) -> (String, usize) {
    let mut out = code.to_owned();
    let mut lines = 0;
    while let Some(at) = out.find("#[cfg(test)]") {
        let rest = &out[at..];
        let end = match block(rest) {
            Some((_, end)) => end,
            None => rest.find(';').map_or(rest.len(), |end| end + 1),
        };
        let blank: String = rest[..end].chars().map(|c| if c == '\n' { c } else { ' ' }).collect();
        lines += blank.matches('\n').count() + 1;
        out = format!("{}{blank}{}", &out[..at], &out[at + end..]);
    }
    (out, lines)
}

/// Expands `a::{b, c::d}` behind `prefix`.
fn expand(code: &str, prefix: &[String], out: &mut Vec<Vec<String>>) {
    let mut path = prefix.to_vec();
    let mut rest = code;
    loop {
        rest = rest.trim_start();
        if let Some(group) = rest.strip_prefix('{') {
            for part in parts(group) {
                expand(part, &path, out);
            }
            return;
        }
        let word: String = rest.chars().take_while(|c| is_word(*c)).collect();
        if word.is_empty() {
            break;
        }
        rest = rest[word.len()..].trim_start();
        path.push(word);
        match rest.strip_prefix("::") {
            Some(after) => rest = after,
            None => break,
        }
    }
    if path.len() > prefix.len() {
        out.push(path);
    }
}

/// The comma-separated parts of a group, up to its closing brace.
fn parts(group: &str) -> Vec<&str> {
    let (mut depth, mut begin, mut parts) = (0usize, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                parts.push(&group[begin..at]);
                return parts;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&group[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// No name reaches into this place from before.
fn is_start(code: &str, at: usize) -> bool {
    !code[..at].chars().next_back().is_some_and(is_word)
}

pub fn contains_word(line: &str, needle: &str) -> bool {
    line.match_indices(needle).any(|(at, _)| {
        let after = line[at + needle.len()..].chars().next();
        let open_end = needle.ends_with(|c| !is_word(c));
        is_start(line, at) && (open_end || !after.is_some_and(is_word))
    })
}

/// Code with comments and literals blanked; comments with all else blanked.
fn split(text: &str) -> (String, String) {
    let mut scan = Scan { rest: text, code: String::new(), comments: String::new() };
    while !scan.rest.is_empty() {
        scan.step();
    }
    (scan.code, scan.comments)
}

struct Scan<'a> {
    rest: &'a str,
    code: String,
    comments: String,
}

impl Scan<'_> {
    fn step(&mut self) {
        let rest = self.rest;
        if rest.starts_with("//") {
            self.comment(rest.find('\n').unwrap_or(rest.len()));
        } else if rest.starts_with("/*") {
            self.comment(rest.find("*/").map_or(rest.len(), |end| end + 2));
        } else if let Some(length) = raw_string(rest, &self.code) {
            self.literal(length);
        } else if rest.starts_with('"') {
            self.literal(quoted(rest, '"'));
        } else if rest.starts_with('\'') && is_char(rest) {
            self.literal(quoted(rest, '\''));
        } else {
            let c = rest.chars().next().unwrap_or(' ');
            self.code.push(c);
            self.comments.push(blank(c));
            self.rest = &rest[c.len_utf8()..];
        }
    }

    fn comment(&mut self, length: usize) {
        let (comment, rest) = self.rest.split_at(length);
        self.code.extend(comment.chars().map(blank));
        self.comments.push_str(comment);
        self.rest = rest;
    }

    fn literal(&mut self, length: usize) {
        let (literal, rest) = self.rest.split_at(length);
        self.code.extend(literal.chars().map(blank));
        self.comments.extend(literal.chars().map(blank));
        self.rest = rest;
    }
}

fn blank(c: char) -> char {
    if c == '\n' { c } else { ' ' }
}

/// Length of a raw string that begins here.
fn raw_string(rest: &str, before: &str) -> Option<usize> {
    if before.chars().next_back().is_some_and(|c| is_word(c) && c != 'b') {
        return None;
    }
    let after = rest.strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let body = after[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let end = body.find(&close).map_or(body.len(), |end| end + close.len());
    Some(1 + hashes + 1 + end)
}

/// Length of a literal that begins and ends with `quote`.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// A character literal, not a lifetime.
fn is_char(rest: &str) -> bool {
    let mut chars = rest.chars().skip(1);
    match (chars.next(), chars.next()) {
        (Some('\\'), _) => true,
        (_, after) => after == Some('\''),
    }
}
