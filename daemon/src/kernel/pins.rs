//! Pinned links: what keeps the programs running while no daemon does.
//!
//! A TCX link vanishes with the process that holds it, unless a file of a BPF file system ("bpffs") holds it, too. There
//! is such a file for each hook of each watched interface, `link-NETNS-IFINDEX-DIRECTION`:
//!
//! ```text
//!   start ── pin there, to this hook? ── yes ──► adopt: put the new program in the old one's place
//!                     └── no, or none ─────────► attach, pin
//!   first look at all interfaces done ─────────► sweep: remove pins that nobody adopted
//!   orderly stop, no longer watched ───────────► detach, remove the pin
//!   killed ────────────────────────────────────► the pin stays, its program runs on
//! ```
//!
//! What a pin is called is not believed: it is adopted only if the kernel says that it is attached to that hook. Indices
//! are numbered anew in each network namespace, so its number is part of the name; pins of another namespace are left
//! to the daemon in there, unless their interface is gone.
//!
//! Where there is no bpffs that we may write, links are held by the process alone. That is no fault: while the daemon is
//! down nothing is counted, and the next one attaches anew.

use std::{
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::tcx::{Direction, TcxLink};

/// `linux/magic.h`
const BPF_FS_MAGIC: u32 = 0xcafe_4a11;

/// Where links are pinned, or why they are not.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    folder: Result<PathBuf, String>,
    /// Of the thread's network namespace.
    prefix: String,
}

impl Pins {
    /// Looks whether links can be pinned in `folder`.
    #[must_use]
    pub(super) fn open(folder: Option<&Path>) -> Self {
        let namespace = std::fs::metadata("/proc/thread-self/ns/net").map(|namespace| namespace.ino());
        let usable = match (folder, &namespace) {
            (None, _) => Err("nobody asked for it".to_owned()),
            (_, Err(error)) => Err(format!("/proc/thread-self/ns/net: {error}")),
            (Some(folder), Ok(_)) => writable_bpffs(folder).map(|()| folder.to_owned()),
        };
        Self { folder: usable, prefix: format!("link-{}-", namespace.unwrap_or_default()) }
    }

    /// Where the link of a hook is pinned; `None` where links are not.
    #[must_use]
    pub(super) fn path(&self, ifindex: u32, direction: Direction) -> Option<PathBuf> {
        let folder = self.folder.as_ref().ok()?;
        Some(folder.join(format!("{}{ifindex}-{}", self.prefix, direction.name())))
    }

    /// Why links are not pinned; `None` where they are.
    #[must_use]
    pub(super) fn unavailable(&self) -> Option<&str> {
        self.folder.as_ref().err().map(String::as_str)
    }

    /// The link that is pinned at `path`, if it is the hook's. Any other pin is removed.
    pub(super) fn find(path: &Path, ifindex: u32, direction: Direction) -> Option<TcxLink> {
        match TcxLink::open(path).and_then(|link| link.target().map(|target| (link, target))) {
            Ok((link, target)) if target.is(ifindex, direction) => Some(link),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Ok((_, target)) => {
                tracing::info!(pin = %path.display(), ?target, "this link is another hook's by now");
                remove(path);
                None
            }
            Err(error) => {
                tracing::warn!(pin = %path.display(), %error, "cannot use this pin");
                remove(path);
                None
            }
        }
    }

    /// Pins a link. The first failure ends pinning: the next link would meet the same one.
    pub(super) fn pin(&mut self, link: &TcxLink, path: &Path) -> bool {
        let pinned = link.pin(path);
        if let Err(error) = &pinned {
            tracing::warn!(pin = %path.display(), %error, "cannot pin; links are held by this process alone");
            self.folder = Err(format!("pin {}: {error}", path.display()));
        }
        pinned.is_ok()
    }

    /// Removes the pins that a killed daemon left and that are not among `held`.
    pub(super) fn sweep(&self, held: &[&Path]) {
        let Ok(folder) = &self.folder else { return };
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "cannot look for old pins");
                return;
            }
        };
        for path in entries.map_while(Result::ok).map(|entry| entry.path()) {
            let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
            if !name.starts_with("link-") || held.contains(&path.as_path()) {
                continue;
            }
            let link = TcxLink::open(&path);
            let gone = || link.as_ref().is_ok_and(|link| link.target().is_ok_and(super::tcx::Target::is_gone));
            if name.starts_with(&self.prefix) || gone() {
                tracing::info!(pin = %path.display(), "removing the link of a daemon that was killed");
                if let Ok(link) = &link {
                    detach(link);
                }
                remove(&path);
            }
        }
    }
}

/// Takes a link's program off, its pin too.
pub(super) fn unpin(link: &TcxLink, path: Option<&Path>) {
    detach(link);
    if let Some(path) = path {
        remove(path);
    }
}

fn detach(link: &TcxLink) {
    if let Err(error) = link.detach() {
        tracing::warn!(%error, "cannot detach");
    }
}

fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(pin = %path.display(), %error, "cannot remove");
        }
        _ => {}
    }
}

fn writable_bpffs(folder: &Path) -> Result<(), String> {
    use rustix::fs::{Access, access, statfs};
    let shown = folder.display();
    let mounted = statfs(folder).map_err(|error| format!("{shown}: {}", io::Error::from(error)))?;
    if u32::try_from(mounted.f_type) != Ok(BPF_FS_MAGIC) {
        return Err(format!("{shown} is no BPF file system; mount one there (mount -t bpf)"));
    }
    access(folder, Access::WRITE_OK | Access::EXEC_OK)
        .map_err(|error| format!("{shown} cannot be written: {}", io::Error::from(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_named_for_namespace_interface_and_direction() {
        let pins = Pins { folder: Ok("/run/tidegate-bpf".into()), prefix: "link-4026531840-".into() };
        let path = pins.path(7, Direction::Egress).unwrap();
        assert_eq!(path, Path::new("/run/tidegate-bpf/link-4026531840-7-egress"));
    }

    #[test]
    fn an_ordinary_folder_holds_no_pins_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let pins = Pins::open(Some(folder.path()));
        assert_eq!(pins.path(7, Direction::Ingress), None);
        assert!(pins.unavailable().unwrap().contains("no BPF file system"), "{pins:?}");
        let pins = Pins::open(Some(&folder.path().join("absent")));
        assert!(pins.unavailable().unwrap().contains("No such file"), "{pins:?}");
    }
}
