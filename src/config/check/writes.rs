//! ● Files the process is to write: whether it can, found out before it must.

use std::path::{Path, PathBuf};

use super::reader::Reader;
use crate::config::file::Item;

/// How a file is written decides what must be allowed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Writing {
    /// Opened where it lies and made if it is not there.
    Appended,
    /// Made anew beside the old one: the folder must be writable.
    Replaced,
    /// Appended to, and set aside once it is large: both must be.
    Rotated,
    /// A socket, made anew: the folder must be.
    Bound,
}

/// The path an item names, whether or not something is wrong with it, which is reported here.
pub(super) fn path(reader: &Reader<'_>, item: &Item<'_>, writing: Writing) -> Option<PathBuf> {
    let path = PathBuf::from(item.text()?);
    let earlier = reader.written.borrow_mut().insert(path.clone(), item.line());
    if let Some(line) = earlier {
        item.error(
            format!("`{}` is written to by the key on line {line} already", path.display()),
            "give each a file of its own",
        );
    }
    possible(reader, item, &path, writing);
    Some(path)
}

fn possible(reader: &Reader<'_>, item: &Item<'_>, path: &Path, writing: Writing) {
    let found = reader.world.look_at(path).ok();
    if path.as_os_str().as_encoded_bytes().ends_with(b"/")
        || found.is_some_and(|spot| spot.is_folder)
    {
        return item.error(
            format!("`{}` is a folder, and a file is due", path.display()),
            "add the name of a file in it",
        );
    }
    let (is_appended_to, is_replaced) = match writing {
        Writing::Appended => (true, false),
        Writing::Replaced => (false, true),
        Writing::Rotated => (true, true),
        Writing::Bound => (false, false),
    };
    if let Some(spot) = found {
        // Renaming would put a file in the place of `/dev/null`, for everybody.
        if is_replaced && spot.is_special {
            return item.error(
                format!("`{}` is a device, a pipe or a socket, and a file is due", path.display()),
                "name a file, or leave the key out if nothing is to be kept",
            );
        }
        if is_appended_to && !spot.is_writable {
            return item.error(
                format!("`{}` cannot be written to", path.display()),
                "let the user who runs this write to it, or name another file",
            );
        }
        if writing == Writing::Appended {
            return;
        }
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let shown = folder.display();
    match reader.world.look_at(folder) {
        Ok(spot) if !spot.is_folder => item.error(
            format!("`{shown}` is not a folder"),
            "correct the path (relative ones start at the working directory)",
        ),
        Ok(spot) if !spot.is_writable => item.error(
            format!("no file can be made in the folder `{shown}`"),
            "let the user who runs this write there, or name another folder",
        ),
        Ok(_) => {}
        Err(error) => item.error(
            format!("the folder `{shown}` cannot be used: {error}"),
            "make it (a systemd unit does by `StateDirectory=`, `RuntimeDirectory=` and \
             `LogsDirectory=`), or correct the path",
        ),
    }
}
