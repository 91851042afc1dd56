//! What reading a desired document takes beside the document. By itself, since it counts all that is allocated.

mod meter;

use meter::peak_of;
use tidegate::control::{
    desired,
    link::{MAX_CONFIG_BYTES, Source},
};

/// Bytes that reading takes beside the payload at its largest moment.
fn peak_of_reading(payload: &[u8]) -> usize {
    peak_of(|| desired::read(&Source::Device, payload))
}

/// A document of the largest size whose `config` is `begin`, then `filling` again and again, then `end`.
fn filled(begin: &str, filling: &str, end: &str) -> String {
    let mut document = format!(r#"{{"version":7,"config":{begin}"#);
    while !filling.is_empty() && document.len() + filling.len() + end.len() < MAX_CONFIG_BYTES {
        document += filling;
    }
    document + end + "}"
}

#[test]
fn a_hostile_document_of_the_largest_size_takes_little_beside_itself() {
    let mib = 1 << 20;
    let levels = MAX_CONFIG_BYTES / 2 - 64;
    for (what, document, most) in [
        ("values", filled(r#"{"traffic":{"interfaces":[0"#, ",0", "]}}"), mib),
        ("texts", filled(r#"{"traffic":{"interfaces":["""#, r#","eth0""#, "]}}"), mib),
        ("objects", filled(r#"{"traffic":{"interfaces":[{}"#, r#",{"a":{}}"#, "]}}"), 2 * mib),
        ("one text", filled(r#"{"log":{"filter":""#, "x", "\"}}"), mib),
        ("one name", filled("{\"", "x", "\":1}"), mib),
        ("escapes", filled(r#"{"log":{"filter":""#, &format!("{}\\n", "x".repeat(62)), "\"}}"), mib),
        ("a name with escapes", filled(&format!("{{\"{}\\n", "x".repeat(62)), "x", "\":1}"), mib),
        // The parser keeps a byte for each level that it skips, in a buffer that grows by doubling.
        ("levels", filled(&"[".repeat(levels), "", &"]".repeat(levels)), 8 * mib),
        ("no JSON", filled(&"[".repeat(2 * levels), "", ""), 8 * mib),
    ] {
        assert!(document.len() <= MAX_CONFIG_BYTES, "{what}");
        let peak = peak_of_reading(document.as_bytes());
        println!("{what}: {peak} bytes");
        assert!(peak < most, "{what}: {peak} bytes");
    }
}
