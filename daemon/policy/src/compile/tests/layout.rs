//! The blocks of a small bundle, word by word, as `tidegate_abi::policy` describes them.

use super::*;
use crate::bundle::Ports;

/// Comments begin with `#`; each other line is the number of a block and its eight words. What is not there is zero.
const GOLDEN: &str = include_str!("golden.txt");

fn small() -> Bundle {
    let mut bundle = empty(DefaultAction::Drop);
    let net = [prefix("192.0.2.0/24")];
    let mut web = drop_all("web", &net);
    web.protocol = Some(6);
    web.conditions.ports = vec![Ports { first: 443, last: 443 }, Ports { first: 8000, last: 8100 }];
    bundle.push(web);
    let wide = [prefix("0.0.0.0/0"), prefix("2001:db8::/32")];
    let mut modem = drop_all("modem", &wide);
    modem.directions = Directions::Egress;
    modem.action = Action::Limit(Box::new(bundle::Limit { pps: 100, burst: 200, per_peer: true }));
    modem.conditions.interfaces = ["wwan*".to_owned()].into();
    bundle.push(modem);
    let host = [prefix("2001:db8::7/128")];
    bundle.push(NewRule { action: Action::Sample, ..drop_all("host", &host) });
    let halves = [prefix("2001:db8:0:1:8000::/65"), prefix("2001:db8:0:1::9/128")];
    bundle.push(NewRule { action: Action::Allow, ..drop_all("halves", &halves) });
    bundle
}

fn listed(tables: &Tables) -> Vec<String> {
    let blocks = tables.blocks.iter().enumerate().filter(|(_, block)| **block != [0; 8]);
    blocks.map(|(number, block)| format!("{number} {}", block.map(|word| format!("{word:x}")).join(" "))).collect()
}

#[test]
fn blocks_are_laid_out_as_documented() {
    let tables = compile(&small(), &Options { number: 7, fragments_allow: true, ..FRESH }).unwrap();
    let golden: Vec<_> = GOLDEN.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(listed(&tables), golden, "the blocks changed:\n{}", listed(&tables).join("\n"));
    assert_eq!(tables.interface_lists, [["wwan*".to_owned()].into()]);
}

#[test]
fn the_same_bundle_makes_the_same_blocks() {
    assert_eq!(compile(&small(), &FRESH), compile(&small(), &FRESH));
}

#[test]
fn the_same_rate_of_a_rules_peers_has_the_same_id_in_each_version() {
    let rate = bundle::Limit { pps: 100, burst: 200, per_peer: true };
    assert_eq!(id("modem", &rate), 0x6A42_347C_A6A9_0E7B);
    assert_ne!(
        id("modem", &bundle::Limit { pps: 101, ..rate }),
        0x6A42_347C_A6A9_0E7B,
        "what was used of another rate is another matter"
    );
    let all = [prefix("0.0.0.0/0")];
    let mut bundle = empty(DefaultAction::Allow);
    for name in ["first", "second"] {
        let limit = bundle::Limit { pps: 1, burst: 1, per_peer: true };
        bundle.push(NewRule { action: Action::Limit(Box::new(limit)), ..drop_all(name, &all) });
    }
    let tables = compile(&bundle, &FRESH).unwrap();
    let limits = tables.header().limits as usize;
    let ids = [0, 1].map(|limit| crate::tables::read::<Limit>(&tables.blocks[limits + limit]).id);
    let rate = bundle::Limit { pps: 1, burst: 1, per_peer: true };
    assert_eq!(ids, ["first", "second"].map(|name| id(name, &rate)));
}
