//! The tables mean what the bundle says, take no more than they may, and are laid out as documented.

mod bounds;
mod generate;
mod layout;
mod meaning;

use super::*;
use crate::{
    Directions, Scope,
    bundle::{Conditions, NewRule},
};

/// Options of a generation in which nothing has expired.
const FRESH: Options<'_> = Options { number: 1, fragments_allow: false, expired: &|_| false };

fn empty(default: DefaultAction) -> Bundle {
    Bundle::new(1, Scope::Gateway("gw-7".into()), default)
}

fn prefix(text: &str) -> Prefix {
    let (address, length) = text.split_once('/').unwrap();
    Prefix::new(address.parse().unwrap(), length.parse().unwrap()).unwrap()
}

/// A rule to vary.
fn drop_all<'a>(name: &'a str, prefixes: &'a [Prefix]) -> NewRule<'a> {
    NewRule {
        name,
        reason: "",
        prefixes,
        protocol: None,
        directions: Directions::Both,
        action: Action::Drop,
        ttl_s: None,
        conditions: Conditions::default(),
    }
}
