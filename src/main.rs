//! ○ The process shell: the TLS provider, then the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    // One provider in the process; a second installation could only be the same one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    standfast::cli::main()
}
