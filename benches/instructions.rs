//! Instructions, counted by callgrind: what a change costs, told on a machine however noisy.
//!
//! `cargo bench --bench instructions` runs each case in a process of its own under valgrind, twice,
//! with different numbers of rounds; the difference divided by that of the rounds is what one costs,
//! and nothing of the start is in it. benches/README.md says how to compare two commits.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a bench that cannot run should say so"
)]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, ExitCode};

use clap::Parser;
use standfast::balance::{Candidates, Member, Moment};
use standfast::config::{Balance, HostPattern};
use standfast::http1::forward::{self, RequestEdits, ResponseEdits};
use standfast::http1::framing::{encode_chunk, encode_last_chunk};
use standfast::http1::{Body, Decoder, Limits, Method, Request, Response, Step, Version};
use standfast::route::{Routes, Rule};

/// More than this is a regression; the counts themselves repeat within a tenth of it.
const REGRESSION: f64 = 0.03;
/// Rounds of the shorter and of the longer run.
const ROUNDS: [u64; 2] = [1_000, 5_000];

const LIMITS: Limits = Limits { head_size_max: 64 << 10, headers_max: 128, uri_max: 16 << 10 };

const REQUEST: &[u8] = b"GET /api/v1/orders/4711?expand=items&lang=de HTTP/1.1\r\n\
    Host: app.example.com\r\n\
    Cache-Control: max-age=0\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: de-DE,de;q=0.9,en;q=0.8\r\n\
    Cookie: session=b3c1f0f6c5a94b6f8f0a3a0d1e2f3a4b; theme=dark\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Server: nginx/1.31.0\r\n\
    Date: Fri, 20 Nov 2026 20:12:18 GMT\r\n\
    Content-Type: application/json; charset=utf-8\r\n\
    Content-Length: 128\r\n\
    Cache-Control: private, no-store\r\n\
    ETag: \"5f3759df\"\r\n\r\n";

