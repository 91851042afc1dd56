//! What a built program asks of the machine that it runs on, as readelf(1) tells it.

use std::{fmt, path::Path, process::Command};

use crate::shell;

/// The oldest glibc that a gateway may have: Debian 12's. What is shipped must not ask for a newer one.
pub(crate) const OLDEST_GLIBC: Glibc = Glibc { major: 2, minor: 36 };

/// A processor that tidegate is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Machine {
    Arm64,
    Amd64,
}

impl Machine {
    /// What Debian calls it.
    pub(crate) const fn debian(self) -> &'static str {
        match self {
            Self::Arm64 => "arm64",
            Self::Amd64 => "amd64",
        }
    }

    /// The compiler's target, with glibc.
    pub(crate) const fn target(self) -> &'static str {
        match self {
            Self::Arm64 => "aarch64-unknown-linux-gnu",
            Self::Amd64 => "x86_64-unknown-linux-gnu",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        match name {
            "AArch64" => Some(Self::Arm64),
            "Advanced Micro Devices X86-64" => Some(Self::Amd64),
            _ => None,
        }
    }
}

/// A version of glibc.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Glibc {
    major: u32,
    minor: u32,
}

impl Glibc {
    /// Of `GLIBC_2.34` or `GLIBC_2.2.5`; or of what is named otherwise since its meaning is no symbol's.
    fn parse(name: &str) -> Option<Self> {
        if name == "GLIBC_ABI_DT_RELR" {
            return Some(Self { major: 2, minor: 36 });
        }
        let mut numbers = name.strip_prefix("GLIBC_")?.split('.').map(str::parse);
        Some(Self { major: numbers.next()?.ok()?, minor: numbers.next()?.ok()? })
    }
}

impl fmt::Display for Glibc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What a program asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Where it runs; `None` for a processor that is none of ours.
    pub(crate) machine: Option<Machine>,
    /// The newest version of glibc that one of its symbols names; `None` where it uses none.
    pub(crate) glibc: Option<Glibc>,
    /// Shared libraries.
    pub(crate) libraries: Vec<String>,
}

impl Needs {
    /// Reads the program.
    ///
    /// # Errors
    ///
    /// It is not there, is no program, or there is no readelf (which comes with gcc's binutils).
    pub(crate) fn of(program: &Path) -> Result<Self, String> {
        let mut readelf = Command::new("readelf");
        readelf.env("LC_ALL", "C").args(["--wide", "--file-header", "--dynamic", "--version-info"]).arg(program);
        Ok(Self::parse(&shell::output(&mut readelf)?))
    }

    fn parse(text: &str) -> Self {
        let value = |line: &str, key: &str| line.split_once(key).map(|(_, value)| value.trim().to_owned());
        let machine = text.lines().find_map(|line| value(line, "Machine:"));
        let libraries = text.lines().filter(|line| line.contains("(NEEDED)"));
        let libraries = libraries.filter_map(|line| value(line, "Shared library:"));
        // A weak version may be absent: the program asks for it at run time and has another way.
        let versions = text.lines().filter(|line| !line.contains("Flags: WEAK"));
        let versions = versions.filter_map(|line| value(line, "Name: "));
        Self {
            machine: machine.and_then(|name| Machine::parse(&name)),
            glibc: versions.filter_map(|name| Glibc::parse(name.split(' ').next()?)).max(),
            libraries: libraries.map(|name| name.trim_matches(['[', ']']).to_owned()).collect(),
        }
    }

    /// Whether it runs on every gateway of that kind.
    ///
    /// # Errors
    ///
    /// What it asks for, and what gateways have.
    pub(crate) fn check(&self, machine: Machine) -> Result<(), String> {
        if self.machine != Some(machine) {
            let found = self.machine.map_or("another processor", Machine::debian);
            return Err(format!("wanted a program for {}, this is one for {found}", machine.debian()));
        }
        match self.glibc {
            Some(found) if found > OLDEST_GLIBC => Err(format!(
                "it needs glibc {found}, gateways have {OLDEST_GLIBC}: build it where glibc is no newer, as \
                 `cargo xtask cross` does for arm64, and Debian 12 would for amd64"
            )),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.glibc {
            Some(glibc) => write!(f, "glibc {glibc} or newer ({})", self.libraries.join(", ")),
            None if self.libraries.is_empty() => f.write_str("no shared library"),
            None => f.write_str(&self.libraries.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As readelf 2.40 writes it, shortened.
    const TEXT: &str = "\
ELF Header:
  Class:                             ELF64
  Machine:                           AArch64
Dynamic section at offset 0x35c2a8 contains 31 entries:
 0x0000000000000001 (NEEDED)             Shared library: [libgcc_s.so.1]
 0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]
Version needs section '.gnu.version_r' contains 2 entries:
 Addr: 0x0000000000001b38  Offset: 0x001b38  Link: 5 (.dynstr)
  000000: Version: 1  File: libgcc_s.so.1  Cnt: 1
  0x0010:   Name: GCC_4.2.0  Flags: none  Version: 11
  0x0050: Version: 1  File: libc.so.6  Cnt: 4
  0x0060:   Name: GLIBC_2.4  Flags: none  Version: 14
  0x0070:   Name: GLIBC_2.39  Flags: WEAK  Version: 13
  0x0080:   Name: GLIBC_2.34  Flags: none  Version: 12
  0x0090:   Name: GLIBC_2.17  Flags: none  Version: 2
";

    #[test]
    fn the_newest_glibc_that_must_be_there_is_found() {
        let needs = Needs::parse(TEXT);
        assert_eq!(needs.machine, Some(Machine::Arm64));
        assert_eq!(needs.glibc, Some(Glibc { major: 2, minor: 34 }));
        assert_eq!(needs.libraries, ["libgcc_s.so.1", "libc.so.6"]);
        assert_eq!(needs.check(Machine::Arm64), Ok(()));
    }

    #[test]
    fn relative_relocations_take_a_glibc_that_reads_them() {
        let needs = Needs::parse(&TEXT.replace("GLIBC_2.4 ", "GLIBC_ABI_DT_RELR "));
        assert_eq!(needs.glibc, Some(Glibc { major: 2, minor: 36 }));
        assert_eq!(needs.check(Machine::Arm64), Ok(()));
    }

    #[test]
    fn a_program_for_newer_systems_is_refused_with_both_versions() {
        let needs = Needs::parse(&TEXT.replace("GLIBC_2.34", "GLIBC_2.38"));
        let complaint = needs.check(Machine::Arm64).unwrap_err();
        assert!(complaint.starts_with("it needs glibc 2.38, gateways have 2.36"), "{complaint}");
    }

    #[test]
    fn a_program_for_another_processor_is_refused() {
        let complaint = Needs::parse(TEXT).check(Machine::Amd64).unwrap_err();
        assert_eq!(complaint, "wanted a program for amd64, this is one for arm64");
        let other = Needs::parse(&TEXT.replace("AArch64", "RISC-V"));
        assert!(other.check(Machine::Arm64).unwrap_err().ends_with("another processor"));
    }

    #[test]
    fn a_static_program_needs_nothing() {
        let needs = Needs::parse("  Machine:                           AArch64\nNo version information found\n");
        assert_eq!((needs.glibc, needs.to_string()), (None, "no shared library".to_owned()));
        assert_eq!(needs.check(Machine::Arm64), Ok(()));
    }
}
