//! From a bundle to the tables that the kernel judges by. Pure: the same bundle and options make the same blocks.
//!
//! ```text
//!  Bundle ── subject ──► rules that have not expired; protocols ─► groups, interface lists ─► numbers
//!    │
//!    │ prefixes of one family, sorted
//!    ▼
//!  sweep ──────────► intervals of addresses, each within the same prefixes
//!    │                     │
//!    │ candidates          │ for each direction and protocol group: the rules on the innermost prefix,
//!    │                     ▼ then those on the prefix around it … up to the first without conditions
//!    │                 chain of candidates
//!    │ decide              │ conditions become segments of ports, of peer ports, chains of interfaces
//!    │                     ▼
//!    │                 decision: none, a rule, or a list that leads to one
//!    │ classes             │ a row of decisions: a class, or where all of them are one rule, that rule
//!    ▼                     ▼
//!  families ───────► intervals of rules and classes, neighbours merged; IPv6 by its high half, then its low one
//!    │
//!    ▼
//!  space ──────────► trees, lists, classes, rules, limits, header: blocks as in `tidegate_abi::policy`
//! ```
//!
//! What is equal is one: chains, decisions, classes. So a decision that many addresses share is made once. Work and memory
//! grow with the prefixes and with what is written, not with pairs of addresses and rules; nothing is written beyond the most
//! that a policy may take. What grows otherwise, since different chains may come to one decision, is bounded by itself
//! ([`MAX_LINKS`], [`MAX_STEPS`]).
//!
//! The meaning is `policy::evaluate`'s, which tests hold against [`walk`](super::tables::walk) through these tables.

#![expect(
    clippy::cast_possible_truncation,
    reason = "what is counted here are blocks, words, rules: 21 bits. Addresses are cut into halves on purpose"
)]

mod candidates;
mod classes;
mod decide;
mod families;
mod index;
mod space;
mod subject;
mod sweep;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tidegate_abi::policy::{
    Header, LARGE_BLOCKS, Limit, MAX_GROUPS, MAX_INTERFACE_LISTS, PROTOCOL_GROUPS, Rule as RuleEntry, action, flags,
};

use self::{classes::Classes, space::Space, subject::Subject};
use super::{
    Action, Bundle, DefaultAction, Prefix,
    bundle::{self, MAX_CANDIDATES},
    tables::{Tables, words},
};

/// Links of chains at most: as many as decisions could stand in the largest tables, where each takes 16 bytes or more. Those
/// that come to the same decision take no room there, but here.
const MAX_LINKS: usize = 1 << 19;
/// How often it is looked at most whether a rule holds for a segment of ports: a third of a second's work.
const MAX_STEPS: u64 = 1 << 24;

/// What goes into the tables beside the bundle.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// Number of the generation.
    pub number: u32,
    /// `[policy] fragments`: whether packets pass whose ports are not known, where the default is to drop.
    pub fragments_allow: bool,
    /// Whether a rule counts no more; by its place in the bundle.
    pub expired: &'a dyn Fn(usize) -> bool,
}

impl std::fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { number, fragments_allow, expired: _ } = self;
        f.debug_struct("Options")
            .field("number", number)
            .field("fragments_allow", fragments_allow)
            .finish_non_exhaustive()
    }
}

/// Why a bundle cannot be enforced, though it can be read. Nothing of it passes with time, but that rules expire.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// More rules than [`MAX_CANDIDATES`] hold the same address.
    #[error("addresses in {prefix} face {found} rules, at most {MAX_CANDIDATES} are accepted")]
    Candidates {
        /// A prefix whose addresses they are.
        prefix: Prefix,
        /// How many.
        found: usize,
    },
    /// Too many protocols.
    #[error("rules name {found} different protocols, at most {} are accepted", MAX_GROUPS - 1)]
    Protocols {
        /// How many.
        found: u32,
    },
    /// Too many lists of interfaces.
    #[error("rules name {found} different lists of interfaces, at most {MAX_INTERFACE_LISTS} are accepted")]
    InterfaceLists {
        /// How many.
        found: usize,
    },
    /// More than [`MAX_LINKS`].
    #[error(
        "rules with ports, ICMP types or interfaces meet others on nested prefixes in over {MAX_LINKS} ways: use fewer of \
         them, or fewer protocols"
    )]
    Meetings,
    /// More than [`MAX_STEPS`].
    #[error("its lists of ports take over {MAX_STEPS} steps to compile: use ranges, or fewer rules on nested prefixes")]
    Steps,
    /// Too large.
    #[error(
        "its tables take {bytes} bytes or more, at most {} are accepted: use fewer rules, port ranges or protocols",
        LARGE_BLOCKS * 64
    )]
    TooLarge {
        /// What they take at least.
        bytes: usize,
    },
}

