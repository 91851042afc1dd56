//! The blocks of a generation while it is made: handed out one behind the other, never given back.

use std::ops::Range;

use tidegate_abi::policy::{Block, FREE, LARGE_BLOCKS, Tree};

use super::CompileError;

const WORDS: usize = 16;
/// Children of a node.
const CHILDREN: usize = 8;

pub(super) struct Space {
    blocks: Vec<Block>,
    /// Words of the last block that was begun for words and has room.
    rest: Range<usize>,
}

impl Space {
    /// With all that stands at a fixed place, zero.
    pub(super) fn new() -> Self {
        Self { blocks: vec![Block::default(); FREE as usize], rest: 0..0 }
    }

    pub(super) fn into_blocks(self) -> Vec<Block> {
        self.blocks
    }

    /// The blocks in use.
    pub(super) fn len(&self) -> usize {
        self.blocks.len()
    }

    pub(super) fn block(&mut self, index: usize) -> &mut Block {
        &mut self.blocks[index]
    }

    /// Whether there is room for as many blocks.
    pub(super) fn check(&self, count: usize) -> Result<(), CompileError> {
        let needed = self.blocks.len() + count;
        if needed <= LARGE_BLOCKS as usize {
            Ok(())
        } else {
            Err(CompileError::TooLarge { bytes: needed * size_of::<Block>() })
        }
    }

    /// As many blocks, which are zero; the index of the first.
    pub(super) fn blocks(&mut self, count: usize) -> Result<usize, CompileError> {
        let first = self.blocks.len();
        let needed = first + count;
        self.check(count)?;
        if needed > self.blocks.capacity() {
            // What is large is known at once; what comes block by block doubles what there is, up to the most.
            let doubled = (self.blocks.capacity() * 2).min(LARGE_BLOCKS as usize);
            let capacity = if count > WORDS { needed } else { needed.max(doubled) };
            self.blocks.reserve_exact(capacity - first);
        }
        self.blocks.resize(needed, Block::default());
        Ok(first)
    }

    /// As many words one behind the other, the first at a multiple of `align`; its word index.
    pub(super) fn words(&mut self, count: usize, align: usize) -> Result<usize, CompileError> {
        let mut first = self.rest.start.next_multiple_of(align);
        if first + count > self.rest.end {
            let blocks = count.div_ceil(WORDS);
            first = self.blocks(blocks)? * WORDS;
            self.rest.end = first + blocks * WORDS;
        }
        self.rest.start = first + count;
        Ok(first)
    }

    pub(super) fn set_word(&mut self, index: usize, word: u32) {
        let pair = &mut self.blocks[index / WORDS][index / 2 % 8];
        let shift = index % 2 * 32;
        *pair = *pair & !(u64::from(u32::MAX) << shift) | u64::from(word) << shift;
    }

    /// A pair of words, the first of which is even.
    pub(super) fn set_pair(&mut self, index: usize, pair: u64) {
        self.blocks[index / WORDS][index / 2 % 8] = pair;
    }

    /// Stores words; the index of the first.
    pub(super) fn put(&mut self, words: &[u32]) -> Result<usize, CompileError> {
        let first = self.words(words.len(), 1)?;
        for (index, word) in (first..).zip(words) {
            self.set_word(index, *word);
        }
        Ok(first)
    }

    /// Stores a tree: for each interval its greatest key and its word, ascending and without gaps.
    pub(super) fn tree(&mut self, greatest: &[u64], words: &[u32]) -> Result<Tree, CompileError> {
        let first = self.put(words)?;
        self.nodes(greatest, Level { first, children: words.len(), covered: 1, depth: 0 })
    }

    /// Stores the tree by IPv4 address, whose leaves have their words in them.
    pub(super) fn tree_v4(&mut self, greatest: &[u64], words: &[u32]) -> Result<Tree, CompileError> {
        let leaves = words.len().div_ceil(CHILDREN);
        let first = self.blocks(leaves)?;
        let all = self.blocks[first..].iter_mut().zip(words.chunks(CHILDREN)).enumerate();
        for (leaf, (block, words)) in all {
            let mut halves = [0; WORDS];
            for (child, key) in halves[..CHILDREN - 1].iter_mut().enumerate() {
                *key = greatest_of(greatest, leaf * CHILDREN + child + 1) as u32;
            }
            halves[CHILDREN..][..words.len()].copy_from_slice(words);
            for (word, [low, high]) in block.iter_mut().zip(halves.as_chunks().0) {
                *word = u64::from(*high) << 32 | u64::from(*low);
            }
        }
        self.nodes(greatest, Level { first, children: leaves, covered: CHILDREN, depth: 1 })
    }

    /// Stores what leads to a level: its root.
    ///
    /// Node `n` of a level holds the children `8n` to `8n + 7` of the level below; so the place of each key is known
    /// without looking at that.
    fn nodes(&mut self, greatest: &[u64], mut below: Level) -> Result<Tree, CompileError> {
        while below.depth == 0 || below.children > 1 {
            let nodes = below.children.div_ceil(CHILDREN);
            let first = self.blocks(nodes)?;
            for (node, block) in self.blocks[first..].iter_mut().enumerate() {
                for (child, key) in block[..CHILDREN - 1].iter_mut().enumerate() {
                    *key = greatest_of(greatest, (node * CHILDREN + child + 1) * below.covered);
                }
                block[CHILDREN - 1] = (below.first + node * CHILDREN) as u64;
            }
            below = Level { first, children: nodes, covered: below.covered * CHILDREN, depth: below.depth + 1 };
        }
        Ok(Tree { root: below.first as u32, depth: below.depth })
    }
}

/// Nodes of a tree side by side, or below them all its words.
struct Level {
    /// Where they begin.
    first: usize,
    /// How many there are.
    children: usize,
    /// Intervals that each of them is for; the last one may be for fewer.
    covered: usize,
    /// Levels down from here.
    depth: u32,
}

/// Greatest key of the first so many intervals. The last of all has no upper end, so that whatever is looked for is in one of
/// them.
fn greatest_of(greatest: &[u64], intervals: usize) -> u64 {
    if intervals < greatest.len() { greatest[intervals - 1] } else { u64::MAX }
}
