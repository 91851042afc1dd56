//! Random packets under random policies, judged by the programs in the real kernel and by `tidegate::policy::evaluate`.

mod bundles;
mod limits;
mod rate;
mod stand;
mod tells;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fastrand::Rng;
use tidegate::policy::{
    Bundle,
    compile::{CompileError, Options, compile},
    evaluate::{By, Content, Direction, Exemption, Fragments, Packet, Upper, Verdict, evaluate},
    tables::{Size as TablesSize, Tables},
};
use tidegate_abi::{
    FlowValue, MAX_SAMPLE_RATE, Settings, Slot, class, direction,
    policy::{Block, Dropped, INTERFACES, MAX_DEPTH, Rule, Tree},
    verdict,
};
use tidegate_tests::{
    Netns, need,
    probes::{Context, Generation, Probes, Size},
    requires,
};
use tidegate_values::Patterns;

use self::rate::Rate;
use crate::{
    ALL, ETHERNET, Hook, IP, TC_ACT_UNSPEC,
    generate::{self, Aim, pick},
    reference::{self, Flow, Link},
};

/// Seeds of bundles and packets. One that ever failed stays here.
const SEEDS: [u64; 10] = [1, 2, 3, 4, 5, 6, 7, 0x0070_6F6C, 0x6963_7921, 2026];
/// Bundles of a seed, and packets of a bundle: 50,000 pairs; with `TIDEGATE_LONG` twenty times as many.
const BUNDLES: usize = 50;
const PACKETS: usize = 100;

/// What a program returns so that the packet ends.
const TC_ACT_SHOT: i32 = 2;

/// Next to nothing is drawn at random, and nothing forced by the packet's flags.
const RARELY: Settings =
    Settings { sample_rate: MAX_SAMPLE_RATE, forced_per_second: 0, inserts_per_second: u32::MAX, reserved: 0 };

/// Where packets are: an interface that policies are for, with a slot.
const INTERFACE: &str = "lan0";
const SLOT: u32 = 201;

#[test]
fn the_programs_judge_random_packets_as_the_bundle_says() {
    requires!(need::root(), need::program("ip"));
    let bundles = if need::long() { BUNDLES * 20 } else { BUNDLES };
    let seen = on_an_interface(|probes, ifindex, seen| {
        for seed in SEEDS {
            let mut rng = Rng::with_seed(seed);
            for number in 0..bundles {
                let name = format!("bundle {number} of seed {seed}");
                let bundle = bundles::bundle(&mut rng);
                run_bundle(probes, ifindex, &mut rng, &bundle, &name, seen);
            }
        }
    });
    println!("{seen:?}");
    seen.assert_enough();
}

/// The bundles above make trees of two levels or three.
#[test]
fn the_programs_find_their_way_through_the_deepest_trees() {
    requires!(need::root(), need::program("ip"));
    let seen = on_an_interface(|probes, ifindex, seen| {
        for seed in SEEDS {
            let mut rng = Rng::with_seed(seed);
            let bundle = bundles::deepest(&mut rng);
            let depths = run_bundle(probes, ifindex, &mut rng, &bundle, &format!("deepest of seed {seed}"), seen);
            assert_eq!(depths, Some([MAX_DEPTH; 2]), "seed {seed}");
        }
    });
    println!("{seen:?}");
    assert!(seen.dropped + seen.allowed + seen.sampled + seen.within_rate + seen.over_rate >= 100, "{seen:?}");
}

/// What is seen where packets are on an interface that policies are for.
fn on_an_interface(run: impl FnOnce(&mut Probes, u32, &mut Seen) + Send) -> Seen {
    let (here, there) = (Netns::new("here"), Netns::new("there"));
    here.join(INTERFACE, &there, "lan1");
    let ifindex = here.ifindex(INTERFACE);
    here.enter(|| {
        let mut probes = Probes::load();
        probes.cache(ifindex, Slot { ifindex, slot: SLOT });
        let mut seen = Seen::default();
        run(&mut probes, ifindex, &mut seen);
        seen
    })
}

/// How often what happened: a generator that no longer makes something would prove nothing about it.
#[derive(Debug, Default)]
struct Seen {
    foreign: u32,
    keeping_links: u32,
    allowed: u32,
    dropped: u32,
    by_default: u32,
    by_fragments: u32,
    sampled: u32,
    within_rate: u32,
    over_rate: u32,
    malformed: u32,
    too_deep: u32,
    told: u32,
}

impl Seen {
    fn assert_enough(&self) {
        let Self {
            keeping_links,
            foreign,
            allowed,
            dropped,
            by_default,
            by_fragments,
            sampled,
            within_rate,
            over_rate,
            ..
        } = self;
        let Self { malformed, too_deep, told, .. } = self;
        let counts = [
            keeping_links,
            foreign,
            allowed,
            dropped,
            by_default,
            by_fragments,
            sampled,
            within_rate,
            over_rate,
            malformed,
            too_deep,
            told,
        ];
        assert!(counts.iter().all(|count| **count >= 50), "{self:?}");
    }
}

