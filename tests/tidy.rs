//! The rules of the house, kept by a test. What stands here is about the sources, not the behaviour:
//! which file may name what, how long things may grow, which words mean something else here.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "support/source.rs"]
mod source;

use std::fs;
use std::path::{Path, PathBuf};

use source::{Source, contains_word};

/// Deciding modules: values in, values out.
const DECIDING: [&str; 9] =
    ["route", "balance", "health", "failover", "table", "config", "http1", "retry", "admin::view"];

/// What a deciding file never names.
const DOING: [&str; 26] = [
    "tokio",
    "hyper",
    "hyper_util",
    "rustls",
    "tokio_rustls",
    "rustix",
    "socket2",
    "libc",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "ToSocketAddrs",
    "arc_swap",
    "ArcSwap",
    "tracing",
    "Instant",
    "SystemTime",
    "fastrand",
    "Mutex",
    "RwLock",
    "std::fs",
    "std::env",
    "std::thread",
    "std::process",
    "async",
];

/// Which modules of the crate a deciding module may name; doing ones are bound by [`shells`].
const MAY_NAME: [(&str, &[&str]); 8] = [
    ("config", &[]),
    ("route", &["config"]),
    ("balance", &["config"]),
    ("health", &["config"]),
    ("failover", &["config", "health"]),
    ("http1", &[]),
    // The labels of the counters are the outcomes it decides between.
    ("retry", &["table::counters"]),
    ("table", &["balance", "config", "failover", "health", "http1", "retry", "route"]),
];

/// Words that mean something else here, or nothing.
const AVOIDED: [&str; 9] = [
    "backend",
    "backends",
    "upstream server",
    "upstream servers",
    "origin server",
    "connection pool",
    "connection pools",
    "pool of connections",
    "pooled",
];

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
const WIDTH_MAX: usize = 100;

// --- the rules, each a function from a file to what is wrong with it ------------------------------

/// By its place; a file among the doing ones may be a deciding one too, and is so by its mark.
fn decides(source: &Source) -> bool {
    let module = source.module().join("::");
    let place = |name: &&str| module == **name || module.starts_with(&format!("{name}::"));
    DECIDING.iter().any(place) || source.text.starts_with("//! ●")
}

/// Rule 2.
fn deciding_files_do_nothing(source: &Source) -> Vec<String> {
    if !decides(source) {
        return Vec::new();
    }
    let mut wrong = Vec::new();
    for word in DOING {
        if let Some(line) = source.names(word).first() {
            wrong.push(format!("{}:{line}: a deciding file names {word}", source.path));
        }
    }
    wrong
}

/// Rule 1: `main → cli/app → shells → table → deciding → std`.
fn dependencies_point_down(source: &Source) -> Vec<String> {
    let module = source.module();
    let Some(own) = module.first() else { return Vec::new() };
    let rule = MAY_NAME.iter().find(|(name, _)| name == own);
    source
        .crate_paths()
        .into_iter()
        .filter(|path| path[0] != *own)
        .filter(|path| match rule {
            Some((_, allowed)) => !allowed.iter().any(|allowed| starts_with(path, allowed)),
            None => !shell_may_name(own, path),
        })
        .map(|path| format!("{}: may not name crate::{}", source.path, path.join("::")))
        .collect()
}

/// A doing module below app and cli: names neither of them, and sends control events at most.
fn shell_may_name(own: &str, path: &[String]) -> bool {
    match (own, path[0].as_str()) {
        ("app" | "cli", _) => true,
        (_, "app" | "cli") => false,
        // Connections to endpoints know nothing of the requests they carry.
        ("upstream", "proxy") => false,
        ("admin", "control") => true,
        (_, "control") => path.get(1).is_some_and(|name| name == "Event"),
        _ => true,
    }
}

fn starts_with(path: &[String], prefix: &str) -> bool {
    let mut segments = path.iter();
    prefix.split("::").all(|name| segments.next().is_some_and(|segment| segment == name))
}

/// Rule 6.
fn unsafe_stays_in_one_file(source: &Source) -> Vec<String> {
    if source.path == "src/sys.rs" {
        return Vec::new();
    }
    let lines = source.names("unsafe");
    lines
        .iter()
        .map(|line| format!("{}:{line}: unsafe outside of src/sys.rs", source.path))
        .collect()
}

