//! Attaching the programs to interfaces, and taking them off again.
//!
//! Two ways. **TCX** (Linux 6.6): a link that lives as long as our file descriptor; a killed daemon leaves nothing
//! behind. **Netlink**: a filter of the clsact qdisc, which outlives us. So that a restart does not add a second one
//! it always has the same preference and handle: where these are taken, the program in them is replaced, which the
//! kernel does without a packet in between. Filters of a killed daemon on interfaces that are no longer watched
//! that way are removed by [`Attacher::sweep`].
//!
//! Ours comes first, and returns `TC_ACT_UNSPEC`, so that the programs behind it see every packet; behind another
//! program that returns `TC_ACT_OK` ours would see none.
//!
//! The clsact qdisc stays when our filters go: others may have put theirs into it since, and an empty one costs
//! nothing.

use std::io;

use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        tc::{
            NlOptions, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, TcError, TcHandle,
            qdisc_add_clsact, qdisc_detach_program,
        },
    },
};
use tidegate_abi::programs::{EGRESS, INGRESS, IP_EGRESS, IP_INGRESS};

use super::{
    object::{LoadError, PROGRAMS, loaded, program},
    plan::Framing,
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
            Some(libc::ENODEV | libc::ENXIO) => Self::Moved,
            Some(errno) => Self::System { call, source: io::Error::from_raw_os_error(errno) },
            None => Self::Program(error),
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

/// The programs of one interface.
#[derive(Debug)]
pub(super) struct Attachment {
    links: Vec<(&'static str, SchedClassifierLinkId)>,
}

/// Attaches in the way that was asked for, or in the best that the kernel has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attacher {
    wanted: Attach,
    mode: Option<AttachMode>,
}

impl Attacher {
    /// An attacher that has yet to find out what the kernel has.
    #[must_use]
    pub(super) const fn new(wanted: Attach) -> Self {
        let mode = match wanted {
            Attach::Auto => None,
            Attach::Tcx => Some(AttachMode::Tcx),
            Attach::Netlink => Some(AttachMode::Netlink),
        };
        Self { wanted, mode }
    }

    /// What was asked for.
    #[must_use]
    pub(super) const fn wanted(self) -> Attach {
        self.wanted
    }

    /// The way in use; `None` until the first interface showed what the kernel has.
    #[must_use]
    pub(super) const fn mode(self) -> Option<AttachMode> {
        self.mode
    }

    /// Attaches both directions, or nothing.
    ///
    /// # Errors
    ///
    /// [`AttachError`]; the interface has none of our programs then.
    pub(super) fn attach(&mut self, ebpf: &mut Ebpf, name: &str, framing: Framing) -> Result<Attachment, AttachError> {
        let (ingress, egress) = match framing {
            Framing::Ethernet => (INGRESS, EGRESS),
            Framing::Network => (IP_INGRESS, IP_EGRESS),
        };
        let mut attachment = Attachment { links: Vec::with_capacity(2) };
        for (entry, direction) in [(ingress, TcAttachType::Ingress), (egress, TcAttachType::Egress)] {
            match loaded(ebpf, entry).map_err(Into::into).and_then(|program| self.attach_one(program, name, direction))
            {
                Ok(link) => attachment.links.push((entry, link)),
                Err(error) => {
                    detach(ebpf, attachment);
                    return Err(error);
                }
            }
        }
        Ok(attachment)
    }

    fn attach_one(
        &mut self,
        program: &mut SchedClassifier,
        name: &str,
        direction: TcAttachType,
    ) -> Result<SchedClassifierLinkId, AttachError> {
        match self.mode {
            Some(AttachMode::Tcx) => {
                tcx(program, name, direction).map_err(|error| AttachError::of("attach by tcx", error))
            }
            Some(AttachMode::Netlink) => netlink(program, name, direction),
            None => match tcx(program, name, direction) {
                Ok(link) => {
                    self.mode = Some(AttachMode::Tcx);
                    Ok(link)
                }
                // Before 6.6 the kernel does not know the attach type. Any other answer is one about this interface.
                Err(error) if errno(&error) == Some(libc::EINVAL) => {
                    self.mode = Some(AttachMode::Netlink);
                    tracing::info!(reason = "the kernel has no TCX (Linux 6.6)", "attaching by netlink");
                    netlink(program, name, direction)
                }
                Err(error) => Err(AttachError::of("attach by tcx", error)),
            },
        }
    }

    /// Removes what a killed daemon left on an interface that does not have our filters now.
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

/// Takes the programs off. An interface that is gone took them along.
pub(super) fn detach(ebpf: &mut Ebpf, attachment: Attachment) {
    for (entry, link) in attachment.links {
        let Ok(program) = program(ebpf, entry) else { continue };
        if let Err(error) = program.detach(link)
            && !matches!(errno(&error), Some(libc::ENODEV | libc::ENXIO | libc::ENOENT | libc::EINVAL))
        {
            tracing::warn!(program = entry, %error, "cannot detach");
        }
    }
}

fn tcx(
    program: &mut SchedClassifier,
    name: &str,
    direction: TcAttachType,
) -> Result<SchedClassifierLinkId, ProgramError> {
    program.attach_with_options(name, direction, TcAttachOptions::TcxOrder(LinkOrder::first()))
}

fn netlink(
    program: &mut SchedClassifier,
    name: &str,
    direction: TcAttachType,
) -> Result<SchedClassifierLinkId, AttachError> {
    let call = "attach by netlink";
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
        other => return other.map_err(|error| AttachError::of(call, error)),
    }
    tracing::info!(interface = name, "taking over the filter of a daemon that was killed");
    let left = SchedClassifierLink::attached(name, direction, PREFERENCE, handle, None)
        .map_err(|error| AttachError::of(call, TcError::IoError(error).into()))?;
    program.attach_to_link(left).map_err(|error| AttachError::of(call, error))
}
