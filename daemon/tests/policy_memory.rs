//! What opening an envelope and reading its bundle take beside the bytes. By itself, since it counts all that is allocated.

mod meter;

use meter::peak_of;
use tidegate::policy::{
    bundle::MAX_BUNDLE_BYTES,
    envelope::{self, MAX_ENVELOPE_BYTES, PAYLOAD_TYPE, Signer},
    keys::Keyring,
    read::{MAX_MEMORY_BYTES, read},
};

/// Begin, then fillings with the numbers from 0 on in the place of `#`, then end: as long as a bundle may be.
fn filled(begin: &str, filling: &str, end: &str, most: usize) -> String {
    let mut text = begin.to_owned();
    for number in 0..most {
        let next = filling.replace('#', &number.to_string());
        if text.len() + next.len() + end.len() + 2 > MAX_BUNDLE_BYTES {
            break;
        }
        if number > 0 && !end.is_empty() {
            text.push(',');
        }
        text += &next;
    }
    text + end
}

fn a_bundle_of_the_largest_size_takes_no_more_than_is_said() {
    let head = r#"{"version":1,"scope":{"gateway":"g"},"default":"allow","rules":["#;
    let rule = |members: &str| format!(r##"{{"name":"#","cidrs":["::1"],"action":"drop"{members}}}"##);
    let list = |member: &str| format!(r#"{head}{{"name":"x","protocol":"tcp","action":"drop","{member}":["#);
    let patterns: Vec<_> = (0..64).map(|n| format!("\"e{n}\"")).collect();
    let interfaces = format!(r#","interfaces":[{}]"#, patterns.join(","));
    let conditions = r#","protocol":"tcp","ports":["1"],"peer_ports":["1"],"limit":{"pps":1}"#;
    let conditions = rule(conditions).replace("drop", "limit");
    for (what, text) in [
        ("rules", filled(head, &rule(""), "]}", 65_536)),
        ("rules with conditions", filled(head, &conditions, "]}", 65_536)),
        ("rules with interfaces", filled(head, &rule(&interfaces), "]}", 65_536)),
        ("rules with reasons", filled(head, &rule(&format!(r#","reason":"{}""#, "r".repeat(200))), "]}", 65_536)),
        ("prefixes", filled(&list("cidrs"), r#""::#""#, "]}]}", 65_536)),
        ("ports", filled(&list("ports"), r##""#""##, "]}]}", usize::MAX)),
        ("escapes", filled(&format!("{head}{{\"reason\":\""), "\\n", "", usize::MAX)),
        ("levels", filled(r#"{"rules":["#, "[", "", usize::MAX)),
        ("braces", filled(r#"{"rules":[{"a":"#, "[", "", usize::MAX)),
        (
            "levels behind what is wrong",
            "{\"x\":".to_owned() + &"[".repeat(2 << 20) + &"]".repeat(2 << 20)[..1_900_000],
        ),
    ] {
        assert!(text.len() <= MAX_BUNDLE_BYTES, "{what}: {}", text.len());
        let peak = peak_of(|| read(text.as_bytes()));
        println!("{what}: {peak} bytes for {}", text.len());
        assert!(peak <= MAX_MEMORY_BYTES, "{what}: {peak} bytes");
    }
}

fn an_envelope_of_the_largest_size_takes_its_payload_and_little_more() {
    let signer = Signer::from_seed(&[7; 32]);
    let mut keys = Keyring::default();
    keys.add(signer.key);
    let good = envelope::sign(&vec![b' '; MAX_BUNDLE_BYTES], &[signer]);
    let text = "x".repeat(MAX_ENVELOPE_BYTES - 200);
    for (what, text, most) in [
        ("good", good, MAX_BUNDLE_BYTES + (64 << 10)),
        ("a long type", format!("{{\"payload\":\"\",\"payloadType\":\"{text}\",\"signatures\":[]}}"), 16 << 20),
        (
            "a long text for signatures",
            format!("{{\"payload\":\"\",\"payloadType\":\"{PAYLOAD_TYPE}\",\"signatures\":\"{text}\"}}"),
            24 << 20,
        ),
        ("levels", format!("{{\"a\":{}", "[".repeat(MAX_ENVELOPE_BYTES - 8)), 16 << 20),
    ] {
        assert!(text.len() <= MAX_ENVELOPE_BYTES, "{what}: {}", text.len());
        let peak = peak_of(|| envelope::open(text.as_bytes(), &keys, None));
        println!("{what}: {peak} bytes for {}", text.len());
        assert!(peak <= most, "{what}: {peak} bytes");
    }
}

/// One test: two at a time would count what the other allocates.
#[test]
fn hostile_policies_of_the_largest_size_take_little_beside_themselves() {
    a_bundle_of_the_largest_size_takes_no_more_than_is_said();
    an_envelope_of_the_largest_size_takes_its_payload_and_little_more();
}