/// Rule 3: where an `ArcSwap` may be, and that each of the two has one `store`.
fn one_swap_and_one_store(sources: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut stores = Vec::new();
    for source in sources {
        let place = source.module().first().copied().unwrap_or("").to_owned();
        let at_home = place == "current" || place == "tls";
        if !at_home && !source.names("ArcSwap").is_empty() {
            wrong.push(format!("{}: an ArcSwap outside of current and tls", source.path));
        }
        // The store of an atomic names its ordering.
        let swaps = source.code.match_indices(".store(").filter(|(at, _)| {
            let call = source.code[*at..].split(';').next().unwrap_or("");
            !call.contains("Ordering::") && !call.contains("Relaxed") && !call.contains("Release")
        });
        stores.extend(swaps.map(|_| place.clone()));
    }
    stores.sort();
    if stores != ["current", "tls"] {
        wrong.push(format!("one store of the table and one of certificates, not {stores:?}"));
    }
    wrong
}

/// Every file says what it is, and whether it decides or does.
fn files_say_what_they_are(source: &Source) -> Vec<String> {
    let first = source.text.lines().next().unwrap_or("");
    if source.module().is_empty() {
        return if first.starts_with("//! ") { Vec::new() } else { vec![source.path.clone()] };
    }
    let mark = if decides(source) { "●" } else { "○" };
    if first.starts_with(&format!("//! {mark} ")) {
        return Vec::new();
    }
    vec![format!("{}: the first line must begin with `//! {mark} `", source.path)]
}

fn files_functions_and_lines_are_short(source: &Source) -> Vec<String> {
    let mut wrong = Vec::new();
    let path = &source.path;
    if source.lines > FILE_LINES_MAX {
        wrong.push(format!("{path}: {} lines without its tests", source.lines));
    }
    for (name, line, length) in source.functions() {
        if length > FUNCTION_LINES_MAX {
            wrong.push(format!("{path}:{line}: fn {name} has {length} lines"));
        }
    }
    // The map of the flow in lib.rs is a picture, and a link cannot be broken.
    let exempt = |line: &str| path == "src/lib.rs" || line.contains("https://");
    for (number, line) in source.text.lines().enumerate() {
        let width = line.chars().count();
        if width > WIDTH_MAX && !exempt(line) {
            wrong.push(format!("{path}:{}: {width} columns", number + 1));
        }
    }
    wrong
}

fn words_mean_one_thing(source: &Source) -> Vec<String> {
    let mut wrong = Vec::new();
    for (number, line) in source.text.lines().enumerate() {
        let line = line.to_lowercase().replace('_', " ");
        for word in AVOIDED.iter().filter(|word| contains_word(&line, word)) {
            wrong.push(format!("{}:{}: {word:?} has no meaning here", source.path, number + 1));
        }
    }
    wrong
}

fn nothing_is_unfinished_or_rash(source: &Source) -> Vec<String> {
    let rash = ["todo!", "unimplemented!", "dbg!", ".unwrap()", "panic!"];
    let lines = source.code.lines().enumerate();
    lines
        .filter_map(|(number, line)| {
            let word = rash.iter().find(|word| line.contains(**word))?;
            Some(format!("{}:{}: {word}", source.path, number + 1))
        })
        .collect()
}

/// What may lie at the top of the repository, beside dot files and cargo's output.
fn stray_at_the_top(names: &[String]) -> Vec<String> {
    const ALLOWED: [&str; 11] = [
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "README.md",
        "benches",
        "certs",
        "config",
        "fuzz",
        "src",
        "target",
        "tests",
    ];
    let stray = names.iter().filter(|name| !name.starts_with('.'));
    stray.filter(|name| !ALLOWED.contains(&name.as_str())).cloned().collect()
}

/// Examples that neither a test nor the README names are dead.
fn unnamed_examples(examples: &[String], readers: &[String]) -> Vec<String> {
    let named = |example: &String| readers.iter().any(|text| text.contains(example.as_str()));
    examples.iter().filter(|example| !named(example)).cloned().collect()
}

