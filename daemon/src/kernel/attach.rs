//! Attaching the programs to interfaces, and taking them off again.
//!
//! Two ways. **TCX** (Linux 6.6): a link that lives as long as our file descriptor, or as its pin where it could be
//! [pinned](super::pins). **Netlink**: a filter of the clsact qdisc, which outlives us; so that a restart does not add a
//! second one it always has the same preference and handle.
//!
//! Where a killed daemon left a pinned link or a filter, the program in it is replaced, which the kernel does without
//! a packet in between. What it left where we do not attach that way is removed by [`Attacher::sweep`].
//!
//! Where the way is changed while we run, the new one is attached beside the old one, which then goes, hook by hook
//! ([`Attacher::change`]): no packet is without a verdict.
//!
//! Ours comes first, and returns `TC_ACT_UNSPEC`, so that the programs behind it see every packet; behind another
//! program that returns `TC_ACT_OK` ours would see none.
//!
//! The clsact qdisc stays when our filters go: others may have put theirs into it since, and an empty one costs
//! nothing.

use std::{
    io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    programs::{
        ProgramError, SchedClassifier, TcAttachType,
        tc::{
            NlOptions, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, TcError, TcHandle,
            qdisc_add_clsact, qdisc_detach_program,
        },
    },
};
use tidegate_abi::programs::{EGRESS, INGRESS, IP_EGRESS, IP_INGRESS};

use super::{
    object::{LoadError, PROGRAMS, loaded, program},
    pins::{Pins, unpin},
    plan::Framing,
    tcx::{Direction, TcxLink},
};
use crate::config::Attach;

/// Preference of our filters: before those that `tc` places by itself (from 49,152 down), and not 1 or 10, which
/// people choose; one preference cannot hold filters of two kinds.
const PREFERENCE: u16 = 3;
/// Handle of our filters, "tide" in ASCII.
const HANDLE: u32 = 0x7469_6465;

/// The way in which programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachMode {
    /// TCX links.
    Tcx,
    /// clsact filters.
    Netlink,
}

impl AttachMode {
    /// Name in messages and telemetry.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Netlink => "netlink",
        }
    }
}

/// Why an interface has no programs.
#[derive(Debug, thiserror::Error)]
pub(super) enum AttachError {
    /// The system refused.
    #[error("{call}: {source}")]
    System {
        /// What was tried.
        call: &'static str,
        /// Its answer.
        source: io::Error,
    },
    /// The interface went away, or took another name: a message that says so is on its way.
    #[error("the interface is gone or has another name now")]
    Moved,
    /// aya refused.
    #[error(transparent)]
    Program(ProgramError),
    /// The object lacks a program.
    #[error(transparent)]
    Object(#[from] LoadError),
}

impl AttachError {
    fn of(call: &'static str, error: ProgramError) -> Self {
        match errno(&error) {
            Some(errno) => Self::system(call, io::Error::from_raw_os_error(errno)),
            None => Self::Program(error),
        }
    }

    fn system(call: &'static str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::ENODEV | libc::ENXIO) => Self::Moved,
            _ => Self::System { call, source },
        }
    }
}

fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        ProgramError::TcError(error) => tc_errno(error),
        ProgramError::NetlinkError(error) => error.raw_os_error(),
        _ => None,
    }
}

fn tc_errno(error: &TcError) -> Option<i32> {
    match error {
        TcError::NetlinkError(error) => error.raw_os_error(),
        TcError::IoError(error) => error.raw_os_error(),
        _ => None,
    }
}

/// The programs of one interface: one link for each of [`hooks`], in their order.
#[derive(Debug)]
pub(super) struct Attachment {
    links: Vec<Attached>,
}