/// A bundle that is enforced, and what its generation must hold.
struct Enforced<'a> {
    bundle: &'a Bundle,
    fragments: Fragments,
    generation: Generation,
    /// Rules by number, as they must be.
    rules: Vec<Rule>,
    /// Packets that may be told of.
    drops: Vec<Dropped>,
    /// Whether all packets are sampled.
    samples_all: bool,
}

/// How deep its trees are, by IPv4 and IPv6; `None` where it cannot be compiled.
fn run_bundle(
    probes: &mut Probes,
    ifindex: u32,
    rng: &mut Rng,
    (bundle, aim): &(Bundle, Aim),
    name: &str,
    seen: &mut Seen,
) -> Option<[u32; 2]> {
    let fragments = if rng.bool() { Fragments::Allow } else { Fragments::Drop };
    let number = rng.u32(1..);
    let options = Options { number, fragments_allow: fragments == Fragments::Allow, expired: &|_| false };
    let tables = match compile(bundle, &options) {
        Ok(tables) => tables,
        Err(CompileError::Candidates { .. }) => return None,
        Err(error) => panic!("{name}: {error}"),
    };
    let size = if tables.size() == TablesSize::Large || rng.u8(..4) == 0 { Size::Large } else { Size::Small };
    let generation = Generation::new(size, &blocks(&tables));
    probes.enforce(Some(&generation));
    let samples_all = rng.bool();
    probes.set(if samples_all { ALL } else { RARELY });
    let rules = (0..generation.header().rule_count).map(|number| generation.rule(number)).collect();
    let mut enforced = Enforced { bundle, fragments, generation, rules, drops: Vec::new(), samples_all };
    for number in 0..PACKETS {
        let name = format!("packet {number} under {name}");
        if rng.bool() {
            let packet = generate::frame(rng, aim);
            enforced.compare(probes, ifindex, rng, pick_hook(number, &ETHERNET), &packet, Link::Ethernet, &name, seen);
        } else {
            let (packet, ether_type) = generate::headerless(rng, aim);
            let link = Link::Ip(ether_type);
            enforced.compare(probes, ifindex, rng, pick_hook(number, &IP), &packet, link, &name, seen);
        }
    }
    enforced.compare_rest(probes, name, seen);
    let header = tables.header();
    Some([header.v4, header.v6].map(|tree| Tree::unpack(tree).depth))
}

fn pick_hook(number: usize, hooks: &[Hook; 3]) -> &Hook {
    &hooks[number % hooks.len()]
}

/// The generation with the masks that the daemon would put in.
fn blocks(tables: &Tables) -> Vec<Block> {
    let mut blocks = tables.blocks.clone();
    let mut mask = 0;
    for (list, patterns) in tables.interface_lists.iter().enumerate() {
        if Patterns::parse(patterns).unwrap().matches(INTERFACE) {
            mask |= 1 << list;
        }
    }
    blocks[(INTERFACES + SLOT / 8) as usize][SLOT as usize % 8] = mask;
    blocks
}

impl Enforced<'_> {
    #[expect(
        clippy::too_many_arguments,
        reason = "a packet, its circumstances, and what is told where it is judged wrong"
    )]
    fn compare(
        &mut self,
        probes: &mut Probes,
        ifindex: u32,
        rng: &mut Rng,
        hook: &Hook,
        packet: &[u8],
        link: Link,
        name: &str,
        seen: &mut Seen,
    ) {
        let (gso_segs, gso_size) = *pick(rng, &[(0, 0), (0, 0), (0, 0), (3, 500), (0, 700)]);
        let ingress_ifindex = if hook.forwarded { 2 } else { 0 };
        let around = Context { ifindex, ingress_ifindex, gso_segs, gso_size };
        let read = reference::judge(packet, link, gso_segs, gso_size);
        let content = content(&read, hook.direction);
        let direction = if hook.direction == direction::INGRESS { Direction::Ingress } else { Direction::Egress };
        let subject = Packet { direction, interface: INTERFACE, content };
        let wanted = evaluate(self.bundle, &subject, self.fragments, &|_| false);
        let describe =
            || format!("{name}, {}, {around:?}, {content:?}: wanted {wanted:?}: {packet:02x?}", hook.program);

        let rule = match wanted.by {
            By::Rule(index) => Some(u32::try_from(index + 1).unwrap()),
            By::Default if wanted.verdict == Verdict::Drop => Some(0),
            _ => None,
        };
        let rate = rule.and_then(|rule| Rate::of(&self.generation, probes, rule, content, read.size.packets));
        let answer = probes.run(hook.program, packet, around, 1);
        let drops = match &rate {
            Some(rate) => {
                let over = answer == TC_ACT_SHOT;
                rate.assert_kept(&self.generation, probes, over, read.size, &describe);
                over
            }
            None => wanted.verdict == Verdict::Drop,
        };
        assert_eq!(answer, if drops { TC_ACT_SHOT } else { TC_ACT_UNSPEC }, "{}", describe());

        if let Some(rule) = rule {
            let entry = &mut self.rules[rule as usize];
            entry.packets += read.size.packets;
            entry.bytes += read.size.bytes;
            let found = self.generation.rule(rule);
            assert_eq!((found.packets, found.bytes), (entry.packets, entry.bytes), "rule {rule}: {}", describe());
            if drops {
                self.drops.push(dropped(&self.generation, rule, &read, hook.direction, ifindex, rate.is_some()));
            }
        }
        let flows: Vec<FlowValue> = probes.take_flows().into_iter().map(|(_, value)| value).collect();
        let by_rule = wanted.verdict == Verdict::Sample;
        let expects_flow = read.flow.is_some() && (self.samples_all || by_rule);
        match flows[..] {
            [] => assert!(!expects_flow, "not sampled: {}", describe()),
            [flow] => {
                let verdict = if drops { verdict::DROP } else { verdict::ALLOW };
                assert_eq!(flow.verdict, verdict, "{}", describe());
                let weight = if by_rule || self.samples_all { 1 } else { u64::from(MAX_SAMPLE_RATE) };
                assert_eq!(flow.weight_packets, weight * read.size.packets, "{}", describe());
            }
            _ => panic!("{} flows: {}", flows.len(), describe()),
        }
        seen.count(wanted.by, wanted.verdict, content, drops);
    }

    /// What can be held against all packets only: nothing else was counted, and what was told was so.
    fn compare_rest(&self, probes: &mut Probes, name: &str, seen: &mut Seen) {
        for (number, rule) in (0..).zip(&self.rules) {
            let found = self.generation.rule(number);
            assert_eq!((found.packets, found.bytes), (rule.packets, rule.bytes), "rule {number} of {name}");
        }
        for told in probes.take_drops() {
            seen.told += 1;
            assert!(told.boot_ns != 0, "{name}: {told:?}");
            let told = Dropped { boot_ns: 0, ..told };
            assert!(self.drops.contains(&told), "{name}: {told:?} was not dropped");
        }
    }
}