// --- the rules hold ------------------------------------------------------------------------------

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files_below(dir: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files_below(&path, extension, found);
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
}

fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    files_below(&root().join(folder), extension, &mut found);
    found.sort();
    found
}

fn sources() -> Vec<Source> {
    let read = |path: PathBuf| {
        let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        Source::new(&name, &fs::read_to_string(&path).unwrap())
    };
    let sources = without_test_files(files("src", "rs").into_iter().map(read).collect());
    assert!(sources.len() > 30, "the sources were not found");
    sources
}

/// Leaves out the files that are modules under `#[cfg(test)]`, and what lies below them.
fn without_test_files(mut sources: Vec<Source>) -> Vec<Source> {
    let tests: Vec<String> = sources.iter().flat_map(|source| source.test_files.clone()).collect();
    sources.retain(|source| {
        let is_test = |test: &String| {
            let rest = source.path.strip_prefix(test.as_str());
            rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        };
        !tests.iter().any(is_test)
    });
    sources
}

fn assert_holds(rule: fn(&Source) -> Vec<String>) {
    assert_clean(sources().iter().flat_map(rule).collect());
}

fn assert_clean(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn deciding_files_name_no_doing_thing() {
    assert_holds(deciding_files_do_nothing);
}

#[test]
fn modules_name_only_what_lies_below_them() {
    assert_holds(dependencies_point_down);
}

#[test]
fn unsafe_is_in_one_file() {
    assert_holds(unsafe_stays_in_one_file);
}

#[test]
fn table_has_one_swap_and_one_store() {
    assert_clean(one_swap_and_one_store(&sources()));
}

#[test]
fn every_file_says_what_it_is() {
    assert_holds(files_say_what_they_are);
}

#[test]
fn files_functions_and_lines_fit() {
    assert_holds(files_functions_and_lines_are_short);
}

#[test]
fn avoided_words_do_not_occur() {
    assert_holds(words_mean_one_thing);
}

#[test]
fn nothing_panics_or_waits_to_be_written() {
    assert_holds(nothing_is_unfinished_or_rash);
}

#[test]
fn the_top_level_is_as_agreed() {
    let names: Vec<String> = fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    assert_clean(stray_at_the_top(&names));
    let needed = ["benches", "certs", "config", "fuzz", "src", "tests", "README.md", "LICENSE"];
    for name in needed {
        assert!(names.iter().any(|n| n == name), "{name} is missing");
    }
}

#[test]
fn every_example_is_named_by_a_test_or_the_readme() {
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    let examples: Vec<String> = files("config", "yaml").iter().map(name).collect();
    assert!(!examples.is_empty(), "no examples were found");
    let mut readers = files("tests", "rs");
    readers.push(root().join("README.md"));
    let readers: Vec<String> =
        readers.iter().map(|path| fs::read_to_string(path).unwrap_or_default()).collect();
    assert_clean(unnamed_examples(&examples, &readers));
}

// --- each rule can fail --------------------------------------------------------------------------

#[test]
fn a_doing_name_in_a_deciding_file_is_found() {
    let found = |path, text| deciding_files_do_nothing(&Source::new(path, text)).len();
    assert_eq!(found("src/route/mod.rs", "use tokio::net::TcpStream;"), 2);
    assert_eq!(found("src/health/verdict.rs", "let now = std::time::Instant::now();"), 1);
    assert_eq!(found("src/admin/view.rs", "static M: std::sync::Mutex<u8>;"), 1);
    assert_eq!(found("src/retry.rs", "pub async fn decide() {}"), 1);
    assert_eq!(found("src/observe/line.rs", "//! ● How a line looks.\nuse tokio::time;"), 1);
    // Values, words in comments and texts, and the tests of a file are fine.
    let fine = "use std::net::SocketAddr; // tokio\nconst A: &str = \"tokio\";\n\
                #[cfg(test)]\nmod tests {\n use std::sync::Mutex;\n}\n";
    assert_eq!(found("src/route/mod.rs", fine), 0);
    assert_eq!(found("src/proxy/mod.rs", "use tokio::net::TcpStream;"), 0);
}

#[test]
fn a_file_of_tests_is_no_source() {
    let sources = [
        ("src/route/mod.rs", "pub mod host;\n#[cfg(test)]\nmod tests;\n#[cfg(test)]\nmod a {\n}"),
        ("src/route/path.rs", "#[cfg(test)]\n#[path = \"path_tests.rs\"]\nmod tests;\n"),
        ("src/route/path_tests.rs", ""),
        ("src/lib.rs", "#[cfg(test)]\nmod fixture;\n"),
        ("src/fixture.rs", ""),
        ("src/route/tests.rs", ""),
        ("src/route/tests/more.rs", ""),
        ("src/route/a.rs", ""),
        ("src/balance/tests.rs", ""),
    ];
    let left = without_test_files(sources.map(|(path, text)| Source::new(path, text)).to_vec());
    let left: Vec<&str> = left.iter().map(|source| source.path.as_str()).collect();
    assert_eq!(
        left,
        [
            "src/route/mod.rs",
            "src/route/path.rs",
            "src/lib.rs",
            "src/route/a.rs",
            "src/balance/tests.rs"
        ]
    );
}

#[test]
fn a_dependency_upwards_or_sideways_is_found() {
    let found = |path, text| dependencies_point_down(&Source::new(path, text)).len();
    assert_eq!(found("src/route/mod.rs", "use crate::balance::Pick;"), 1);
    assert_eq!(found("src/route/host.rs", "use crate::{config::Route, table::{Table, Pool}};"), 2);
    assert_eq!(found("src/route/host.rs", "use super::super::table::Table;"), 1);
    assert_eq!(found("src/table/build.rs", "use crate::proxy::Workers;"), 1);
    assert_eq!(found("src/retry.rs", "use crate::table::Table;"), 1);
    assert_eq!(found("src/proxy/exchange.rs", "use crate::app::App;"), 1);
    assert_eq!(found("src/upstream/idle.rs", "use crate::proxy::local::Local;"), 1);
    assert_eq!(found("src/proxy/exchange.rs", "crate::control::publish(table);"), 1);
    assert_eq!(found("src/retry.rs", "use crate::table::counters::Loss;"), 0);
    assert_eq!(found("src/probe/mod.rs", "use crate::control::Event;"), 0);
    assert_eq!(found("src/route/mod.rs", "use crate::config::Route; use super::route::Find;"), 0);
    assert_eq!(found("src/app.rs", "use crate::control::Control;"), 0);
}

#[test]
fn an_unsafe_block_elsewhere_is_found() {
    let text = "fn f() { unsafe { g() } } // unsafe\n#![allow(unsafe_code)]";
    assert_eq!(unsafe_stays_in_one_file(&Source::new("src/drain.rs", text)).len(), 1);
    assert_eq!(unsafe_stays_in_one_file(&Source::new("src/sys.rs", text)).len(), 0);
}

#[test]
fn a_second_store_or_swap_is_found() {
    let current = Source::new("src/current.rs", "self.table.store(Arc::new(table));");
    let tls = Source::new("src/tls/mod.rs", "self.now.store(Arc::new(prepared));");
    let atomic = Source::new("src/drain.rs", "self.flag.store(true, Ordering::Release);");
    let good = [current.clone(), tls.clone(), atomic];
    assert_eq!(one_swap_and_one_store(&good), Vec::<String>::new());
    assert_eq!(one_swap_and_one_store(std::slice::from_ref(&tls)).len(), 1);
    assert_eq!(one_swap_and_one_store(&[current.clone(), current.clone(), tls.clone()]).len(), 1);
    let stray = Source::new("src/probe/mod.rs", "type Now = ArcSwap<Table>;");
    assert_eq!(one_swap_and_one_store(&[current, tls, stray]).len(), 1);
}

#[test]
fn a_missing_or_wrong_mark_is_found() {
    let found = |path, text| files_say_what_they_are(&Source::new(path, text)).len();
    assert_eq!(found("src/route/mod.rs", "//! Finds a route.\n"), 1);
    assert_eq!(found("src/route/mod.rs", "//! ○ Finds a route.\n"), 1);
    assert_eq!(found("src/drain.rs", "use std::fmt;\n"), 1);
    assert_eq!(found("src/observe/line.rs", "//! ● How a line looks.\n"), 0);
    assert_eq!(found("src/route/mod.rs", "//! ● Finds a route.\n"), 0);
    assert_eq!(found("src/drain.rs", "//! ○ One signal.\n"), 0);
}

#[test]
fn what_is_too_long_or_too_wide_is_found() {
    let found =
        |text: &str| files_functions_and_lines_are_short(&Source::new("src/a.rs", text)).len();
    let lines = |count: usize| "    call();\n".repeat(count);
    assert_eq!(found(&format!("fn long(a: [u8; 4]) {{\n{}}}\n", lines(69))), 1);
    assert_eq!(found(&format!("fn right() {{\n{}}}\n", lines(68))), 0);
    assert_eq!(found(&"const A: u8 = 0;\n".repeat(501)), 1);
    let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "const A: u8 = 0;\n".repeat(600));
    assert_eq!(found(&tests), 0);
    assert_eq!(found(&format!("// {}\n", "x".repeat(98))), 1);
    assert_eq!(found(&format!("// {}\n", "x".repeat(97))), 0);
}

