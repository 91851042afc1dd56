//! Debian packages that the demo and the scenarios use.

use std::{
    io::{BufRead as _, IsTerminal as _, Write as _},
    path::Path,
    process::Command,
};

use crate::{privilege::Privilege, shell};

/// A package and the program by which it is known to be there.
pub(crate) type Package = (&'static str, &'static str);

/// What the demo uses.
pub(crate) const DEMO: [Package; 1] = [("iproute2", "ip")];

/// What the benches use: the others that are measured, too.
pub(crate) const BENCH: [Package; 14] = [
    ("mosquitto", "mosquitto"),
    ("iproute2", "ip"),
    ("nftables", "nft"),
    ("ipset", "ipset"),
    ("ethtool", "ethtool"),
    ("iperf3", "iperf3"),
    ("softflowd", "softflowd"),
    ("pmacct", "pmacctd"),
    ("nginx", "nginx"),
    ("curl", "curl"),
    ("zstd", "zstd"),
    ("gzip", "gunzip"),
    ("nodejs", "node"),
    ("npm", "npm"),
];

/// What the scenarios use.
pub(crate) const TESTS: [Package; 17] = [
    ("mosquitto", "mosquitto"),
    ("mosquitto-clients", "mosquitto_pub"),
    ("iproute2", "ip"),
    ("nftables", "nft"),
    ("ethtool", "ethtool"),
    ("openssl", "openssl"),
    ("e2fsprogs", "mkfs.ext4"),
    ("util-linux", "losetup"),
    ("strace", "strace"),
    ("curl", "curl"),
    ("nginx", "nginx"),
    ("zstd", "zstd"),
    ("gzip", "gunzip"),
    ("nodejs", "node"),
    ("npm", "npm"),
    ("python3", "python3"),
    ("python3-pip", "pip3"),
];

/// What builds and runs emulated gateways.
pub(crate) const DEVICE: [Package; 8] = [
    ("qemu-system-arm", "qemu-system-aarch64"),
    ("qemu-user-static", "qemu-aarch64-static"),
    ("mmdebstrap", "mmdebstrap"),
    ("arch-test", "arch-test"),
    ("debian-archive-keyring", "/usr/share/keyrings/debian-archive-keyring.gpg"),
    ("kmod", "depmod"),
    ("cpio", "cpio"),
    ("xz-utils", "xz"),
];

/// What runs containers, where nothing else does.
pub(crate) const ENGINE: [Package; 1] = [("podman", "podman")];

/// What starts containers where Podman's usual runtime cannot: crun refuses some arrangements of cgroups.
pub(crate) const RUNTIME: [Package; 1] = [("runc", "runc")];

/// What makes the image of `cargo xtask cross` from Debian packages.
pub(crate) const CROSS: [Package; 2] =
    [("mmdebstrap", "mmdebstrap"), ("debian-archive-keyring", "/usr/share/keyrings/debian-archive-keyring.gpg")];

/// Installs what is missing; whoever needs what then still is missing says so and leaves it out.
pub(crate) fn install(privilege: &Privilege, wanted: &[Package]) {
    let missing: Vec<&str> =
        wanted.iter().filter(|(_, program)| !installed(program)).map(|(package, _)| *package).collect();
    if missing.is_empty() {
        println!("packages: all there");
        return;
    }
    let list = missing.join(" ");
    if let Privilege::None(_) = privilege {
        println!("packages missing: {list}; install them with: apt-get install --no-install-recommends {list}");
        return;
    }
    if !installed("apt-get") {
        println!("packages missing, and no apt-get to install them: {list}");
        return;
    }
    let gone = removed(&missing);
    let and = if gone.is_empty() { String::new() } else { format!(", which removes {}", gone.join(" ")) };
    if !agreed(&format!("install with apt-get, services off: {list}{and}?")) {
        println!("packages left out: {list}");
        return;
    }
    let mut command = privilege.command("sh", &[("DEBIAN_FRONTEND", "noninteractive".to_owned())]);
    if let Err(error) = shell::run(command.args(["-c", INSTALL, "install"]).args(&missing)) {
        println!("packages could not be installed: {error}");
    }
}

/// Services that come with a package must not start: invoke-rc.d(8) asks `policy-rc.d`, and 101 means no. One
/// that the machine has already is its administrator's and stays. The trap removes ours at Ctrl-C, too.
const INSTALL: &str = r#"
set -eu
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' INT TERM HUP
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
install() { apt-get install --yes --quiet --no-install-recommends "$@"; }
install "$@" || { apt-get update --quiet && install "$@"; }
"#;

/// Packages that apt-get would remove, because they are not for the versions that it would install.
fn removed(packages: &[&str]) -> Vec<String> {
    let mut command = Command::new("apt-get");
    command.args(["install", "--simulate", "--quiet", "--no-install-recommends"]).args(packages);
    let said = command.env("LC_ALL", "C").output().map(|output| output.stdout).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let steps = said.lines().filter_map(|line| line.strip_prefix("Remv "));
    steps.filter_map(|step| step.split_whitespace().next().map(str::to_owned)).collect()
}

/// Whether a program is on PATH or in a folder of root's; a file, where an absolute path is asked for.
pub(crate) fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(Into::into))
        .any(|folder| Path::new(&folder).join(program).is_file())
}

/// Asks on a terminal; in CI, or without a terminal, whoever gave us the privileges has agreed.
fn agreed(question: &str) -> bool {
    if std::env::var_os("CI").is_some() || !std::io::stdin().is_terminal() {
        println!("{question} yes (no terminal to ask on)");
        return true;
    }
    print!("{question} [Y/n] ");
    let mut answer = String::new();
    let read = std::io::stdout().flush().and_then(|()| std::io::stdin().lock().read_line(&mut answer));
    read.is_ok_and(|count| count > 0) && matches!(answer.trim(), "" | "y" | "Y" | "yes")
}
