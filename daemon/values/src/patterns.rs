//! Which interfaces are meant: names and globs, checked once, then asked for every interface.
//!
//! `*` is any run of characters, `?` one, `[a-c]` one of a set, `[!a-c]` one outside of it. A pattern with `!`
//! in front excludes, whatever its place in the list: an interface is watched when a pattern takes it and none
//! excludes it. An empty list watches nothing.

/// What is watched where the configuration names nothing: the ports that packets enter and leave by.
///
/// A VLAN device, bridge, bond, team or tunnel carries the frames of its ports once more, and both would be
/// counted. So the list takes ports and leaves out what stands on them: VLAN devices by the dot in their names,
/// the others because no pattern takes them.
pub const DEFAULT_INTERFACES: &[&str] = &["en*", "eth*", "wl*", "ww*", "ppp*", "usb*", "!*.*"];

/// Patterns in one list. Matching is quadratic at worst in a name of 15 bytes, so the list is what to bound.
const MAX_PATTERNS: usize = 64;

/// Bytes of one pattern: room for a name in which every character is a set.
const MAX_PATTERN_BYTES: usize = 64;

/// Bytes of an interface's name: `IFNAMSIZ` less its end.
const MAX_NAME_BYTES: usize = 15;

/// Why a list of patterns is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Too many patterns.
    #[error("{found} interface patterns, at most {MAX_PATTERNS} are accepted")]
    TooMany {
        /// Found.
        found: usize,
    },
    /// Empty, or longer than any name could need.
    #[error("interface pattern {pattern:?} must have 1 to {MAX_PATTERN_BYTES} bytes")]
    Length {
        /// The pattern.
        pattern: String,
    },
    /// A character that no interface name has, or one that is special elsewhere.
    #[error("interface pattern {pattern:?} has {found:?}: no spaces, control characters, or any of / \\ {{ }}")]
    Character {
        /// The pattern.
        pattern: String,
        /// The character.
        found: char,
    },
    /// A plain name that no interface can have.
    #[error("interface {pattern:?} is longer than the {MAX_NAME_BYTES} bytes of an interface name")]
    Name {
        /// The pattern.
        pattern: String,
    },
    /// A `[` without its `]`.
    #[error("interface pattern {pattern:?} has a [ without its ]")]
    Bracket {
        /// The pattern.
        pattern: String,
    },
    /// Only exclusions.
    #[error("interface patterns only exclude, so nothing would be watched; add \"*\" or a name")]
    OnlyExclusions,
}

/// A list of patterns that was found valid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patterns(Vec<String>);

impl Patterns {
    /// [`DEFAULT_INTERFACES`].
    #[must_use]
    pub fn ports() -> Self {
        Self(DEFAULT_INTERFACES.iter().map(ToString::to_string).collect())
    }

    /// Checks a list as the configuration holds it.
    ///
    /// # Errors
    ///
    /// The first pattern that is not acceptable, and why.
    pub fn parse<S: AsRef<str>>(list: &[S]) -> Result<Self, PatternError> {
        if list.len() > MAX_PATTERNS {
            return Err(PatternError::TooMany { found: list.len() });
        }
        let excludes = |pattern: &S| pattern.as_ref().starts_with('!');
        for pattern in list {
            let pattern = pattern.as_ref();
            check(pattern.strip_prefix('!').unwrap_or(pattern))?;
        }
        if !list.is_empty() && list.iter().all(excludes) {
            return Err(PatternError::OnlyExclusions);
        }
        Ok(Self(list.iter().map(|pattern| pattern.as_ref().to_owned()).collect()))
    }

    /// The list as it was given.
    #[must_use]
    pub fn as_list(&self) -> &[String] {
        &self.0
    }

    /// Whether an interface of this name is to be watched.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let mut taken = false;
        for pattern in &self.0 {
            match pattern.strip_prefix('!') {
                Some(excluded) if fast_glob::glob_match(excluded, name) => return false,
                Some(_) => {}
                None => taken |= fast_glob::glob_match(pattern, name),
            }
        }
        taken
    }
}

fn check(pattern: &str) -> Result<(), PatternError> {
    if pattern.is_empty() || pattern.len() > MAX_PATTERN_BYTES {
        return Err(PatternError::Length { pattern: pattern.into() });
    }
    // Another `!` would negate in the matcher; braces and backslashes are its syntax, not ours.
    let foreign = |c: &char| c.is_whitespace() || c.is_control() || matches!(c, '/' | '\\' | '{' | '}');
    if let Some(found) = pattern.chars().find(foreign).or_else(|| pattern.starts_with('!').then_some('!')) {
        return Err(PatternError::Character { pattern: pattern.into(), found });
    }
    fast_glob::validate(pattern).map_err(|_| PatternError::Bracket { pattern: pattern.into() })?;
    if !pattern.contains(['*', '?', '[']) && pattern.len() > MAX_NAME_BYTES {
        return Err(PatternError::Name { pattern: pattern.into() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(list: &[&str]) -> Patterns {
        Patterns::parse(list).unwrap()
    }

    #[test]
    fn names_and_globs_take_interfaces() {
        let list = patterns(&["eth0", "wwan*", "lan?", "p[1-3]"]);
        for name in ["eth0", "wwan", "wwan12", "lan1", "p2"] {
            assert!(list.matches(name), "{name}");
        }
        for name in ["eth01", "xeth0", "lan", "lan12", "p4", ""] {
            assert!(!list.matches(name), "{name}");
        }
    }

    #[test]
    fn exclusions_win_wherever_they_stand() {
        for list in [["!eth1", "eth*"], ["eth*", "!eth1"]] {
            assert!(patterns(&list).matches("eth0"));
            assert!(!patterns(&list).matches("eth1"));
        }
    }

    #[test]
    fn the_default_list_counts_no_frame_twice() {
        let list = Patterns::ports();
        assert_eq!(Patterns::parse(DEFAULT_INTERFACES), Ok(list.clone()), "the default is valid");
        for port in ["eth0", "enp3s0f1", "end0", "wlan0", "wwan0", "ppp0", "usb0"] {
            assert!(list.matches(port), "{port}");
        }
        for upper in ["eth0.100", "br0", "bond0", "team0", "vlan7", "docker0", "veth12ab", "wg0", "tun0", "lo"] {
            assert!(!list.matches(upper), "{upper}");
        }
    }

    #[test]
    fn an_empty_list_watches_nothing() {
        assert!(!patterns(&[]).matches("eth0"));
    }

    #[test]
    fn patterns_that_could_not_match_are_refused() {
        let parse = |pattern: &str| Patterns::parse(&[pattern]);
        assert!(matches!(parse(""), Err(PatternError::Length { .. })));
        assert!(matches!(parse(&"a".repeat(65)), Err(PatternError::Length { .. })));
        assert!(matches!(parse("averyverylongname"), Err(PatternError::Name { .. })));
        assert!(parse("averyverylongname*").is_ok());
        for bad in ["eth[0-9", "a[]"] {
            assert!(matches!(parse(bad), Err(PatternError::Bracket { .. })), "{bad}");
        }
        for (pattern, character) in [("a b", ' '), ("a/b", '/'), ("{a,b}", '{'), ("a\\*", '\\'), ("!!a", '!')] {
            assert!(matches!(parse(pattern), Err(PatternError::Character { found, .. }) if found == character));
        }
        assert_eq!(parse("!lo"), Err(PatternError::OnlyExclusions));
        assert_eq!(Patterns::parse(&vec!["a"; 65]), Err(PatternError::TooMany { found: 65 }));
    }
}
