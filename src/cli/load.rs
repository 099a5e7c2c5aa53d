//! ○ A configuration file with the real world around it: files, environment, resolver, limits.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{Access, access};
use rustix::process::{Resource, getrlimit};

use crate::config::Secret;
use crate::config::check::{
    CertificateFacts, Checked, Diagnostic, Problem, Severity, Spot, World, check,
};
use crate::tls::inspect;

/// Reads and checks the configuration in `path`. Blocks, for host names on the resolver.
pub fn load(path: &Path) -> Checked {
    load_in(path, &RealWorld)
}

/// As [`load`], with another world around the file.
pub fn load_in(path: &Path, world: &dyn World) -> Checked {
    match read(path) {
        Ok(text) => check(&text, world),
        Err((message, remedy)) => Err(vec![Diagnostic {
            severity: Severity::Error,
            path: String::new(),
            line: 1,
            column: 1,
            snippet: String::new(),
            message: format!("{}: {message}", path.display()),
            remedy: remedy.to_owned(),
        }]),
    }
}

/// The text of a file, or what is wrong with it and what to do.
pub fn read(path: &Path) -> Result<String, (String, &'static str)> {
    let bytes = std::fs::read(path).map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::NotFound => "give the path of a file that exists",
            io::ErrorKind::PermissionDenied => "let the user who runs this read it",
            io::ErrorKind::IsADirectory => "give the path of a file in it",
            _ => "make it readable",
        };
        (format!("cannot be read ({error})"), remedy)
    })?;
    String::from_utf8(bytes)
        .map_err(|error| (format!("is not UTF-8 ({error})"), "save it as UTF-8 text"))
}

/// The machine this runs on.
#[derive(Debug, Clone, Copy)]
pub struct RealWorld;

impl World for RealWorld {
    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        std::fs::read(path)
    }

    /// Asks the kernel, which knows of access lists and of what is mounted read-only.
    fn look_at(&self, path: &Path) -> io::Result<Spot> {
        let kind = std::fs::metadata(path)?.file_type();
        let is_folder = kind.is_dir();
        let wanted = match is_folder {
            true => Access::WRITE_OK | Access::EXEC_OK,
            false => Access::WRITE_OK,
        };
        let is_special = !is_folder && !kind.is_file();
        Ok(Spot { is_folder, is_special, is_writable: access(path, wanted).is_ok() })
    }

    fn env(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok((host, port).to_socket_addrs()?.collect())
    }

    fn inspect_certificate(
        &self,
        chain_pem: &[u8],
        key_pem: &Secret,
    ) -> Result<CertificateFacts, Problem> {
        inspect::certificate(chain_pem, key_pem)
    }

    fn inspect_ca(&self, pem: &[u8]) -> Result<(), Problem> {
        inspect::ca(pem)
    }

    fn descriptor_limit(&self) -> u64 {
        getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
    }

    fn unix_now(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    }

    /// Heeds the affinity mask and the quota of a cgroup, as a container has it.
    fn cores(&self) -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_that_is_not_there_is_one_error_that_names_it() {
        let errors = load(Path::new("no/such/file.yaml")).unwrap_err();
        assert_eq!(errors.len(), 1);
        assert!(errors[0].message.starts_with("no/such/file.yaml: cannot be read"));
        assert_eq!(errors[0].remedy, "give the path of a file that exists");
    }

    #[test]
    fn a_file_that_is_not_text_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [0xff, 0xfe, 0]).unwrap();
        let errors = load(file.path()).unwrap_err();
        assert!(errors[0].message.contains("is not UTF-8"), "{}", errors[0].message);
    }

    #[test]
    fn files_folders_and_what_is_missing_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        assert_eq!(RealWorld.look_at(&file).unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::write(&file, "").unwrap();
        let spot = |is_folder| Spot { is_folder, is_special: false, is_writable: true };
        assert_eq!(RealWorld.look_at(&file).unwrap(), spot(false));
        assert_eq!(RealWorld.look_at(folder.path()).unwrap(), spot(true));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o400)).unwrap();
        // Nothing but being root makes a read-only file writable.
        let is_writable = rustix::process::getuid().is_root();
        assert_eq!(RealWorld.look_at(&file).unwrap(), Spot { is_writable, ..spot(false) });
        assert!(RealWorld.look_at(Path::new("/dev/null")).unwrap().is_special);
    }

    #[test]
    fn the_certificate_of_the_examples_belongs_to_its_key_and_is_good_for_years() {
        let certs = Path::new(env!("CARGO_MANIFEST_DIR")).join("certs");
        let read = |name: &str| RealWorld.read_file(&certs.join(name)).unwrap();
        let facts =
            RealWorld.inspect_certificate(&read("dev.crt"), &Secret(read("dev.key"))).unwrap();
        assert_eq!(facts.names, ["localhost", "*.localhost"]);
        assert!(facts.not_after > RealWorld.unix_now() + 10 * 365 * 86_400);
        RealWorld.inspect_ca(&read("ca.crt")).unwrap();
    }

    #[test]
    fn a_name_of_this_machine_resolves_with_the_port_asked_for() {
        let addresses = RealWorld.resolve("localhost", 8080).unwrap();
        assert!(addresses.iter().any(|a| a.ip().is_loopback() && a.port() == 8080));
    }
}
