//! Where the daemon's files live: systemd's directories where it gave some, else the usual ones.

use std::{
    env,
    path::{Path, PathBuf},
};

/// `$RUNTIME_DIRECTORY` (systemd.exec(5)), else `/run/tidegate`.
#[must_use]
pub fn runtime_dir() -> PathBuf {
    first_of("RUNTIME_DIRECTORY", "/run/tidegate")
}

/// `$STATE_DIRECTORY`, else `/var/lib/tidegate`.
#[must_use]
pub fn state_dir() -> PathBuf {
    first_of("STATE_DIRECTORY", "/var/lib/tidegate")
}

/// systemd joins several directories with colons; the first one is ours.
fn first_of(variable: &str, fallback: &str) -> PathBuf {
    let value = env::var(variable).unwrap_or_default();
    match value.split(':').next() {
        Some(first) if first.starts_with('/') => first.into(),
        _ => fallback.into(),
    }
}

/// Gives a socket to a group, where the system has it and we may; else it stays ours, which is the safe side.
pub fn give_to_group(path: &Path, group: &str) {
    let Some(gid) = group_id(&std::fs::read_to_string("/etc/group").unwrap_or_default(), group) else { return };
    if let Err(error) = std::os::unix::fs::chown(path, None, Some(gid)) {
        tracing::debug!(path = %path.display(), group, %error, "the socket stays with our own group");
    }
}

/// Looks a group up in the text of `/etc/group` (group(5)): `name:password:gid:members`.
fn group_id(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_by_its_whole_name() {
        let groups = "root:x:0:\ntidegate-ingest:x:998:app\ntidegate:x:999:\n";
        assert_eq!(group_id(groups, "tidegate"), Some(999));
        assert_eq!(group_id(groups, "tide"), None);
        assert_eq!(group_id("tidegate\n", "tidegate"), None);
    }
}
