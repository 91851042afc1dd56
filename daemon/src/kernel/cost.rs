//! What our programs and maps cost, as the kernel accounts for it (`/proc/self/fdinfo`).
//!
//! Run times are counted only while somebody asks for it, because two clock readings a packet cost about as much
//! as the programs do. [`RunTimes`] holds such a request open; the caller keeps it short.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use aya::sys::{Stats, enable_stats};

use super::Unavailable;

/// Figures of one program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgramCost {
    /// Name in the object.
    pub name: &'static str,
    /// Times it ran while run times were counted.
    pub runs: u64,
    /// Nanoseconds it ran in these.
    pub run_ns: u64,
    /// Instructions that the verifier walked through, a measure of the distance to its limit of a million.
    pub verified_instructions: u64,
    /// Bytes of the program in kernel memory.
    pub memory_bytes: u64,
}

/// Figures of one map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MapCost {
    /// Name in the object.
    pub name: &'static str,
    /// Entries it was made for.
    pub capacity: u64,
    /// Bytes as the kernel states them; up to 6.3 that is an estimate, and always less than what the cgroup pays.
    pub memory_bytes: u64,
}

/// While this lives, the kernel counts run times, of all programs on the machine.
#[derive(Debug)]
pub(super) struct RunTimes {
    _held: OwnedFd,
}

impl RunTimes {
    /// Starts counting.
    ///
    /// # Errors
    ///
    /// `EPERM` without `CAP_SYS_ADMIN`, which the daemon does not need for anything else.
    pub(super) fn count() -> Result<Self, Unavailable> {
        enable_stats(Stats::RunTime).map(|held| Self { _held: held }).map_err(|error| Unavailable {
            what: "program run times".into(),
            why: format!("BPF_ENABLE_STATS: {}", error.io_error),
            fix: "sysctl kernel.bpf_stats_enabled=1, or CAP_SYS_ADMIN; costs about 20 ns a packet".into(),
        })
    }
}

/// Reads a program's figures.
pub(super) fn program(name: &'static str, fd: BorrowedFd<'_>) -> ProgramCost {
    let info = FdInfo::read(fd);
    ProgramCost {
        name,
        runs: info.get("run_cnt"),
        run_ns: info.get("run_time_ns"),
        verified_instructions: info.get("verified_insns"),
        memory_bytes: info.get("memlock"),
    }
}

/// Reads a map's figures.
pub(super) fn map(name: &'static str, fd: impl AsFd) -> MapCost {
    let info = FdInfo::read(fd.as_fd());
    MapCost { name, capacity: info.get("max_entries"), memory_bytes: info.get("memlock") }
}

/// The text of one `/proc/self/fdinfo/N`: a name, a colon, blanks and a number a line.
struct FdInfo(String);

impl FdInfo {
    fn read(fd: BorrowedFd<'_>) -> Self {
        Self(std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap_or_default())
    }

    fn get(&self, name: &str) -> u64 {
        self.0
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find_map(|(key, value)| (key == name).then(|| value.trim().parse().ok())?)
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_by_their_whole_name() {
        let info = FdInfo("pos:\t0\nrun_time_ns:\t42\nrun_cnt:\t7\nmemlock:\t4096\n".into());
        assert_eq!([info.get("run_cnt"), info.get("run_time_ns"), info.get("run"), info.get("none")], [7, 42, 0, 0]);
    }
}