#[test]
fn an_avoided_word_is_found() {
    let found = |text| words_mean_one_thing(&Source::new("src/a.rs", text)).len();
    assert_eq!(found("let backend = 1;"), 1);
    assert_eq!(
        found("/// The connection pool.\nstruct ConnectionPool; fn connection_pool() {}"),
        2
    );
    assert_eq!(found("/// An upstream connection; the pool; pooling; Endpoint."), 0);
}

#[test]
fn unfinished_or_rash_code_is_found() {
    let found = |text| nothing_is_unfinished_or_rash(&Source::new("src/a.rs", text)).len();
    assert_eq!(found("fn f() { todo!() }\nfn g() { h().unwrap() }\nfn i() { dbg!(1) }"), 3);
    assert_eq!(found("// todo!()\nfn g() { h().unwrap_or(1) }\nconst A: &str = \".unwrap()\";"), 0);
    assert_eq!(found("#[cfg(test)]\nmod tests {\n fn f() { g().unwrap() }\n}\n"), 0);
}

#[test]
fn a_stray_entry_or_a_dead_example_is_found() {
    let names = ["src", ".ci", "notes.txt"].map(String::from);
    assert_eq!(stray_at_the_top(&names), ["notes.txt"]);
    let examples = ["a.yaml", "b.yaml"].map(String::from);
    assert_eq!(unnamed_examples(&examples, &["check a.yaml".to_owned()]), ["b.yaml"]);
}

