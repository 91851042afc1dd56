//! The pair of programs that times `tcp_sendmsg`: loaded behind all else, and not missed by the rest where it fails.
//!
//! Programs of type TRACING name their function by its number in the kernel's BTF, which aya reads whole: 19 MB for the
//! moment (measured, 5.5 MB of BTF), and 30 ms, in emulation two seconds. So it is done once the interfaces are
//! attached and nobody asks for anything, and the memory is given back at once. Where the kernel refuses such programs,
//! their absence is told with the reason.

use std::error::Error;

use aya::{
    Btf, Ebpf,
    programs::{FEntry, FExit},
};
use tidegate_abi::programs::{SEND_ENTRY, SEND_EXIT, TCP_SENDMSG};

use super::{
    Unavailable,
    object::{LoadError, one_line},
};
use crate::heap;

/// Loads and attaches the pair, or nothing.
///
/// # Errors
///
/// What is missing; the object is as it was before.
pub(super) fn start(ebpf: &mut Ebpf) -> Result<(), Unavailable> {
    let started = try_start(ebpf);
    heap::give_back();
    started.map_err(|error| {
        stop(ebpf);
        unavailable(&error)
    })
}

fn try_start(ebpf: &mut Ebpf) -> Result<(), LoadError> {
    let btf = Btf::from_sys_fs().map_err(|source| LoadError::Program { name: SEND_ENTRY, source: source.into() })?;
    // The end first, so that no beginning is left without one.
    let exit: &mut FExit = program(ebpf, SEND_EXIT)?;
    exit.load(TCP_SENDMSG, &btf)
        .and_then(|()| exit.attach())
        .map_err(|source| LoadError::Program { name: SEND_EXIT, source })?;
    let entry: &mut FEntry = program(ebpf, SEND_ENTRY)?;
    entry
        .load(TCP_SENDMSG, &btf)
        .and_then(|()| entry.attach())
        .map_err(|source| LoadError::Program { name: SEND_ENTRY, source })?;
    Ok(())
}

/// Takes the pair off and out of the kernel. What it counted stays.
pub(super) fn stop(ebpf: &mut Ebpf) {
    // An error says that it was not loaded.
    if let Ok(entry) = program::<FEntry>(ebpf, SEND_ENTRY) {
        let _was_not = entry.unload();
    }
    if let Ok(exit) = program::<FExit>(ebpf, SEND_EXIT) {
        let _was_not = exit.unload();
    }
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, LoadError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
{
    let program = ebpf.program_mut(name).ok_or(LoadError::Missing { name })?;
    program.try_into().map_err(|source| LoadError::Program { name, source })
}

fn unavailable(error: &LoadError) -> Unavailable {
    /// `linux/errno.h`; not one that the C library knows.
    const ENOTSUPP: i32 = 524;
    let no_btf = error.source().is_some_and(|source| source.to_string().contains("/sys/kernel/btf"));
    let fix = match error.errno() {
        _ if no_btf => "use a kernel with CONFIG_DEBUG_INFO_BTF",
        Some(libc::EPERM | libc::EACCES) => {
            "grant CAP_BPF and CAP_PERFMON; if they are, this kernel refuses programs of type TRACING: set [traffic] \
             time_tcp_sendmsg = false"
        }
        Some(ENOTSUPP | libc::EOPNOTSUPP) => "use Linux 6.4 or newer on ARM64, with CONFIG_DYNAMIC_FTRACE",
        _ => "set [traffic] time_tcp_sendmsg = false, and report this message",
    };
    Unavailable { what: "tcp_sendmsg".into(), why: one_line(&super::object::describe(error)), fix: fix.into() }
}
