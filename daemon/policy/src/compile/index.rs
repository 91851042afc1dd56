//! Finds equal things: a hash table of numbers, whose things stand wherever the caller keeps them.

/// Open addressing with linear probing, at most half full. It holds numbers, counted from 0 in the order of insertion,
/// plus one; 0 is a free place. Who signs a bundle may make it slow, but is not a stranger.
pub(super) struct Index {
    places: Vec<u32>,
    used: u32,
}

impl Index {
    pub(super) fn new() -> Self {
        Self { places: vec![0; 64], used: 0 }
    }

    /// The number of the thing with this hash for which `equal` holds; else `None`, and it gets the next number.
    /// `hash_of` tells the hash of a thing that is in the table.
    pub(super) fn find_or_add(
        &mut self,
        hash: u64,
        equal: impl Fn(u32) -> bool,
        hash_of: impl Fn(u32) -> u64,
    ) -> Option<u32> {
        let mut place = self.place(hash);
        while let Some(number) = self.places[place].checked_sub(1) {
            if equal(number) {
                return Some(number);
            }
            place = (place + 1) % self.places.len();
        }
        if (self.used as usize + 1) * 2 > self.places.len() {
            self.grow(hash_of);
        }
        self.used += 1;
        let place = self.free(hash);
        self.places[place] = self.used;
        None
    }

    fn grow(&mut self, hash_of: impl Fn(u32) -> u64) {
        self.places = vec![0; self.places.len() * 2];
        for number in 0..self.used {
            let place = self.free(hash_of(number));
            self.places[place] = number + 1;
        }
    }

    fn free(&self, hash: u64) -> usize {
        let mut place = self.place(hash);
        while self.places[place] != 0 {
            place = (place + 1) % self.places.len();
        }
        place
    }

    fn place(&self, hash: u64) -> usize {
        // The high bits of the product are the well mixed ones.
        (hash >> 32) as usize & (self.places.len() - 1)
    }
}

/// Of a row of words; multiplicative, as rustc's own tables do it.
pub(super) fn hash(words: &[u32]) -> u64 {
    words.iter().fold(0, |hash: u64, word| (hash.rotate_left(5) ^ u64::from(*word)).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}
