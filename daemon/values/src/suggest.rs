//! "Did you mean …?"

/// The candidate nearest to `word`, where one is near enough to be a slip of the keyboard.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (strsim::normalized_damerau_levenshtein(word, candidate), candidate))
        .filter(|(similarity, _)| *similarity >= 0.6)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        let keys = || ["sample_rate", "interfaces", "attach"].into_iter();
        assert_eq!(nearest("sampel_rate", keys()), Some("sample_rate"));
        assert_eq!(nearest("interface", keys()), Some("interfaces"));
        assert_eq!(nearest("url", keys()), None);
        assert_eq!(nearest("", keys()), None);
    }
}