/// What one round of a case does.
type Case = (&'static str, fn(u64));

const CASES: [Case; 6] = [
    ("request head → forward", request),
    ("response head → forward", response),
    ("chunked body of 16 × 1 KiB", chunked),
    ("route of 1,000", route),
    ("route of 100,000", route_of_many),
    ("pick of 3, by all policies", pick),
];

/// Count the instructions of what every request does.
#[derive(Parser)]
#[command(name = "instructions")]
struct Args {
    /// Keep the counts under this name, to compare others with
    #[arg(long, value_name = "NAME")]
    save: Option<String>,
    /// Compare with the counts kept under this name; exit 1 if a case grew by more than 3 %
    #[arg(long, value_name = "NAME")]
    against: Option<String>,
    /// Be one case, for so many rounds
    #[arg(long, hide = true, num_args = 2, value_names = ["CASE", "ROUNDS"])]
    run: Vec<String>,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let [case, rounds] = &args.run[..] {
        let (_, run) = CASES.iter().find(|(name, _)| name == case).expect("a case");
        run(rounds.parse().expect("a number of rounds"));
        return ExitCode::SUCCESS;
    }
    if !args.bench {
        // `cargo test --benches` runs this file too, without valgrind perhaps.
        println!("the instructions are counted by `cargo bench --bench instructions`");
        return ExitCode::SUCCESS;
    }
    match count_all(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// False if a case has become dearer than it may.
fn count_all(args: &Args) -> Result<bool, Box<dyn Error>> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("instructions");
    fs::create_dir_all(&dir)?;
    let file = |name: &str| dir.join(format!("{name}.json"));
    let before: Option<BTreeMap<String, f64>> = match &args.against {
        None => None,
        Some(name) => {
            let text = fs::read_to_string(file(name));
            let text = text.map_err(|_| format!("nothing was kept by `--save {name}`"))?;
            Some(serde_json::from_str(&text)?)
        }
    };
    let mut counts = BTreeMap::new();
    let mut good = true;
    println!("| instructions | a round | before | change |\n|---|--:|--:|--:|");
    for (name, _) in CASES {
        let count = count(name, &dir)?;
        let before = before.as_ref().and_then(|before| before.get(name));
        let compared = before.map_or_else(
            || "– | –".to_owned(),
            |before| format!("{before:.1} | {:+.2} %", (count / before - 1.0) * 100.0),
        );
        println!("| {name} | {count:.1} | {compared} |");
        good &= before.is_none_or(|before| count <= before * (1.0 + REGRESSION));
        counts.insert(name.to_owned(), count);
    }
    if let Some(name) = &args.save {
        fs::write(file(name), serde_json::to_string_pretty(&counts)?)?;
    }
    if !good {
        println!("\nREGRESSION: more than {:.0} % dearer than before.", REGRESSION * 100.0);
    }
    println!("\nProfiles for callgrind_annotate: {}", dir.display());
    Ok(good)
}

/// Instructions of one round.
fn count(name: &str, dir: &Path) -> Result<f64, Box<dyn Error>> {
    let out = dir.join(format!("{}.callgrind", name.replace(|c: char| !c.is_alphanumeric(), "-")));
    let [less, more] = ROUNDS;
    let short = collected(name, less, &out)?;
    let long = collected(name, more, &out)?;
    Ok((long - short) as f64 / (more - less) as f64)
}

/// Instructions of a process.
fn collected(name: &str, rounds: u64, out: &Path) -> Result<u64, Box<dyn Error>> {
    let mut command = Command::new("valgrind");
    command.arg("--tool=callgrind").arg(format!("--callgrind-out-file={}", out.display()));
    command.arg(std::env::current_exe()?).args(["--run", name, &rounds.to_string()]);
    let output = command.output();
    let output = output.map_err(|error| format!("cannot run valgrind ({error}): install it"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find_map(|line| line.split("Collected :").nth(1));
    let count = line.and_then(|count| count.trim().parse().ok());
    match count {
        Some(count) if output.status.success() => Ok(count),
        _ => Err(format!("valgrind counted nothing of {name}:\n{text}").into()),
    }
}

fn request(rounds: u64) {
    let edits = RequestEdits {
        client: [192, 0, 2, 7].into(),
        trusted: false,
        https: true,
        request_id: b"0123456789abcdef0123456789abcdef",
        fallback_host: b"10.0.0.1:80",
    };
    let (mut request, mut out) = (Request::default(), Vec::with_capacity(4096));
    for _ in 0..rounds {
        out.clear();
        assert!(black_box(request.parse(black_box(REQUEST), &LIMITS)).is_ok());
        forward::request(&mut out, &request, REQUEST, &edits);
        black_box(&out);
    }
}

fn response(rounds: u64) {
    let edits = ResponseEdits { client: Version::Http11, keep_alive: true, chunked: false };
    let (mut response, mut out) = (Response::default(), Vec::with_capacity(4096));
    for _ in 0..rounds {
        out.clear();
        assert!(black_box(response.parse(black_box(RESPONSE), Method::Get, &LIMITS)).is_ok());
        forward::response(&mut out, &response, RESPONSE, &edits);
        black_box(&out);
    }
}

fn chunked(rounds: u64) {
    let mut wire = Vec::new();
    for _ in 0..16 {
        encode_chunk(&mut wire, &[b'x'; 1024]);
    }
    encode_last_chunk(&mut wire, b"");
    for _ in 0..rounds {
        let (mut decoder, mut rest) = (Decoder::new(Body::Chunked), &wire[..]);
        while let Ok(Step::Data { skip, len }) = decoder.step(black_box(rest)) {
            rest = &rest[skip + len..];
        }
        black_box(rest);
    }
}

fn route(rounds: u64) {
    look_up(1_000, rounds);
}

fn route_of_many(rounds: u64) {
    look_up(100_000, rounds);
}

/// Ten prefixes to a host; asked in a stride that meets the hosts in no order of theirs.
fn look_up(count: usize, rounds: u64) {
    let rules = (0..count).map(|target| Rule {
        host: Some(HostPattern::Exact(format!("app{}.example.com", target / 10))),
        path_prefix: format!("/api/v{}", target % 10),
        target,
    });
    let routes = Routes::new(rules.collect());
    let hosts: Vec<String> =
        (0..64).map(|n| format!("app{}.example.com", n * 7919 % (count / 10))).collect();
    for round in 0..rounds {
        let host = &hosts[round as usize % hosts.len()];
        assert!(routes.find(black_box(host.as_bytes()), b"/api/v3/users/42/orders").is_some());
    }
}

/// Every endpoint usable, with a load of its own.
struct Now(u64);

impl Moment for Now {
    fn usable(&self, _: u32) -> bool {
        true
    }

    fn load(&self, endpoint: u32) -> u32 {
        endpoint % 7
    }

    fn random(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.0
    }

    fn position(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        self.0
    }
}

fn pick(rounds: u64) {
    let members = (0..3).map(|endpoint| Member { endpoint, weight: 1 });
    let (candidates, mut now) = (Candidates::new(members.collect()), Now(0x5eed));
    for _ in 0..rounds {
        for policy in [Balance::RoundRobin, Balance::LeastRequests, Balance::Random] {
            assert!(black_box(candidates.pick(black_box(policy), &mut now)).is_some());
        }
    }
}
