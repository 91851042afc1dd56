//! A generation in the kernel: made, filled, and from then on read and written word by word.
//!
//! Of its 2 or 8 MiB only what changes stays mapped: the interface masks, the rules with their counters, the limits.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use tidegate_abi::{
    SLOTS,
    policy::{Block, FREE, INTERFACES, action},
};
use tidegate_values::Patterns;

use super::{
    Generation, RuleCounts, Rules,
    map::{GenerationMap, Size, Window},
};

/// Words of a `Rule` and of a `Limit` (`tidegate_abi::policy`), as they stand in blocks.
mod word {
    pub(super) const PACKETS: usize = 0;
    pub(super) const BYTES: usize = 1;
    /// Low half: the action. High half: the limit.
    pub(super) const ACTION: usize = 3;
    pub(super) const RULE_WORDS: usize = 4;

    pub(super) const TAT: usize = 0;
    pub(super) const BURST: usize = 2;
    pub(super) const DROPPED_PACKETS: usize = 4;
    pub(super) const DROPPED_BYTES: usize = 5;
    /// Low half: 1 where each peer has a rate of its own.
    pub(super) const PER_PEER: usize = 6;
}

/// Why tables cannot be put into the kernel.
#[derive(Debug, thiserror::Error)]
pub(super) enum MakeError {
    /// More than the largest map holds.
    #[error("the policy takes {blocks} blocks of 64 bytes; a generation holds at most 131072")]
    TooLarge {
        /// Found.
        blocks: usize,
    },
    /// The header does not fit what follows, or the names.
    #[error("the policy's tables contradict themselves: {0}")]
    Contradiction(&'static str),
    /// The system's answer.
    #[error("{call}: {source}")]
    System {
        /// What was tried.
        call: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// Where rules and limits stand: from the header, of whose words each holds two fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    rules: u32,
    rule_count: u32,
    limits: u32,
    limit_count: u32,
}

impl Layout {
    fn read(generation: &Generation) -> Result<Self, MakeError> {
        let blocks = &generation.blocks;
        let wrong = MakeError::Contradiction;
        let header = blocks.first().ok_or(wrong("there is no header"))?;
        let (rules, rule_count) = halves(header[3]);
        let (limits, limit_count) = halves(header[4]);
        let within = |first: u32, count: u32| {
            first >= FREE && first.checked_add(count).is_some_and(|end| end as usize <= blocks.len())
        };
        if !within(rules, rule_count.div_ceil(2)) {
            return Err(wrong("the rules are outside of them"));
        }
        if limit_count > 0 && !within(limits, limit_count) {
            return Err(wrong("the limits are outside of them"));
        }
        if rule_count as usize != generation.rules.len() + 1 {
            return Err(wrong("there are not as many rules as names"));
        }
        Ok(Self { rules, rule_count, limits, limit_count })
    }
}

/// The two 32-bit fields of a word, in memory's order on the little-endian machines that the programs are built for.
const fn halves(word: u64) -> (u32, u32) {
    ((word & 0xFFFF_FFFF) as u32, (word >> 32) as u32)
}

/// A rate that goes on in another generation.
#[derive(Clone, Copy, Debug)]
struct Carried {
    /// Its number in the generation before, and in the new one.
    old: u32,
    new: u32,
    /// Where it stood in the generation before when that was last looked at, on the boot clock.
    stood_ns: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Live {
    /// The kernel's number of its map.
    pub id: u32,
    /// Our number of it, which its dropped packets bear.
    pub number: u32,
    pub size: Size,
    /// Blocks in use.
    pub blocks: usize,
    pub rules: Arc<Rules>,
    interface_lists: Vec<Patterns>,
    layout: Layout,
    head: Window,
    rule_window: Window,
    limit_window: Option<Window>,
    /// Rates that were taken over, while the generation before may still let packets pass.
    carried: Vec<Carried>,
}

impl Live {
    /// Makes a map of it; programs do not see it yet.
    ///
    /// # Errors
    ///
    /// [`MakeError`]; nothing is left then.
    pub(super) fn make(generation: Generation, number: u32) -> Result<(Self, GenerationMap), MakeError> {
        let count = generation.blocks.len();
        let size = Size::holding(count).ok_or(MakeError::TooLarge { blocks: count })?;
        let layout = Layout::read(&generation)?;
        let system = |call| move |source| MakeError::System { call, source };
        let map = GenerationMap::create(size).map_err(system("make a map for the policy"))?;
        let call = "map the policy into memory";
        let window = |blocks| map.window(blocks).map_err(system(call));
        let used = u32::try_from(count).expect("at most 131,072");
        window(0..used)?.fill(&generation.blocks);
        let Generation { blocks, interface_lists, rules } = generation;
        // Up to 8 MiB that the kernel has now.
        drop::<Vec<Block>>(blocks);
        let live = Self {
            id: map.id,
            number,
            size,
            blocks: count,
            rules,
            interface_lists,
            layout,
            head: window(0..FREE)?,
            rule_window: window(layout.rules..layout.rules + layout.rule_count.div_ceil(2))?,
            limit_window: match layout.limit_count {
                0 => None,
                limits => Some(window(layout.limits..layout.limits + limits)?),
            },
            carried: Vec::new(),
        };
        let first = live.head.word(0, 0);
        first.store(first.load(Relaxed) & !0xFFFF_FFFF | u64::from(number), Relaxed);
        Ok((live, map))
    }

    /// Says which interface a slot is, so that rules by interface know it; `None` where it is nobody's.
    pub(super) fn set_interface(&self, slot: u32, name: Option<&str>) {
        let lists = self.interface_lists.iter().enumerate();
        let mask = name.map_or(0, |name| {
            lists.filter(|(_, list)| list.matches(name)).fold(0_u64, |mask, (list, _)| mask | 1 << list)
        });
        let slot = slot.min(SLOTS - 1);
        self.head.word(INTERFACES + slot / 8, (slot % 8) as usize).store(mask, Relaxed);
    }

    /// What each rule that decided anything has counted so far, by number.
    pub(super) fn counts(&self, from: u32) -> impl Iterator<Item = (u32, RuleCounts)> {
        (from..self.layout.rule_count)
            .map(|rule| (rule, self.rule(rule)))
            .filter(|(_, counts)| *counts != RuleCounts::default())
    }

    /// What a rule has counted so far.
    pub(super) fn rule(&self, rule: u32) -> RuleCounts {
        let get = |word| self.rule_word(rule, word);
        let (packets, bytes) = (get(word::PACKETS), get(word::BYTES));
        let (dropped_packets, dropped_bytes) = match halves(get(word::ACTION)) {
            (action::DROP, _) => (packets, bytes),
            (action::LIMIT, limit) => {
                (self.limit_word(limit, word::DROPPED_PACKETS), self.limit_word(limit, word::DROPPED_BYTES))
            }
            _ => (0, 0),
        };
        RuleCounts { packets, bytes, dropped_packets, dropped_bytes }
    }

    /// Has rates go on where those of the generation before stand, rule by rule. Those by peer are found by their id.
    pub(super) fn take_over_rates(&mut self, before: &Self, now_ns: u64) {
        let old: HashMap<&str, u32> =
            before.rules.names().filter_map(|(rule, name)| Some((name, before.limit_of(rule)?))).collect();
        if old.is_empty() {
            return;
        }
        let carry = |(rule, name): (u32, &str)| {
            let (&old, new) = (old.get(name)?, self.limit_of(rule)?);
            // What lies in the past is a full bucket.
            let stood_ns = before.limit_word(old, word::TAT).max(now_ns);
            // The new rate may allow a smaller burst.
            let most = now_ns.saturating_add(self.most_ns(new));
            let window = self.limit_window.as_ref()?;
            window.word(self.layout.limits + new, word::TAT).store(stood_ns.min(most), Relaxed);
            Some(Carried { old, new, stood_ns })
        };
        self.carried = self.rules.names().filter_map(carry).collect();
    }

    /// Counts what the generation before has let pass since its rates were taken over, or since this was last called: it
    /// judges on until the switch takes effect, which may be 50 ms later. What both let pass in the same time is owed.
    pub(super) fn settle_rates(&mut self, before: &Self, now_ns: u64) {
        let mut carried = std::mem::take(&mut self.carried);
        for Carried { old, new, stood_ns } in &mut carried {
            let stands_ns = before.limit_word(*old, word::TAT).max(*stood_ns);
            let passed_ns = stands_ns - std::mem::replace(stood_ns, stands_ns);
            let (Some(window), 1..) = (&self.limit_window, passed_ns) else { continue };
            let most = now_ns.saturating_add(self.most_ns(*new));
            // The programs take from it meanwhile.
            let _before = window
                .word(self.layout.limits + *new, word::TAT)
                .fetch_update(Relaxed, Relaxed, |tat| Some(tat.saturating_add(passed_ns).min(most).max(tat)));
        }
        self.carried = carried;
    }

    /// How far ahead of time a rate may stand after a switch: by a burst, and by one that is owed.
    fn most_ns(&self, limit: u32) -> u64 {
        self.limit_word(limit, word::BURST).saturating_mul(2)
    }

    /// The generation before lets nothing pass any more.
    pub(super) fn have_settled(&mut self) {
        self.carried = Vec::new();
    }

    /// Number of the rate that all packets of a rule share.
    fn limit_of(&self, rule: u32) -> Option<u32> {
        match halves(self.rule_word(rule, word::ACTION)) {
            (action::LIMIT, limit) if self.limit_word(limit, word::PER_PEER) & 1 == 0 => Some(limit),
            _ => None,
        }
    }

    fn rule_word(&self, rule: u32, word: usize) -> u64 {
        let half = if rule.is_multiple_of(2) { 0 } else { word::RULE_WORDS };
        self.rule_window.word(self.layout.rules + rule / 2, half + word).load(Relaxed)
    }

    /// Zero where there is no such limit.
    fn limit_word(&self, limit: u32, word: usize) -> u64 {
        match &self.limit_window {
            Some(window) if limit < self.layout.limit_count => {
                window.word(self.layout.limits + limit, word).load(Relaxed)
            }
            _ => 0,
        }
    }
}
