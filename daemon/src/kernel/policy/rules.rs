//! What people call the rules that the kernel knows by number.

use std::fmt;

use crate::policy::{Action, Bundle, DefaultAction, Scope};

/// Number of the default, which is a rule as far as the kernel is concerned.
pub const DEFAULT_RULE: u32 = 0;

/// What a rule does, without its figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleAction {
    /// The packet goes on.
    Allow,
    /// The packet ends here.
    Drop,
    /// It goes on within a rate.
    Limit,
    /// It goes on, and is sampled.
    Sample,
}

/// Names, reasons and actions of a policy's rules, and what else of its bundle outlives compilation: some 2 MB for 65,536
/// rules.
#[derive(Clone, PartialEq, Eq)]
pub struct Rules {
    version: u64,
    scope: Scope,
    default: RuleAction,
    prefixes: usize,
    /// Name and reason of each rule, one after the other.
    text: Box<str>,
    entries: Box<[Entry]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    /// Where its name ends and its reason begins.
    name_end: u32,
    reason_end: u32,
    action: RuleAction,
}

impl Rules {
    /// Those of a bundle.
    ///
    /// # Panics
    ///
    /// Never: names and reasons of a bundle are at most 4 MiB.
    #[must_use]
    pub fn of(bundle: &Bundle) -> Self {
        let small = |length: usize| u32::try_from(length).expect("a bundle has at most 4 MiB of text");
        let mut text = String::with_capacity(
            bundle.rules.iter().map(|rule| bundle.name(rule).len() + bundle.reason(rule).len()).sum(),
        );
        let mut prefixes = 0;
        let mut entries = Vec::with_capacity(bundle.rules.len());
        for rule in &bundle.rules {
            prefixes += bundle.prefixes(rule).len();
            text.push_str(bundle.name(rule));
            let name_end = small(text.len());
            text.push_str(bundle.reason(rule));
            let action = match rule.action {
                Action::Allow => RuleAction::Allow,
                Action::Drop => RuleAction::Drop,
                Action::Limit(_) => RuleAction::Limit,
                Action::Sample => RuleAction::Sample,
            };
            entries.push(Entry { name_end, reason_end: small(text.len()), action });
        }
        let default = match bundle.default {
            DefaultAction::Allow => RuleAction::Allow,
            DefaultAction::Drop => RuleAction::Drop,
        };
        Self {
            version: bundle.version,
            scope: bundle.scope.clone(),
            default,
            prefixes,
            text: text.into(),
            entries: entries.into(),
        }
    }

    /// Version of the bundle.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Whom the bundle is for.
    #[must_use]
    pub const fn scope(&self) -> &Scope {
        &self.scope
    }

    /// How many rules there are, the default not among them.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is nothing but the default.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many prefixes all rules have together.
    #[must_use]
    pub const fn prefixes(&self) -> usize {
        self.prefixes
    }

    /// A rule's name; `None` for the default, and for a number that no rule has.
    #[must_use]
    pub fn name(&self, rule: u32) -> Option<&str> {
        let (start, entry) = self.entry(rule)?;
        Some(&self.text[start as usize..entry.name_end as usize])
    }

    /// Why the rule is there; empty where nobody said.
    #[must_use]
    pub fn reason(&self, rule: u32) -> &str {
        self.entry(rule).map_or("", |(_, entry)| &self.text[entry.name_end as usize..entry.reason_end as usize])
    }

    /// What the rule does.
    #[must_use]
    pub fn action(&self, rule: u32) -> RuleAction {
        self.entry(rule).map_or(self.default, |(_, entry)| entry.action)
    }

    /// Names with their numbers, without the default.
    pub fn names(&self) -> impl Iterator<Item = (u32, &str)> {
        let mut start = 0;
        (DEFAULT_RULE + 1..).zip(&self.entries).map(move |(rule, entry)| {
            let name = &self.text[start as usize..entry.name_end as usize];
            start = entry.reason_end;
            (rule, name)
        })
    }

    fn entry(&self, rule: u32) -> Option<(u32, &Entry)> {
        let index = rule.checked_sub(DEFAULT_RULE + 1)? as usize;
        let start = index.checked_sub(1).map_or(0, |before| self.entries[before].reason_end);
        Some((start, self.entries.get(index)?))
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules").field("version", &self.version).field("rules", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{
        Directions,
        bundle::{Conditions, NewRule},
    };

    #[test]
    fn rules_are_told_by_the_kernels_number() {
        let mut bundle = Bundle::new(7, Scope::Gateway("gw-7".into()), DefaultAction::Drop);
        for (name, reason, action) in [("a", "", Action::Allow), ("bc", "why not", Action::Drop)] {
            bundle.push(NewRule {
                name,
                reason,
                prefixes: &[],
                protocol: None,
                directions: Directions::Both,
                action,
                ttl_s: None,
                conditions: Conditions::default(),
            });
        }
        let rules = Rules::of(&bundle);
        let told = |rule| (rules.name(rule), rules.reason(rule), rules.action(rule));
        assert_eq!(told(0), (None, "", RuleAction::Drop));
        assert_eq!(told(1), (Some("a"), "", RuleAction::Allow));
        assert_eq!(told(2), (Some("bc"), "why not", RuleAction::Drop));
        assert_eq!(rules.name(3), None);
        assert_eq!(rules.names().collect::<Vec<_>>(), [(1, "a"), (2, "bc")]);
    }
}