/// Compiles a bundle.
///
/// # Errors
///
/// Where the bundle asks for more than the tables hold; see [`CompileError`].
pub fn compile(bundle: &Bundle, options: &Options<'_>) -> Result<Tables, CompileError> {
    let subject = Subject::new(bundle, options)?;
    let mut space = Space::new();
    let mut classes = Classes::new(&subject);
    let v4 = families::v4(&subject, &mut classes, &mut space)?;
    let v6 = families::v6(&subject, &mut classes, &mut space)?;
    let class_words = classes.into_words();
    let rule_count = bundle.rules.len() + 1;
    let limit_count = bundle.rules.iter().filter(|rule| matches!(rule.action, Action::Limit(_))).count();
    space.check(class_words.len().div_ceil(16) + rule_count.div_ceil(2) + limit_count)?;
    let header = Header {
        number: options.number,
        flags: match bundle.default {
            DefaultAction::Allow => 0,
            DefaultAction::Drop if options.fragments_allow => flags::DEFAULT_DROP | flags::FRAGMENTS_ALLOW,
            DefaultAction::Drop => flags::DEFAULT_DROP,
        },
        v4: v4.pack(),
        v6: v6.pack(),
        classes: space.put(&class_words)? as u32,
        groups: subject.group_count,
        rules: space.blocks(rule_count.div_ceil(2))? as u32,
        rule_count: rule_count as u32,
        limits: space.blocks(limit_count)? as u32,
        limit_count: limit_count as u32,
        blocks: space.len() as u32,
        reserved: [0; 5],
    };
    write_rules(bundle, &header, &mut space);
    *space.block(0) = words(&header);
    for (block, groups) in (PROTOCOL_GROUPS as usize..).zip(subject.groups.as_chunks::<8>().0.chunks(8)) {
        for (word, groups) in space.block(block).iter_mut().zip(groups) {
            *word = u64::from_le_bytes(*groups);
        }
    }
    let interface_lists = subject.interface_lists.iter().map(|list| Arc::clone(list)).collect();
    Ok(Tables { blocks: space.into_blocks(), interface_lists })
}

/// All rules have their place, expired ones too: their numbers are those of the bundle.
fn write_rules(bundle: &Bundle, header: &Header, space: &mut Space) {
    let default = match bundle.default {
        DefaultAction::Allow => action::ALLOW,
        DefaultAction::Drop => action::DROP,
    };
    let put = |number: usize, action: u32, limit: u32, space: &mut Space| {
        let entry: [u64; 4] = words(&RuleEntry { action, limit, ..RuleEntry::default() });
        space.block(header.rules as usize + number / 2)[number % 2 * 4..][..4].copy_from_slice(&entry);
    };
    put(0, default, 0, space);
    let mut limits = 0;
    for (number, rule) in (1..).zip(&bundle.rules) {
        match &rule.action {
            Action::Allow => put(number, action::ALLOW, 0, space),
            Action::Drop => put(number, action::DROP, 0, space),
            Action::Sample => put(number, action::SAMPLE, 0, space),
            Action::Limit(rate) => {
                put(number, action::LIMIT, limits, space);
                *space.block((header.limits + limits) as usize) = words(&limit(rate, bundle.name(rule)));
                limits += 1;
            }
        }
    }
}

fn limit(rate: &bundle::Limit, name: &str) -> Limit {
    let interval_ns = 1_000_000_000 / u64::from(rate.pps.max(1));
    Limit {
        interval_ns,
        burst_ns: interval_ns * u64::from(rate.burst),
        id: id(name, rate),
        per_peer: rate.per_peer.into(),
        ..Limit::default()
    }
}

/// The same for the same rule at the same rate in any version, and another for any other: FNV-1a of its name and rate. What a
/// peer used up of a lower rate would else hold it back under a higher one. Where two should be equal after all, two rules
/// share the rates of their peers.
fn id(name: &str, rate: &bundle::Limit) -> u64 {
    let rate = [rate.pps.to_le_bytes(), rate.burst.to_le_bytes()].concat();
    let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
    // A name holds no zero.
    name.bytes().chain([0]).chain(rate).fold(0xCBF2_9CE4_8422_2325, step)
}
