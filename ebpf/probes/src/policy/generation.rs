//! From a packet to its rule: reads a generation.
//!
//! Whatever stands in it, the kernel's bounds hold: a block beyond the end is none, and the packet then has no rule.
//!
//! The way to the rule's number is a function of its own for each size, called instead of inlined: all programs share it,
//! which keeps the object small. It takes and returns nothing but memory of a map, so that calling it costs the verifier
//! nothing.

use core::ptr::null_mut;

use tidegate_abi::policy::{
    Block, Header, INTERFACES, LARGE_BLOCKS, Limit, PROTOCOL_GROUPS, Rule, SMALL_BLOCKS, Single, Tree, action, address,
    decision::{self, ANY_INTERFACE},
    flags,
};

use super::{Answer, Question};
use crate::{count, maps::Generation};

/// Block of nothing.
const NOWHERE: u32 = u32::MAX;

/// Finds the rule that decides the packet.
#[inline(never)]
pub(super) fn find_large(generation: &Generation<{ LARGE_BLOCKS as usize }>, question: &mut Question) {
    Tables { generation }.find_rule(question);
}

/// The same.
#[inline(never)]
pub(super) fn find_small(generation: &Generation<{ SMALL_BLOCKS as usize }>, question: &mut Question) {
    Tables { generation }.find_rule(question);
}

/// Tells what the rule that was found, or the default, does.
#[inline(always)]
pub(super) fn answer<const N: usize>(generation: &Generation<N>, question: &Question, answer: &mut Answer) {
    let tables = Tables { generation };
    let header = tables.block(0).cast::<Header>();
    if header.is_null() {
        return;
    }
    // SAFETY: block 0 is a header, which is as large and as aligned as a block and which nobody changes.
    let header = unsafe { &*header };
    let number = question.rule;
    if number == 0 {
        let allowed = header.flags & flags::DEFAULT_DROP == 0
            || (question.hides_ports != 0 && header.flags & flags::FRAGMENTS_ALLOW != 0);
        if allowed {
            return;
        }
    }
    let rules = tables.block(header.rules + number / 2).cast::<Rule>();
    if rules.is_null() {
        return;
    }
    // SAFETY: a block holds two rules.
    let rule = unsafe { rules.add((number % 2) as usize) };
    // SAFETY: nobody changes a rule's action and limit.
    let (wanted, limit) = unsafe { ((*rule).action, (*rule).limit) };
    if wanted == action::LIMIT {
        answer.limit = tables.block(header.limits + limit).cast::<Limit>();
    }
    answer.action = if number == 0 { action::DROP } else { wanted };
    answer.rule = rule;
    answer.number = number;
    answer.generation = header.number;
}

struct Tables<'a, const N: usize> {
    generation: &'a Generation<N>,
}

