//! A machine with the package installed, as its users have it.

use std::{
    hash::{DefaultHasher, Hasher as _},
    net::TcpListener,
    path::PathBuf,
    time::Duration,
};

use serde_json::Value;

use super::machine::{Machine, MachineBuilder, Prepared};
use crate::{Broker, Ingest, eventually, need::Need};

/// The Debian package that the scenarios install: `TIDEGATE_DEB`.
fn package() -> Option<PathBuf> {
    std::env::var_os("TIDEGATE_DEB").map(PathBuf::from)
}

/// There are the emulator and a package to install.
///
/// # Errors
///
/// One is missing.
pub fn available() -> Need {
    crate::need::root()?;
    crate::need::program("qemu-system-aarch64")?;
    match package() {
        Some(path) if path.is_file() => Ok(()),
        other => {
            Err(format!("needs TIDEGATE_DEB, the arm64 package ({other:?}); `cargo xtask test --device` makes it"))
        }
    }
}

impl MachineBuilder {
    /// With the package installed by `apt`, and the daemon not running: a test configures and starts it.
    ///
    /// # Panics
    ///
    /// Where there is no package; ask [`available`] first.
    #[must_use]
    #[track_caller]
    pub fn with_tidegate(self) -> Self {
        let package = package().expect("a scenario asks `available` first");
        let mut hasher = DefaultHasher::new();
        hasher.write(&std::fs::read(&package).unwrap_or_else(|error| panic!("{}: {error}", package.display())));
        let name = format!("tidegate-{:016x}", hasher.finish());
        self.prepared(Prepared { name, steps: install })
    }
}

fn install(machine: &Machine) {
    machine.put_package("/root/tidegate.deb");
    machine.run("set -e; apt-get install --quiet --yes /root/tidegate.deb; systemctl stop tidegate").ok();
}

impl Machine {
    /// Copies the package into the machine.
    ///
    /// # Panics
    ///
    /// Where there is none; ask [`available`] first.
    #[track_caller]
    pub fn put_package(&self, to: &str) {
        self.put(&package().expect("a scenario asks `available` first"), to);
    }

    /// Writes `/etc/tidegate/conf.d/test.toml`: the broker on the host's loopback, gateway id `gw-test`, and more
    /// tables.
    ///
    /// # Panics
    ///
    /// Where it cannot be written.
    #[track_caller]
    pub fn configure(&self, broker: &Broker, more: &str) {
        self.configure_port(broker.port(), more);
    }

    /// As [`Self::configure`], with a port of the host's loopback.
    ///
    /// # Panics
    ///
    /// Where it cannot be written.
    #[track_caller]
    pub fn configure_port(&self, port: u16, more: &str) {
        let text = format!("[gateway]\nid = \"gw-test\"\n\n[mqtt]\nurl = \"mqtt://10.0.2.2:{port}\"\n\n{more}");
        self.write("/etc/tidegate/conf.d/test.toml", &text);
    }

    /// `tidegate status --json`.
    ///
    /// # Panics
    ///
    /// Where the daemon does not answer.
    #[must_use]
    #[track_caller]
    pub fn status(&self) -> Value {
        // 1 is "degraded": an answer all the same.
        self.run("tidegate status --json; [ $? -le 1 ]").json()
    }

    /// Entries of the journal, as `journalctl --output=json` has them.
    ///
    /// # Panics
    ///
    /// Where there is no journal.
    #[must_use]
    #[track_caller]
    pub fn journal(&self, matches: &str) -> Vec<Value> {
        let lines = self.run(&format!("journalctl --quiet --output=json {matches}")).ok();
        lines.lines().map(|line| serde_json::from_str(line).expect("journalctl writes JSON")).collect()
    }

    /// A property of a unit: `machine.unit("tidegate", "NRestarts")`.
    ///
    /// # Panics
    ///
    /// Where systemd does not answer.
    #[must_use]
    #[track_caller]
    pub fn unit(&self, unit: &str, property: &str) -> String {
        self.run(&format!("systemctl show --value --property={property} {unit}")).ok()
    }

    /// Puts records into the spool: `{"n":FIRST}` to `{"n":LAST}` as `ingest/NAME`, and waits until they are on
    /// disk.
    ///
    /// # Panics
    ///
    /// Where `tidegate send` fails.
    #[track_caller]
    pub fn send(&self, name: &str, first: u64, last: u64) {
        let script = format!("seq {first} {last} | sed 's/.*/{{\"n\":&}}/' | tidegate send {name}");
        self.run_within(Duration::from_mins(2), &script).ok();
    }

    /// A connection from the host to the ingest socket: whoever uses it knows what was answered, whatever becomes of
    /// the machine.
    ///
    /// # Panics
    ///
    /// Where nobody accepts.
    #[must_use]
    #[track_caller]
    pub fn ingest(&self) -> Ingest {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("a bound port").port();
        let relay = format!("perl - {port} /run/tidegate/ingest.sock >>/run/relay.log 2>&1 <<'END' &\n{RELAY}\nEND");
        self.run(&relay).ok();
        listener.set_nonblocking(true).expect("a socket can be made non-blocking");
        let (stream, _) = eventually(Duration::from_mins(1), "the relay connects", || listener.accept());
        stream.set_nonblocking(false).expect("as above");
        Ingest::through(stream).expect("it has just been made")
    }
}

/// Passes bytes between a port of the host and a Unix socket. Debian's perl-base has all that it needs.
const RELAY: &str = r#"use strict;
use IO::Select;
use IO::Socket::INET;
use IO::Socket::UNIX;
my ($port, $path) = @ARGV;
my $daemon = IO::Socket::UNIX->new(Peer => $path) or die "$path: $!";
my $host = IO::Socket::INET->new(PeerAddr => "10.0.2.2", PeerPort => $port) or die "port $port of the host: $!";
my %other = ($host => $daemon, $daemon => $host);
my $both = IO::Select->new($host, $daemon);
while (1) {
    for my $from ($both->can_read) {
        sysread($from, my $bytes, 65536) or exit;
        while (length $bytes) {
            my $written = syswrite($other{$from}, $bytes) or exit;
            substr($bytes, 0, $written, "");
        }
    }
}"#;