#[test]
fn the_scanner_tells_code_from_comments_and_literals() {
    let text = "fn f<'a>(c: char) -> bool { c == '\"' || c == '\\'' } // one\n\
                const R: &str = r#\"fn g() { \"unsafe\" }\"#; /* two\n three */ fn h() {}\n";
    let source = Source::new("src/a.rs", text);
    assert_eq!(source.functions().iter().map(|f| f.0.as_str()).collect::<Vec<_>>(), ["f", "h"]);
    assert!(source.names("unsafe").is_empty());
    assert!(source.comments.contains("one") && source.comments.contains("three"));
    assert!(!source.code.contains("one"));
    assert_eq!(source.code.lines().count(), text.lines().count());
}

/// Merges of the manifest have lost sections before, in silence.
#[test]
fn the_manifest_keeps_its_lints_its_profile_and_its_benches() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let lines = ["unsafe_code = \"deny\"", "unwrap_used = \"warn\"", "overflow-checks = true"];
    for line in ["[lints.rust]", "[lints.clippy]", "[profile.release]"].iter().chain(&lines) {
        assert!(manifest.lines().any(|l| l.starts_with(line)), "{line} is gone from Cargo.toml");
    }
    let benches =
        ["decide", "failover", "http1", "instructions", "proxy", "route", "speed", "table"];
    for bench in benches {
        let entry =
            manifest.split("[[bench]]").find(|e| e.contains(&format!("name = \"{bench}\"")));
        assert!(entry.is_some_and(|entry| entry.contains("harness = false")), "bench {bench}");
    }
}
