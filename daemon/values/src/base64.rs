//! Base64 with padding (RFC 4648, sections 4 and 5), for public keys and signed envelopes.
//!
//! Each text stands for exactly one sequence of bytes here: no white space, no missing padding, no bits behind the last byte.

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE},
};

/// Which digits are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Digits {
    /// Section 4: `+` and `/`.
    Standard,
    /// Those, or of section 5: `-` and `_`. Not mixed.
    Either,
}

/// In the digits of section 4.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

/// How many bytes a text of valid base64 stands for; `None` where it cannot be such.
#[must_use]
pub fn decoded_length(text: &str) -> Option<usize> {
    let padding = text.bytes().rev().take(2).take_while(|byte| *byte == b'=').count();
    text.len().is_multiple_of(4).then(|| (text.len() / 4 * 3).checked_sub(padding)).flatten()
}

/// Puts what it stands for behind what is in `bytes`; whether it is valid. Else `bytes` may have some of it.
#[must_use]
pub fn decode_behind(text: &str, digits: Digits, bytes: &mut Vec<u8>) -> bool {
    let Some(length) = decoded_length(text) else { return false };
    // The decoder asks for up to two bytes more than it fills, and would double what there is.
    bytes.reserve_exact(length + 2);
    let before = bytes.len();
    if BASE64_STANDARD.decode_vec(text, bytes).is_ok() {
        return true;
    }
    bytes.truncate(before);
    digits == Digits::Either && BASE64_URL_SAFE.decode_vec(text, bytes).is_ok()
}

/// What it stands for, where that has exactly `N` bytes.
#[must_use]
pub fn decode_array<const N: usize>(text: &str, digits: Digits) -> Option<[u8; N]> {
    let mut bytes = Vec::new();
    let is_valid = decoded_length(text) == Some(N) && decode_behind(text, digits, &mut bytes);
    bytes.try_into().ok().filter(|_| is_valid)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(text: &str, digits: Digits) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        decode_behind(text, digits, &mut bytes).then_some(bytes)
    }

    #[test]
    fn texts_are_those_of_the_standard() {
        // RFC 4648, section 10.
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode(plain.as_bytes()), coded);
            assert_eq!(decode(coded, Digits::Standard).as_deref(), Some(plain.as_bytes()));
        }
    }

    #[test]
    fn one_sequence_of_bytes_has_one_text() {
        for text in [
            "Zg",
            "Zg=",
            "Zg===",
            "Z===",
            "=",
            "====",
            "Zh==",
            "Zm9=",
            "Zm 9v",
            "Zm9v\n",
            "Zm9vYg==Zm9v",
            "Zm=v",
            "Zm9é",
            "\0m9v",
        ] {
            assert_eq!(decode(text, Digits::Either), None, "{text:?}");
        }
    }

    #[test]
    fn both_kinds_of_digits_are_read_where_both_may_stand_but_never_mixed() {
        assert_eq!(encode(&[0xfb, 0xff]), "+/8=");
        assert_eq!(decode("-_8=", Digits::Either), Some(vec![0xfb, 0xff]));
        assert_eq!(decode("+/8=", Digits::Either), Some(vec![0xfb, 0xff]));
        assert_eq!(decode("-/8=", Digits::Either), None);
        assert_eq!(decode("-_8=", Digits::Standard), None);
    }

    proptest! {
        #[test]
        fn all_bytes_are_read_back(bytes: Vec<u8>) {
            prop_assert_eq!(decode(&encode(&bytes), Digits::Standard), Some(bytes));
        }

        #[test]
        fn what_is_read_is_written_alike(text in "[A-Da-d+/=]{0,12}") {
            if let Some(bytes) = decode(&text, Digits::Standard) {
                prop_assert_eq!(decoded_length(&text), Some(bytes.len()));
                prop_assert_eq!(encode(&bytes), text);
            }
        }
    }
}
