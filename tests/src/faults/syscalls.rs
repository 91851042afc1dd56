//! System calls that are refused, as container runtimes and hardened services do.

use std::{
    io,
    os::{
        fd::{FromRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::Command,
};

/// System calls and the error that they end with.
#[derive(Clone, Copy, Debug)]
pub struct Syscalls {
    numbers: &'static [libc::c_long],
    errno: libc::c_int,
}

impl Syscalls {
    /// `io_uring` forbidden by a policy: `EPERM`, as Docker's profile answers.
    #[must_use]
    pub const fn uring_forbidden() -> Self {
        Self { numbers: URING, errno: libc::EPERM }
    }

    /// `io_uring` unknown to the kernel: `ENOSYS`, as before Linux 5.1, under qemu-user and gVisor.
    #[must_use]
    pub const fn uring_unknown() -> Self {
        Self { numbers: URING, errno: libc::ENOSYS }
    }

    /// Whether this kernel grants `io_uring` to the test itself.
    ///
    /// # Errors
    ///
    /// It does not: a reason to skip.
    pub fn uring_granted() -> Result<(), String> {
        // `struct io_uring_params` of `linux/io_uring.h`: 120 bytes, all zero where nothing special is asked for.
        let mut parameters = [0_u64; 15];
        // SAFETY: the pointer is to that many writable bytes; the kernel fills them in.
        let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) };
        let Ok(fd) = libc::c_int::try_from(fd) else { return Err("io_uring_setup answers nonsense".to_owned()) };
        if fd < 0 {
            return Err(format!("this machine refuses io_uring: {}", io::Error::last_os_error()));
        }
        // SAFETY: the descriptor was just opened and nobody else has it.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
        Ok(())
    }

    /// Makes `command` run without them, and its children, too (seccomp(2)).
    pub(crate) fn refuse(self, command: &mut Command) {
        let program = self.program();
        let install = move || {
            rustix::thread::set_no_new_privs(true)?;
            let filter = libc::sock_fprog {
                len: u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
                filter: program.as_ptr().cast_mut(),
            };
            // SAFETY: the pointer is to a live program of the length given; the kernel copies it.
            let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) };
            if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        };
        // SAFETY: the closure makes two system calls, which are async-signal-safe, on memory that it owns.
        unsafe { command.pre_exec(install) };
    }

    /// A classic BPF program over `struct seccomp_data`: the number is compared with each that is refused.
    /// It is the native one: a scenario does not start programs of another architecture.
    fn program(self) -> Vec<libc::sock_filter> {
        const LOAD_WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
        const JUMP_IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
        const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
        const OFFSET_OF_NUMBER: u32 = 0;
        let instruction = |code: u32, jump_if_not: u8, k: u32| libc::sock_filter {
            code: u16::try_from(code).expect("a small constant"),
            jt: 0,
            jf: jump_if_not,
            k,
        };
        let errno = u32::try_from(self.errno).expect("error numbers are positive");
        let mut program = vec![instruction(LOAD_WORD, 0, OFFSET_OF_NUMBER)];
        for number in self.numbers {
            let number = u32::try_from(*number).expect("system call numbers are small");
            program.push(instruction(JUMP_IF_EQUAL, 1, number));
            program.push(instruction(RETURN, 0, libc::SECCOMP_RET_ERRNO | errno));
        }
        program.push(instruction(RETURN, 0, libc::SECCOMP_RET_ALLOW));
        program
    }
}

const URING: &[libc::c_long] = &[libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_calls_are_refused() {
        let refused = Syscalls { numbers: &[libc::SYS_mkdir, libc::SYS_mkdirat], errno: libc::ENOSYS };
        let folder = crate::Scratch::new("syscalls");
        let mut command = Command::new("mkdir");
        command.arg(folder.path().join("new"));
        refused.refuse(&mut command);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("not implemented"), "{said}");
    }
}
