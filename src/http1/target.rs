//! ● The request target (RFC 9112 section 3.2): which authority, which path, which query.
//!
//! One path is made and both routed and forwarded, so that no `..` can mean something else to the
//! endpoint than it meant to the route. Dot segments are removed, plain or percent-encoded; `//`
//! and `%2f` stay as they are. A dot segment that would show once `%2f` is decoded is refused.

use super::head::{Method, Span};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Path {
    /// As received.
    Span(Span),
    /// Normalised, in the request's own buffer.
    Own,
    /// `/`, for an absolute-form without a path.
    #[default]
    Root,
    /// `*`, for OPTIONS.
    Asterisk,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Target {
    /// Of an absolute-form.
    pub(super) authority: Option<Span>,
    pub(super) path: Path,
    pub(super) query: Option<Span>,
}

/// Reads the target that lies at `span` of `buf`; `own` takes the path if it must be rewritten.
pub(super) fn parse(
    buf: &[u8],
    span: Span,
    method: Method,
    own: &mut Vec<u8>,
) -> Result<Target, &'static str> {
    let text = span.of(buf);
    if text == b"*" {
        return match method {
            Method::Options => Ok(Target { path: Path::Asterisk, ..Target::default() }),
            _ => Err("asterisk-form is for options alone"),
        };
    }
    let mut target = Target::default();
    let mut rest = span;
    if !text.starts_with(b"/") {
        let scheme = scheme_len(text).ok_or("target is not a path nor an absolute uri")?;
        let start = span.start as usize + scheme;
        let after = buf.get(start..span.end as usize).unwrap_or(&[]);
        let len = after.iter().position(|b| matches!(b, b'/' | b'?' | b'#')).unwrap_or(after.len());
        target.authority = Some(Span::new(start, start + len));
        rest = Span::new(start + len, span.end as usize);
        if rest.of(buf).is_empty() {
            // RFC 9112 section 3.2.4: the last proxy turns this into the asterisk-form.
            target.path = if method == Method::Options { Path::Asterisk } else { Path::Root };
            return Ok(target);
        }
    }
    let bytes = rest.of(buf);
    let (path_len, has_dots) = path_len(bytes)?;
    let path = bytes.get(..path_len).unwrap_or(&[]);
    let path_end = rest.start as usize + path_len;
    target.path = if path.is_empty() {
        Path::Root
    } else if has_dots {
        remove_dot_segments(path, own)?;
        Path::Own
    } else {
        Path::Span(Span::new(rest.start as usize, path_end))
    };
    if path_len < bytes.len() {
        target.query = Some(Span::new(path_end + 1, rest.end as usize));
        check_query(bytes.get(path_len + 1..).unwrap_or(&[]))?;
    }
    Ok(target)
}

/// The length of `http://` or `https://` in front.
fn scheme_len(text: &[u8]) -> Option<usize> {
    [&b"http://"[..], b"https://"].into_iter().map(<[u8]>::len).find(|&len| {
        text.get(..len).is_some_and(|front| {
            front.eq_ignore_ascii_case(b"http://") || front.eq_ignore_ascii_case(b"https://")
        })
    })
}

/// The length of the path in front of `bytes`, and whether a segment begins with a dot.
fn path_len(bytes: &[u8]) -> Result<(usize, bool), &'static str> {
    let mut has_dots = false;
    let mut before = b'/';
    let mut at = 0;
    while let Some(&b) = bytes.get(at) {
        match CLASS[usize::from(b)] {
            Class::Plain => {}
            Class::Dot => has_dots |= before == b'/',
            Class::Percent => {
                let code = hex_pair(bytes, at + 1).ok_or("percent-encoding is invalid")?;
                match code {
                    0 => return Err("target has an encoded nul"),
                    b'.' | b'/' | b'\\' => has_dots = true,
                    _ => {}
                }
                at += 2;
            }
            Class::Query => return Ok((at, has_dots)),
            Class::Bad => return Err("target has a byte that no path has"),
        }
        before = b;
        at += 1;
    }
    Ok((at, has_dots))
}

/// A query is opaque to us: browsers send `%`, `\`, `|` and braces bare there, and no route reads
/// it.
fn check_query(query: &[u8]) -> Result<(), &'static str> {
    let bad = |b: u8| !matches!(b, 0x21..=0x7e) || matches!(b, b'#' | b'"' | b'<' | b'>');
    if query.iter().fold(false, |any, &b| any | bad(b)) {
        return Err("target has a byte that no query has");
    }
    Ok(())
}

/// RFC 3986 section 5.2.4, but a step above the root is an error instead of nothing.
fn remove_dot_segments(path: &[u8], own: &mut Vec<u8>) -> Result<(), &'static str> {
    own.clear();
    let segments = path.get(1..).unwrap_or(&[]);
    let mut rest = Some(segments);
    while let Some(bytes) = rest {
        let end = memchr::memchr(b'/', bytes);
        let (segment, after) = match end.and_then(|end| bytes.split_at_checked(end)) {
            Some((segment, after)) => (segment, after.get(1..)),
            None => (bytes, None),
        };
        match dots(segment) {
            0 => {
                check_encoded_slashes(segment)?;
                own.push(b'/');
                own.extend_from_slice(segment);
            }
            steps => {
                if steps == 2 {
                    let parent = memchr::memrchr(b'/', own).ok_or("target steps above the root")?;
                    own.truncate(parent);
                }
                if after.is_none() {
                    own.push(b'/');
                }
            }
        }
        rest = after;
    }
    Ok(())
}

