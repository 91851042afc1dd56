//! Memory: /proc/meminfo (`proc_meminfo(5)`).

use serde::Serialize;

/// Memory of the machine, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// All that the kernel manages.
    pub total_bytes: u64,
    /// What new programs could have without swapping.
    pub available_bytes: u64,
    /// Waiting to be written to disk.
    pub dirty_bytes: u64,
    /// Memory of the kernel that cannot be taken back; eBPF maps are in it.
    pub unreclaimable_bytes: u64,
    /// Swap space; 0 where there is none.
    pub swap_total_bytes: u64,
    /// Of that unused.
    pub swap_free_bytes: u64,
}

/// `MemTotal:       24684096 kB`, a line each.
pub(super) fn memory(text: &str) -> Option<Memory> {
    let bytes = |wanted: &str| {
        text.lines().find_map(|line| {
            let value = line.strip_prefix(wanted)?.strip_prefix(':')?;
            value.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()?.checked_mul(1024)
        })
    };
    Some(Memory {
        total_bytes: bytes("MemTotal")?,
        available_bytes: bytes("MemAvailable")?,
        dirty_bytes: bytes("Dirty").unwrap_or_default(),
        unreclaimable_bytes: bytes("SUnreclaim").unwrap_or_default(),
        swap_total_bytes: bytes("SwapTotal").unwrap_or_default(),
        swap_free_bytes: bytes("SwapFree").unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_captured_file_is_read() {
        let text = "MemTotal:         487276 kB\nMemFree:           50000 kB\nMemAvailable:     301204 kB\nDirty:               8 kB\n\
                    SUnreclaim:        21000 kB\nHugePages_Total:       0\n";
        let memory = memory(text).unwrap();
        assert_eq!((memory.total_bytes, memory.available_bytes), (487_276 * 1024, 301_204 * 1024));
        assert_eq!((memory.dirty_bytes, memory.unreclaimable_bytes, memory.swap_total_bytes), (8192, 21_504_000, 0));
    }

    proptest! {
        #[test]
        fn hostile_text_is_not_read(text in "((MemTotal|MemAvailable|Dirty):? *[0-9]{0,25} ?(kB)?\n){0,4}|.{0,80}") {
            let _either = memory(&text);
        }
    }
}