impl Seen {
    fn count(&mut self, by: By, verdict: Verdict, content: Content, drops: bool) {
        let counter = match (by, verdict) {
            (By::Exempt(Exemption::Foreign), _) => &mut self.foreign,
            (By::Exempt(_), _) => &mut self.keeping_links,
            (By::Default, _) => &mut self.by_default,
            (By::Fragments, _) => &mut self.by_fragments,
            (By::Rule(_), Verdict::Allow) => &mut self.allowed,
            (By::Rule(_), Verdict::Drop) => &mut self.dropped,
            (By::Rule(_), Verdict::Sample) => &mut self.sampled,
            (By::Rule(_), Verdict::Limit) if drops => &mut self.over_rate,
            (By::Rule(_), Verdict::Limit) => &mut self.within_rate,
        };
        *counter += 1;
        match content {
            Content::Malformed => self.malformed += 1,
            Content::Ip { upper: Upper::TooDeep, .. } => self.too_deep += 1,
            _ => {}
        }
    }
}

/// The packet as policies see it.
fn content(read: &reference::Verdict, direction: u8) -> Content {
    if read.ip_version == 0 {
        return Content::Foreign;
    }
    let Some(flow) = read.flow.as_ref().or(read.buried.as_ref()) else {
        return Content::Malformed;
    };
    let (source, destination) = (flow.source_port, flow.destination_port);
    let upper = match read.class {
        class::IPV4_TCP | class::IPV6_TCP => Upper::Tcp { source, destination },
        class::IPV4_UDP | class::IPV6_UDP => Upper::Udp { source, destination },
        class::IPV4_ICMP | class::IPV6_ICMP => Upper::Icmp { kind: destination.to_be_bytes()[0] },
        class::IPV4_FRAGMENT | class::IPV6_FRAGMENT => Upper::Fragment { protocol: flow.protocol },
        class::TOO_DEEP => Upper::TooDeep,
        _ => Upper::Other { protocol: flow.protocol },
    };
    Content::Ip { peer: address(flow, direction), upper }
}

fn address(flow: &Flow, direction: u8) -> IpAddr {
    let octets = peer(flow, direction);
    match flow.ip_version {
        4 => Ipv4Addr::from(*octets.last_chunk().unwrap()).into(),
        _ => Ipv6Addr::from(octets).into(),
    }
}

fn peer(flow: &Flow, direction: u8) -> [u8; 16] {
    if direction == direction::INGRESS { flow.source } else { flow.destination }
}

/// What would be told of a packet, but for the time.
fn dropped(
    generation: &Generation,
    rule: u32,
    read: &reference::Verdict,
    direction: u8,
    ifindex: u32,
    limited: bool,
) -> Dropped {
    let common = Dropped {
        generation: generation.header().number,
        rule,
        ifindex,
        direction,
        limited: limited.into(),
        ip_version: read.ip_version,
        ..Dropped::default()
    };
    match read.flow.as_ref().or(read.buried.as_ref()) {
        None => common,
        Some(flow) => Dropped {
            source_port: flow.source_port,
            destination_port: flow.destination_port,
            peer: peer(flow, direction),
            protocol: flow.protocol,
            ..common
        },
    }
}