impl<const N: usize> Tables<'_, N> {
    /// A block; null where there is none of that number.
    #[inline(always)]
    fn block(&self, number: u32) -> *mut Block {
        match self.generation.get_ptr_mut(number) {
            Some(block) => block,
            None => null_mut(),
        }
    }

    /// A word; 0 where there is none.
    #[inline(always)]
    fn word(&self, index: u32) -> u32 {
        let words = self.block(index / 16).cast::<u32>();
        if words.is_null() {
            return 0;
        }
        // SAFETY: a block holds sixteen words, low half first as all targets are little-endian. What is read as words is
        // changed by nobody.
        unsafe { *words.add((index % 16) as usize) }
    }

    /// A double word; 0 where there is none.
    #[inline(always)]
    fn double_word(&self, index: u32) -> u64 {
        let block = self.block(index / 8).cast::<u64>();
        if block.is_null() {
            return 0;
        }
        // SAFETY: a block holds eight. The daemon changes some by single stores.
        unsafe { block.add((index % 8) as usize).read_volatile() }
    }

    /// What the tree has for the key.
    #[inline(always)]
    fn search(&self, tree: u32, key: u64) -> u32 {
        let Tree { root, depth } = Tree::unpack(tree);
        self.word(self.descend(root, depth, key))
    }

    /// What the tree by IPv4 address has for it.
    #[inline(always)]
    fn search_v4(&self, tree: u32, address: u64) -> u32 {
        let Tree { root, depth } = Tree::unpack(tree);
        let leaf = self.block(self.descend(root, depth - 1, address)).cast::<u32>();
        if leaf.is_null() {
            return 0;
        }
        // SAFETY: a block has sixteen halves, and nobody changes a leaf's.
        unsafe {
            let is_behind = |key: *const u32| is_less(u64::from(*key), address);
            let upper = is_behind(leaf.add(3)) * 4;
            let half = leaf.add(upper as usize);
            let child = upper + is_behind(half) + is_behind(half.add(1)) + is_behind(half.add(2));
            *leaf.add(8 + child as usize)
        }
    }

    /// Goes down as many levels of a tree, and tells what its nodes refer to there.
    ///
    /// As many calls as there may be levels, not a loop: see `headers::ipv6::read`.
    #[inline(always)]
    fn descend(&self, root: u32, mut levels: u32, key: u64) -> u32 {
        let mut at = root;
        let mut step = || {
            if levels == 0 {
                return false;
            }
            levels -= 1;
            let node = self.block(at);
            if node.is_null() {
                at = NOWHERE;
                return false;
            }
            let keys = node.cast::<u64>();
            // SAFETY: a node has eight words, and nobody changes them.
            unsafe {
                at = *keys.add(7) as u32;
                let upper = is_less(*keys.add(3), key) * 4;
                let half = keys.add(upper as usize);
                at += upper + is_less(*half, key) + is_less(*half.add(1), key) + is_less(*half.add(2), key);
            }
            true
        };
        let _over = step() && step() && step() && step() && step() && step();
        at
    }

    /// Leaves the number of the rule that decides the packet in the question.
    #[inline(always)]
    fn find_rule(&self, question: &mut Question) {
        if question.has_addresses == 0 {
            return;
        }
        let header = self.block(0).cast::<Header>();
        if header.is_null() {
            return;
        }
        // SAFETY: as in `answer`.
        let header = unsafe { &*header };
        let word = self.address(header, question);
        let argument = word & address::ARGUMENT;
        if word >> address::KIND_SHIFT == address::RULE {
            question.rule = argument;
            return;
        }
        let row = argument * 2 + question.direction;
        let column = self.group(question.protocol);
        let mut decision = self.word(header.classes + row * header.groups + column);
        if kind(decision) == decision::PORT {
            decision = self.by_port(decision, question.has_ports, question.port);
        }
        if kind(decision) == decision::PEER_PORT {
            decision = self.by_port(decision, question.has_ports, question.peer_port);
        }
        if kind(decision) == decision::INTERFACE {
            decision = self.by_interface(decision, question.ifindex);
        }
        if kind(decision) == decision::RULE {
            question.rule = decision & decision::ARGUMENT;
        }
    }

    /// Address word of the peer: a rule or a class.
    #[inline(always)]
    fn address(&self, header: &Header, question: &Question) -> u32 {
        if question.is_v4 != 0 {
            return self.search_v4(header.v4, question.first);
        }
        let word = self.search(header.v6, question.first);
        let argument = word & address::ARGUMENT;
        match word >> address::KIND_SHIFT {
            address::LOW => self.search(argument, question.low),
            address::SINGLE => {
                let singles = self.block(argument / 4).cast::<Single>();
                if singles.is_null() {
                    return 0;
                }
                // SAFETY: a block holds four, which nobody changes.
                let Single { low, word, others } = unsafe { *singles.add((argument % 4) as usize) };
                if low == question.low { word } else { others }
            }
            _ => word,
        }
    }

    /// Group of the protocol.
    #[inline(always)]
    fn group(&self, protocol: u32) -> u32 {
        let groups = self.block(PROTOCOL_GROUPS + protocol / 64).cast::<u8>();
        if groups.is_null() {
            return 0;
        }
        // SAFETY: a block holds 64 bytes, which nobody changes.
        u32::from(unsafe { *groups.add((protocol % 64) as usize) })
    }

    #[inline(always)]
    fn by_port(&self, decision: u32, is_known: u32, port: u32) -> u32 {
        let unknown = decision & decision::ARGUMENT;
        if is_known == 0 {
            return self.word(unknown);
        }
        let tree = self.word(unknown + 1);
        self.search(tree, u64::from(port))
    }

    #[inline(always)]
    fn by_interface(&self, decision: u32, ifindex: u32) -> u32 {
        let slot = count::slot(ifindex);
        let lists = self.double_word(INTERFACES * 8 + slot);
        let mut index = decision & decision::ARGUMENT;
        let mut decided = decision::NONE;
        let mut follow = || {
            let entry = self.double_word(index);
            let list = entry as u32 & ANY_INTERFACE;
            index += 1;
            if list == ANY_INTERFACE || lists >> (list & 63) & 1 != 0 {
                decided = (entry >> 32) as u32;
                return false;
            }
            true
        };
        // As many as a chain may be long.
        let _over = follow()
            && follow()
            && follow()
            && follow()
            && follow()
            && follow()
            && follow()
            && follow()
            && follow()
            && follow()
            && follow()
            && follow()
            && follow()
            && follow()
            && follow()
            && follow()
            && follow();
        decided
    }
}

/// 1 where `left < right`, else 0.
///
/// The borrow of their difference, in arithmetic (Warren, Hacker's Delight, 2-13): a comparison would become a jump, which
/// processors predict no better than a coin falls, and after which the verifier goes on twice.
#[inline(always)]
fn is_less(left: u64, right: u64) -> u32 {
    let borrow = (!left & right) | ((!left | right) & left.wrapping_sub(right));
    (borrow >> 63) as u32
}

#[inline(always)]
fn kind(decision: u32) -> u32 {
    decision >> decision::KIND_SHIFT
}