/// Which programs an interface has.
const fn hooks(framing: Framing) -> [(&'static str, Direction); 2] {
    match framing {
        Framing::Ethernet => [(INGRESS, Direction::Ingress), (EGRESS, Direction::Egress)],
        Framing::Network => [(IP_INGRESS, Direction::Ingress), (IP_EGRESS, Direction::Egress)],
    }
}

impl Attachment {
    /// Whether all of it is attached so.
    #[must_use]
    pub(super) fn is(&self, mode: AttachMode) -> bool {
        self.links.iter().all(|link| link.mode() == mode)
    }

    /// Where its links are pinned.
    pub(super) fn pins(&self) -> impl Iterator<Item = &Path> {
        self.links.iter().filter_map(|link| match link {
            Attached::Tcx { pin, .. } => pin.as_deref(),
            Attached::Netlink { .. } => None,
        })
    }
}

/// One program on one hook.
#[derive(Debug)]
enum Attached {
    Tcx { link: TcxLink, pin: Option<PathBuf> },
    Netlink { entry: &'static str, link: SchedClassifierLinkId },
}

impl Attached {
    const fn mode(&self) -> AttachMode {
        match self {
            Self::Tcx { .. } => AttachMode::Tcx,
            Self::Netlink { .. } => AttachMode::Netlink,
        }
    }
}

/// Attaches in the way that was asked for, or in the best that the kernel has.
#[derive(Debug)]
pub(super) struct Attacher {
    wanted: Attach,
    mode: Option<AttachMode>,
    pins: Pins,
}

impl Attacher {
    /// An attacher that has yet to find out what the kernel has.
    #[must_use]
    pub(super) const fn new(pins: Pins) -> Self {
        Self { wanted: Attach::Auto, mode: None, pins }
    }

    /// Attaches in this way from now on.
    pub(super) const fn want(&mut self, wanted: Attach) {
        self.wanted = wanted;
        self.mode = match wanted {
            Attach::Auto => None,
            Attach::Tcx => Some(AttachMode::Tcx),
            Attach::Netlink => Some(AttachMode::Netlink),
        };
    }

    /// What was asked for.
    #[must_use]
    pub(super) const fn wanted(&self) -> Attach {
        self.wanted
    }

    /// The way in use; `None` until the first interface showed what the kernel has.
    #[must_use]
    pub(super) const fn mode(&self) -> Option<AttachMode> {
        self.mode
    }

    /// Why links do not outlive the daemon, where they are links and do not.
    #[must_use]
    pub(super) fn not_pinned(&self) -> Option<&str> {
        self.pins.unavailable().filter(|_| self.mode == Some(AttachMode::Tcx))
    }

    /// Attaches both directions, or nothing. The name must be the index's; TCX goes by the index, netlink by the name.
    ///
    /// # Errors
    ///
    /// [`AttachError`]; the interface has none of our programs then.
    pub(super) fn attach(
        &mut self,
        ebpf: &mut Ebpf,
        ifindex: u32,
        name: &str,
        framing: Framing,
    ) -> Result<Attachment, AttachError> {
        let mut attachment = Attachment { links: Vec::with_capacity(2) };
        for (entry, direction) in hooks(framing) {
            let hook = Hook { ifindex, name, direction };
            match self.attach_one(ebpf, entry, hook) {
                Ok(link) => attachment.links.push(link),
                Err(error) => {
                    detach(ebpf, attachment);
                    return Err(error);
                }
            }
        }
        Ok(attachment)
    }

    /// Has an interface's programs attached in the way that is wanted now. Each hook has the new one before the old one is
    /// taken off:
    ///
    /// ```text
    ///   TCX ──► netlink    filter behind the link                       ─► link off
    ///   netlink ──► TCX    link before the filter ─► a grace period of RCU ─► filter off
    /// ```
    ///
    /// In between both are there, TCX first. What the first drops the second never sees: it is counted once. What passes is
    /// judged and counted by both, and takes from a rate twice: towards TCX for up to 10 ms (measured). That is
    /// the price for no hole: a packet on another processor may have gone by the link's place before the link was there, and
    /// is judged by the filter, so that this must stay until none such is left. (Creating the link returns by then.)
    ///
    /// `stayed` says whether the name still is that interface's.
    ///
    /// # Errors
    ///
    /// [`AttachError`]; each hook has its program then, in the new way or as before.
    pub(super) fn change(
        &mut self,
        ebpf: &mut Ebpf,
        (ifindex, name): (u32, &str),
        framing: Framing,
        attachment: &mut Attachment,
        stayed: impl Fn() -> bool,
    ) -> Result<(), AttachError> {
        for (attached, (entry, direction)) in attachment.links.iter_mut().zip(hooks(framing)) {
            // Where the kernel decides, links are what is tried.
            if attached.mode() == self.mode.unwrap_or(AttachMode::Tcx) {
                self.mode = Some(attached.mode());
                continue;
            }
            let (program, hook) = (loaded(ebpf, entry)?, Hook { ifindex, name, direction });
            let new = match attached {
                Attached::Tcx { .. } => netlink(program, entry, hook)?,
                Attached::Netlink { .. } => match self.link(program, hook)? {
                    Some(new) => new,
                    None => continue,
                },
            };
            if !stayed() {
                take_off(ebpf, new);
                return Err(AttachError::Moved);
            }
            take_off(ebpf, std::mem::replace(attached, new));
        }
        Ok(())
    }

    fn attach_one(&mut self, ebpf: &mut Ebpf, entry: &'static str, hook: Hook<'_>) -> Result<Attached, AttachError> {
        let program = loaded(ebpf, entry)?;
        if self.mode != Some(AttachMode::Netlink)
            && let Some(attached) = self.link(program, hook)?
        {
            return Ok(attached);
        }
        netlink(program, entry, hook)
    }

    /// `None` where it was left to the kernel, and it has no TCX.
    fn link(&mut self, program: &SchedClassifier, hook: Hook<'_>) -> Result<Option<Attached>, AttachError> {
        match self.tcx(program, hook)? {
            Err(error) if self.mode.is_none() && error.raw_os_error() == Some(libc::EINVAL) => {
                // Before 6.6 the kernel does not know the attach type. Any other answer is one about this interface.
                self.mode = Some(AttachMode::Netlink);
                tracing::info!(reason = "the kernel has no TCX (Linux 6.6)", "attaching by netlink");
                Ok(None)
            }
            Err(error) => Err(AttachError::system("attach by tcx", error)),
            Ok(attached) => {
                self.mode = Some(AttachMode::Tcx);
                Ok(Some(attached))
            }
        }
    }

    /// The inner error is the kernel's about attaching.
    fn tcx(&mut self, program: &SchedClassifier, hook: Hook<'_>) -> Result<io::Result<Attached>, AttachError> {
        let Hook { ifindex, name, direction } = hook;
        let program = program.fd().map_err(AttachError::Program)?.as_fd();
        let pin = self.pins.path(ifindex, direction);
        if let Some(path) = &pin
            && let Some(link) = Pins::find(path, ifindex, direction)
        {
            match link.update(program) {
                Ok(()) => {
                    tracing::info!(interface = name, ?direction, "taking over the link of a daemon that was killed");
                    return Ok(Ok(Attached::Tcx { link, pin }));
                }
                Err(error) => {
                    tracing::warn!(interface = name, ?direction, %error, "cannot take over a pinned link");
                    unpin(&link, Some(path));
                }
            }
        }
        Ok(TcxLink::create(program, ifindex, direction).map(|link| {
            let pin = pin.filter(|path| self.pins.pin(&link, path));
            Attached::Tcx { link, pin }
        }))
    }

    /// Removes pinned links that a killed daemon left, other than those `held` now.
    pub(super) fn sweep_pins(&self, held: &[&Path]) {
        self.pins.sweep(held);
    }

    /// Removes the filters that a killed daemon left on an interface that does not have ours now.
    pub(super) fn sweep(name: &str) {
        for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
            for program in PROGRAMS {
                match qdisc_detach_program(name, direction, program) {
                    Ok(()) => {
                        tracing::info!(interface = name, program, "removed the filter of a daemon that was killed");
                    }
                    Err(TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => {}
                    // No qdisc, no such interface any more, no privileges: nothing of ours can be there, or stays.
                    Err(error) => tracing::debug!(interface = name, program, %error, "cannot look for old filters"),
                }
            }
        }
    }
}

/// Where a program is to go.
#[derive(Clone, Copy, Debug)]
struct Hook<'a> {
    ifindex: u32,
    name: &'a str,
    direction: Direction,
}

/// Takes the programs off. An interface that is gone took them along.
pub(super) fn detach(ebpf: &mut Ebpf, attachment: Attachment) {
    for attached in attachment.links {
        take_off(ebpf, attached);
    }
}

fn take_off(ebpf: &mut Ebpf, attached: Attached) {
    match attached {
        Attached::Tcx { link, pin } => unpin(&link, pin.as_deref()),
        Attached::Netlink { entry, link } => {
            let Ok(program) = program(ebpf, entry) else { return };
            if let Err(error) = program.detach(link)
                && !matches!(errno(&error), Some(libc::ENODEV | libc::ENXIO | libc::ENOENT | libc::EINVAL))
            {
                tracing::warn!(program = entry, %error, "cannot detach");
            }
        }
    }
}

/// Leaves the programs where they are when this process ends: links that are pinned, and filters.
pub(super) fn leave(ebpf: &mut Ebpf, attachment: Attachment) {
    for attached in attachment.links {
        match attached {
            // Its pin holds it.
            Attached::Tcx { link, .. } => drop(link),
            Attached::Netlink { entry, link } => {
                let Ok(program) = program(ebpf, entry) else { continue };
                match program.take_link(link) {
                    // Dropped, it would take the filter off.
                    Ok(link) => std::mem::forget(link),
                    Err(error) => tracing::warn!(program = entry, %error, "cannot leave the filter behind"),
                }
            }
        }
    }
}

fn netlink(program: &mut SchedClassifier, entry: &'static str, hook: Hook<'_>) -> Result<Attached, AttachError> {
    let attached = |link| Attached::Netlink { entry, link };
    let call = "attach by netlink";
    let name = hook.name;
    let direction = match hook.direction {
        Direction::Ingress => TcAttachType::Ingress,
        Direction::Egress => TcAttachType::Egress,
    };
    if let Err(error) = qdisc_add_clsact(name) {
        match tc_errno(&error) {
            Some(libc::EEXIST) => {}
            Some(libc::ENODEV | libc::ENXIO) => return Err(AttachError::Moved),
            _ => return Err(AttachError::of("add the clsact qdisc", error.into())),
        }
    }
    let handle = TcHandle::from(HANDLE);
    let options = TcAttachOptions::Netlink(NlOptions { priority: PREFERENCE, handle, classid: None });
    match program.attach_with_options(name, direction, options) {
        Err(error) if errno(&error) == Some(libc::EEXIST) => {}
        other => return other.map(attached).map_err(|error| AttachError::of(call, error)),
    }
    tracing::info!(interface = name, "taking over the filter of a daemon that was killed");
    let left = SchedClassifierLink::attached(name, direction, PREFERENCE, handle, None)
        .map_err(|error| AttachError::of(call, TcError::IoError(error).into()))?;
    program.attach_to_link(left).map(attached).map_err(|error| AttachError::of(call, error))
}
