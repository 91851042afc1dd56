//! Where the daemon finds what belongs to it: systemd's directory where it gave one, else the usual one.

use std::{env, path::PathBuf};

/// `$RUNTIME_DIRECTORY` (systemd.exec(5)), else `/run/tidegate`. systemd joins several with colons; the first is ours.
#[must_use]
pub fn runtime_dir() -> PathBuf {
    let folders = env::var("RUNTIME_DIRECTORY").unwrap_or_default();
    match folders.split(':').next() {
        Some(first) if first.starts_with('/') => first.into(),
        _ => "/run/tidegate".into(),
    }
}

/// The service's own BPF file system (`systemd/run-tidegate\x2dbpf.mount`), where links outlive the daemon. Beside
/// `/run/tidegate`, which systemd removes at each stop.
#[must_use]
pub fn pins_dir() -> PathBuf {
    "/run/tidegate-bpf".into()
}
