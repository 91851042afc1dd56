//! The rules that are at work, and what they name: protocols become groups, interface lists become numbers.

use std::sync::{Arc, LazyLock};

use tidegate_abi::{
    direction,
    policy::{MAX_GROUPS, MAX_INTERFACE_LISTS, decision},
};

use super::{CompileError, Options, sweep::Part};
use crate::{Bundle, Directions, Rule, bundle::Conditions};

/// A bundle as it is compiled. Rules have their numbers in the tables: rule n is the bundle's rule n - 1.
pub(super) struct Subject<'a> {
    pub(super) bundle: &'a Bundle,
    expired: &'a dyn Fn(usize) -> bool,
    /// Group of each protocol; 0 for those that no rule names.
    pub(super) groups: [u8; 256],
    pub(super) group_count: u32,
    pub(super) interface_lists: Vec<&'a Arc<[String]>>,
}

const ANY_INTERFACE: u8 = decision::ANY_INTERFACE as u8;

static NO_CONDITIONS: LazyLock<Conditions> = LazyLock::new(Conditions::default);

impl<'a> Subject<'a> {
    pub(super) fn new(bundle: &'a Bundle, options: &Options<'a>) -> Result<Self, CompileError> {
        let mut this =
            Self { bundle, expired: options.expired, groups: [0; 256], group_count: 1, interface_lists: Vec::new() };
        for (_, rule) in this.rules() {
            if let Some(group) = rule.protocol.map(|protocol| &mut this.groups[usize::from(protocol)])
                && *group == 0
            {
                // Counted on beyond the most there may be, so that the error can say how many there are; 255 at most,
                // as group 0 is nobody's.
                *group = u8::try_from(this.group_count).unwrap_or(u8::MAX);
                this.group_count += 1;
            }
            let interfaces = &conditions(rule).interfaces;
            if !interfaces.is_empty() && !this.interface_lists.contains(&interfaces) {
                this.interface_lists.push(interfaces);
            }
        }
        if this.group_count > MAX_GROUPS {
            return Err(CompileError::Protocols { found: this.group_count - 1 });
        }
        if this.interface_lists.len() > MAX_INTERFACE_LISTS as usize {
            return Err(CompileError::InterfaceLists { found: this.interface_lists.len() });
        }
        Ok(this)
    }

    /// All that have not expired, with their numbers.
    pub(super) fn rules(&self) -> impl Iterator<Item = (u32, &'a Rule)> + use<'a> {
        let (bundle, expired) = (self.bundle, self.expired);
        (1..).zip(&bundle.rules).filter(move |(number, _)| !expired(*number as usize - 1))
    }

    /// Of a rule, by its number.
    pub(super) fn conditions(&self, number: u32) -> &'a Conditions {
        conditions(&self.bundle.rules[number as usize - 1])
    }

    /// Decisions of a class: one for each direction and group.
    pub(super) const fn row(&self) -> usize {
        2 * self.group_count as usize
    }

    /// What a rule has a part in.
    pub(super) fn part(&self, number: u32, rule: &Rule) -> Part {
        let groups =
            rule.protocol.map_or((1 << self.group_count) - 1, |protocol| 1 << self.groups[usize::from(protocol)]);
        let columns = match rule.directions {
            Directions::Ingress => groups,
            Directions::Egress => groups << self.group_count,
            Directions::Both => groups | groups << self.group_count,
        };
        Part { rule: number, columns, interfaces: self.interface_list(rule), is_open: rule.conditions.is_some() }
    }

    fn interface_list(&self, rule: &Rule) -> u8 {
        let interfaces = &conditions(rule).interfaces;
        if interfaces.is_empty() {
            return ANY_INTERFACE;
        }
        let position = self.interface_lists.iter().position(|list| *list == interfaces);
        position.expect("the lists of all rules at work were gathered first") as u8
    }
}

fn conditions(rule: &Rule) -> &Conditions {
    rule.conditions.as_deref().unwrap_or(&NO_CONDITIONS)
}

// A row fits the bits of `Part::columns`; at ingress first, as in the tables.
const _: () = assert!(2 * MAX_GROUPS <= u32::BITS && direction::INGRESS == 0 && direction::EGRESS == 1);