/// 1 for `.`, 2 for `..`, in any spelling; 0 for any other segment.
fn dots(segment: &[u8]) -> usize {
    let mut rest = segment;
    let mut count = 0;
    while count < 3 {
        rest = match rest {
            [b'.', rest @ ..] | [b'%', b'2', b'e' | b'E', rest @ ..] => rest,
            [] => return count,
            _ => return 0,
        };
        count += 1;
    }
    0
}

/// `..%2f` is a plain name to us and a step upwards to an endpoint that decodes first.
fn check_encoded_slashes(segment: &[u8]) -> Result<(), &'static str> {
    let mut part_start = 0;
    let mut parts = 0;
    let is_dots = |start, end| dots(segment.get(start..end).unwrap_or(&[])) > 0;
    for at in memchr::memchr_iter(b'%', segment) {
        if matches!(hex_pair(segment, at + 1), Some(b'/' | b'\\')) {
            if is_dots(part_start, at) {
                return Err("target has a dot segment beside an encoded slash");
            }
            parts += 1;
            part_start = at + 3;
        }
    }
    if parts > 0 && is_dots(part_start, segment.len()) {
        return Err("target has a dot segment beside an encoded slash");
    }
    Ok(())
}

fn hex_pair(bytes: &[u8], at: usize) -> Option<u8> {
    let digit = |at| char::from(*bytes.get(at)?).to_digit(16);
    u8::try_from(digit(at)? * 16 + digit(at + 1)?).ok()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Bad,
    Plain,
    Dot,
    Percent,
    Query,
}

/// What a byte means in a path. `^`, `|`, backtick and braces are no URI characters, but browsers
/// send them; a backslash is a slash to some endpoints.
static CLASS: [Class; 256] = {
    let mut table = [Class::Bad; 256];
    let mut b = 0x21;
    while b <= 0x7e {
        table[b] = match b as u8 {
            b'"' | b'#' | b'<' | b'>' | b'\\' => Class::Bad,
            b'.' => Class::Dot,
            b'%' => Class::Percent,
            b'?' => Class::Query,
            _ => Class::Plain,
        };
        b += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn path_of(text: &str) -> Result<String, &'static str> {
        let buf = text.as_bytes();
        let mut own = Vec::new();
        let target = parse(buf, Span::new(0, buf.len()), Method::Get, &mut own)?;
        let path = match target.path {
            Path::Span(span) => span.of(buf),
            Path::Own => &own,
            Path::Root => b"/",
            Path::Asterisk => b"*",
        };
        Ok(String::from_utf8(path.to_vec()).unwrap())
    }

    #[test]
    fn dot_segments_are_removed_in_every_spelling() {
        for (target, path) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/.", "/"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e/b?x=../y", "/b"),
            ("/%2e/a", "/a"),
            ("/.well-known/x", "/.well-known/x"),
            ("/..a", "/..a"),
            ("/...", "/..."),
            ("/a%2eb", "/a%2eb"),
            ("/a//../b", "/a/b"),
            ("//a", "//a"),
            ("/a%2fb", "/a%2fb"),
            ("/a%2F%2fb", "/a%2F%2fb"),
            ("http://h", "/"),
            ("http://h?q", "/"),
            ("HTTPS://h/a/../b", "/b"),
            ("/a|b{c}^`[d]", "/a|b{c}^`[d]"),
        ] {
            assert_eq!(path_of(target).as_deref(), Ok(path), "{target}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for target in [
            "/..",
            "/../a",
            "/a/../..",
            "/%2e%2e/",
            "/a/../../b",
            "/a/..%2fb",
            "/a%2f..",
            "/a%5c..%5cb",
            "/%2f%2e%2e/a",
            "/a\\b",
            "/a#b",
            "/a?b#c",
            "/a b",
            "/\u{e9}",
            "/a\u{7f}",
            "/a\u{1}",
            "/%zz",
            "/%",
            "/%4",
            "/%00",
            "/a\"",
            "/<a>",
            "a",
            "a/b",
            "*",
            "*/",
            "ftp://h/",
            "http:/h",
            "http//h",
            "//",
            "h:443",
        ] {
            if target == "//" {
                assert_eq!(path_of(target).as_deref(), Ok("//"));
            } else {
                assert!(path_of(target).is_err(), "{target:?}");
            }
        }
    }

    #[test]
    fn a_normal_path_stays_as_it_is_when_read_again() {
        for target in ["/a/./b/../c//d/%2e", "/x/%2E%2e/..%2e/..a/...", "/a//..//b"] {
            let once = path_of(target).unwrap();
            assert_eq!(path_of(&once), Ok(once.clone()), "{target}");
        }
    }
}
