//! What the daemon itself costs: getrusage(2), /proc/self, and the memory of its cgroup, which has the
//! kernel's share (eBPF maps, socket buffers) in it.

use serde::Serialize;

use super::files::Files;

/// The daemon's own cost since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Own {
    /// Processor time in user space.
    pub user_seconds: f64,
    /// Processor time in the kernel on our behalf. The eBPF programs' time is in `telemetry/ebpf`.
    pub system_seconds: f64,
    /// Resident memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resident_bytes: Option<u64>,
    /// Its peak.
    pub resident_peak_bytes: u64,
    /// Threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    /// Open files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_files: Option<usize>,
    /// Times a thread gave up the processor to wait: how often we wake up.
    pub voluntary_switches: u64,
    /// Times a thread was interrupted by another.
    pub involuntary_switches: u64,
    /// Pages that had to come from disk.
    pub major_faults: u64,
    /// Memory of the service's cgroup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup_bytes: Option<u64>,
    /// Its peak.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup_peak_bytes: Option<u64>,
}

/// Open files are counted up to this.
const MAX_OPEN_FILES: usize = 65_536;

pub(super) fn own(files: &mut Files) -> Own {
    let usage = usage();
    let (resident_bytes, threads) = files.read("proc/self/status").map(status).unwrap_or_default();
    let (cgroup_bytes, cgroup_peak_bytes) = cgroup_memory(files);
    Own {
        user_seconds: seconds(usage.ru_utime),
        system_seconds: seconds(usage.ru_stime),
        resident_bytes,
        resident_peak_bytes: positive(usage.ru_maxrss).saturating_mul(1024),
        threads,
        // Less the one that lists them.
        open_files: files.names("proc/self/fd", MAX_OPEN_FILES).ok().map(|names| names.len().saturating_sub(1)),
        voluntary_switches: positive(usage.ru_nvcsw),
        involuntary_switches: positive(usage.ru_nivcsw),
        major_faults: positive(usage.ru_majflt),
        cgroup_bytes,
        cgroup_peak_bytes,
    }
}

/// `getrusage` of the whole process: /proc/self/status has the context switches of the first thread only.
fn usage() -> libc::rusage {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to a whole `rusage`, which the call fills and does not keep.
    let _cannot_fail_with_these_arguments = unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) };
    // SAFETY: it is integers only, for which zeroes are values, too.
    unsafe { usage.assume_init() }
}

fn seconds(time: libc::timeval) -> f64 {
    time.tv_sec as f64 + time.tv_usec as f64 / 1e6
}

fn positive(count: libc::c_long) -> u64 {
    u64::try_from(count).unwrap_or_default()
}

/// Resident bytes and threads, from /proc/self/status (`proc_pid_status(5)`).
fn status(text: &str) -> (Option<u64>, Option<u32>) {
    let field = |name: &str| text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()));
    let resident =
        field("VmRSS").and_then(|value| value.strip_suffix("kB")?.trim_end().parse::<u64>().ok()?.checked_mul(1024));
    (resident, field("Threads").and_then(|threads| threads.parse().ok()))
}

/// Use and peak of the cgroup's memory, in version 2 or 1; absent in the root cgroup, which has no figures of
/// its own.
fn cgroup_memory(files: &mut Files) -> (Option<u64>, Option<u64>) {
    let folders = files.read("proc/self/cgroup").map(cgroup_folders).unwrap_or_default();
    for (folder, current, peak) in folders {
        if let Some(bytes) = files.number(format!("{folder}/{current}")) {
            return (Some(bytes), files.number(format!("{folder}/{peak}")));
        }
    }
    (None, None)
}

/// Folders below `/` in which the figures may stand, and their names there (cgroups(7)).
fn cgroup_folders(text: &str) -> Vec<(String, &'static str, &'static str)> {
    let mut folders = Vec::new();
    for line in text.lines().take(64) {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        // A path with dots in it is that of a cgroup outside of our namespace.
        if path == "/" || !path.starts_with('/') || path.split('/').any(|part| part == "..") {
            continue;
        }
        if controllers.is_empty() {
            folders.push((format!("sys/fs/cgroup{path}"), "memory.current", "memory.peak"));
        } else if controllers.split(',').any(|controller| controller == "memory") {
            folders.push((format!("sys/fs/cgroup/memory{path}"), "memory.usage_in_bytes", "memory.max_usage_in_bytes"));
        }
    }
    folders
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::super::tests::tree;
    use super::*;

    #[test]
    fn our_own_cost_is_that_of_this_process() {
        let own = own(&mut Files::below(Path::new("/")));
        assert!(own.user_seconds + own.system_seconds > 0.0);
        assert!(own.resident_peak_bytes >= 1 << 20 && own.resident_bytes.unwrap() >= 1 << 20);
        assert!(own.threads.unwrap() >= 1 && own.open_files.unwrap() >= 3);
    }

    #[test]
    fn the_cgroup_is_found_in_both_versions_and_the_root_is_none() {
        let (_folder, mut files) = tree(&[
            ("proc/self/cgroup", "0::/system.slice/tidegate.service\n"),
            ("sys/fs/cgroup/system.slice/tidegate.service/memory.current", "7340032\n"),
            ("sys/fs/cgroup/system.slice/tidegate.service/memory.peak", "8388608\n"),
        ]);
        assert_eq!(cgroup_memory(&mut files), (Some(7_340_032), Some(8_388_608)));
        let (_folder, mut files) = tree(&[
            ("proc/self/cgroup", "4:cpu,memory:/box\n0::/\n"),
            ("sys/fs/cgroup/memory/box/memory.usage_in_bytes", "4096\n"),
        ]);
        assert_eq!(cgroup_memory(&mut files), (Some(4096), None));
        assert_eq!(cgroup_folders("0::/\n"), []);
        assert_eq!(cgroup_folders("0::/../../elsewhere\n"), []);
    }

    proptest! {
        #[test]
        fn hostile_text_is_not_read(text in "([a-zA-Z0-9]{0,8}:? *[0-9a-z,]{0,22}:?(/[a-z.]{0,4}){0,3} ?(kB)?\n){0,6}|.{0,80}") {
            let _either = status(&text);
            for (folder, _, _) in cgroup_folders(&text) {
                // `.. ` and `a..b` are names like any other.
                prop_assert!(folder.starts_with("sys/fs/cgroup/") && folder.split('/').all(|part| part != ".."));
            }
        }
    }
}
