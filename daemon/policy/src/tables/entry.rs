//! Values of the ABI as words of a block, and back.

use tidegate_abi::Pod;

/// The words of a value.
#[must_use]
pub fn words<T: Pod, const N: usize>(value: &T) -> [u64; N] {
    const { assert!(size_of::<T>() == N * 8) };
    // SAFETY: `T` has no padding (`Pod`), so that all of its bytes are initialised; they are as many as those of the
    // result (asserted above), which takes any bytes.
    unsafe { std::mem::transmute_copy(value) }
}

/// The value that stands in these words.
///
/// # Panics
///
/// Where there are fewer words than the value has.
#[must_use]
pub fn read<T: Pod>(words: &[u64]) -> T {
    assert!(size_of::<T>() <= size_of_val(words), "{} words", words.len());
    // SAFETY: the words are initialised and at least as many as `T` has (asserted above), and `T` takes any bytes
    // (`Pod`); `read_unaligned` asks for no alignment.
    unsafe { words.as_ptr().cast::<T>().read_unaligned() }
}
