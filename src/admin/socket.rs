//! ○ The unix socket's file: made for its owner alone, taken over from a dead process, removed at
//! the end.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use socket2::{Domain, SockAddr, Socket, Type};

/// A file that is ours while this lives.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// Binds to `path` with mode 0600.
///
/// Errors: somebody listens there already, the path is something other than a socket, or it cannot
/// be made.
pub(super) fn bind(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // The mode must be right from the first moment on. Linux's bind(2) gives the file the mode of
    // the socket, less the mask, which belongs to the whole process and is better left alone.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    socket.bind(&SockAddr::unix(path)?).map_err(|error| explain(path, error))?;
    socket.listen(128)?;
    let listener = UnixListener::from(OwnedFd::from(socket));
    let metadata = fs::symlink_metadata(path)?;
    let file = SocketFile { path: path.to_owned(), device: metadata.dev(), inode: metadata.ino() };
    listener.set_nonblocking(true)?;
    Ok((listener, file))
}

fn explain(path: &Path, error: io::Error) -> io::Error {
    let sentence = match (error.kind(), path.parent()) {
        (io::ErrorKind::NotFound, Some(directory)) => {
            format!("there is no directory {}; make it first", directory.display())
        }
        (io::ErrorKind::PermissionDenied, Some(directory)) => {
            format!("this user may not make files in {}", directory.display())
        }
        _ => return error,
    };
    io::Error::new(error.kind(), sentence)
}

fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        let message = "the file is there and is not a socket; give another path";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
        Ok(_) => {
            let message = "another process listens there; stop it or give another path";
            Err(io::Error::new(io::ErrorKind::AddrInUse, message))
        }
    }
}

impl Drop for SocketFile {
    /// Leaves alone what another process has put there meanwhile.
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == (self.device, self.inode));
        if ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let error = bind(&directory.path().join("none/admin.sock")).unwrap_err();
        assert!(error.to_string().ends_with("/none; make it first"), "{error}");
    }

    #[test]
    fn the_socket_is_its_owners_alone_and_goes_with_him() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let (_listener, file) = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_dead_process_leaves_its_place_and_a_living_one_keeps_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let living = UnixListener::bind(&path).unwrap();
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert!(path.exists());
        drop(living);
        let (_listener, file) = bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "somebody else's").unwrap();
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "somebody else's");
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
}
