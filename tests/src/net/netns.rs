//! Network namespaces without names.
//!
//! A namespace made by `ip netns add` stays until someone deletes it. These are held by a file descriptor of
//! this process only: the kernel takes them down, with every veth pair in them, when the last holder is gone,
//! however it ended. Programs see their peers' through `/proc/PID/fd/N`.

use std::{
    fs,
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::Command,
    sync::Arc,
    thread,
};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// A network namespace; clones are the same one. Its `lo` is up.
#[derive(Clone, Debug)]
pub struct Netns {
    name: Arc<str>,
    namespace: Arc<OwnedFd>,
}

impl Netns {
    /// Makes an empty namespace. The name is for messages only.
    ///
    /// # Panics
    ///
    /// Without the privilege to.
    #[must_use]
    #[track_caller]
    pub fn new(name: &str) -> Self {
        let namespace = thread::scope(|scope| {
            // A thread of its own, because only a thread's end undoes its move.
            let made = scope.spawn(|| -> std::io::Result<OwnedFd> {
                // SAFETY: a new network namespace invalidates nothing that this thread holds.
                unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
                Ok(fs::File::open("/proc/thread-self/ns/net")?.into())
            });
            made.join().expect("nothing in it panics")
        });
        let namespace = namespace.unwrap_or_else(|error| panic!("make network namespace {name}: {error}"));
        let made = Self { name: name.into(), namespace: Arc::new(namespace) };
        // Addresses work at once, without duplicate address detection and router solicitations.
        for scope in ["all", "default"] {
            made.sysctl(&format!("ipv6/conf/{scope}/accept_ra"), "0");
            made.sysctl(&format!("ipv6/conf/{scope}/accept_dad"), "0");
        }
        made.run("ip link set lo up");
        made
    }

    /// Name for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Path by which programs reach it while this process lives, such as `ip link set … netns PATH`.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd())
    }

    /// Does something inside, in a thread of its own; sockets made there stay there.
    ///
    /// # Panics
    ///
    /// Where the namespace cannot be entered, or with the closure's panic.
    #[track_caller]
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        let result = thread::scope(|scope| {
            scope
                .spawn(|| {
                    move_into_link_name_space(self.namespace.as_fd(), Some(LinkNameSpaceType::Network))
                        .unwrap_or_else(|error| panic!("enter {}: {error}", self.name));
                    inside()
                })
                .join()
        });
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// A command that will run inside. Unlike `ip netns exec` it leaves the mounts alone (which would hide bpffs).
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(crate::need::find(program).unwrap_or_else(|| program.into()));
        self.confine(&mut command);
        command
    }

    /// Makes `command` run inside.
    pub fn confine(&self, command: &mut Command) {
        let namespace = Arc::clone(&self.namespace);
        // SAFETY: the closure makes one system call on a descriptor that it owns: async-signal-safe.
        unsafe {
            command
                .pre_exec(move || Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?));
        }
    }

    /// Runs a command line (split at spaces) inside and returns its output.
    ///
    /// # Panics
    ///
    /// Where it fails, with what it wrote.
    #[track_caller]
    #[expect(clippy::must_use_candidate, reason = "most commands are run for their effect")]
    pub fn run(&self, line: &str) -> String {
        match self.try_run(line) {
            Ok(output) => output,
            Err(error) => panic!("{error}"),
        }
    }

    /// The same, where failing is an answer.
    ///
    /// # Errors
    ///
    /// The command, its exit status and what it wrote.
    ///
    /// # Panics
    ///
    /// Where the line is empty.
    pub fn try_run(&self, line: &str) -> Result<String, String> {
        let mut words = line.split_whitespace();
        let program = words.next().expect("a command");
        let output =
            self.command(program).args(words).output().map_err(|error| format!("{}: {line}: {error}", self.name))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("{}: {line}: {}: {}", self.name, output.status, said.trim()))
        }
    }

    /// Sets `/proc/sys/net/KEY` of this namespace.
    ///
    /// # Panics
    ///
    /// Where the kernel refuses.
    #[track_caller]
    pub fn sysctl(&self, key: &str, value: &str) {
        let path = format!("/proc/sys/net/{key}");
        self.enter(|| fs::write(&path, value))
            .unwrap_or_else(|error| panic!("{}: {path} = {value}: {error}", self.name));
    }

    /// Joins this namespace's new interface `here` with the new interface `there` of another by a veth pair.
    #[track_caller]
    pub fn join(&self, here: &str, other: &Self, there: &str) {
        self.run(&format!("ip link add {here} type veth peer name {there} netns {}", other.path()));
        self.run(&format!("ip link set {here} up"));
        other.run(&format!("ip link set {there} up"));
    }

    /// Turns the offloads of an interface on or off, so that packets are segmented by the device or before it.
    #[track_caller]
    pub fn offload(&self, interface: &str, on: bool) {
        let state = if on { "on" } else { "off" };
        self.run(&format!("ethtool -K {interface} tso {state} gso {state} gro {state}"));
    }

    /// The interface's index.
    ///
    /// # Panics
    ///
    /// Where there is none of that name.
    #[must_use]
    #[track_caller]
    pub fn ifindex(&self, interface: &str) -> u32 {
        let name = std::ffi::CString::new(interface).expect("an interface name has no NUL");
        // SAFETY: the pointer is to a NUL-terminated string that outlives the call.
        let index = self.enter(|| unsafe { libc::if_nametoindex(name.as_ptr()) });
        assert_ne!(index, 0, "{} has no interface {interface}", self.name);
        index
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{need, requires};

    #[test]
    fn namespaces_are_joined_and_leave_nothing() {
        requires!(need::root(), need::program("ip"));
        let (left, right) = (Netns::new("left"), Netns::new("right"));
        left.join("eth0", &right, "eth0");
        assert!(left.run("ip -o link show eth0").contains("UP"));
        assert!(right.ifindex("eth0") > 1);
        drop(left);
        crate::eventually(std::time::Duration::from_secs(5), "the pair went with its one end", || {
            right.try_run("ip link show eth0").is_err()
        });
    }
}
