//! Prefixes as people write them: `192.0.2.0/24`, `2001:db8::/32`, or an address, which is a prefix by itself.

use std::net::IpAddr;

use crate::bundle::Prefix;

/// Why a text is no prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Neither address nor prefix.
    NoPrefix,
    /// Bits behind the length are set; the prefix of that length which it is in.
    HostBits(Prefix),
}

/// Reads a prefix, or an address.
///
/// # Errors
///
/// See [`Unreadable`].
pub fn parse(text: &str) -> Result<Prefix, Unreadable> {
    // Byte by byte: what looks for a character in long texts takes longer than the rest of this on short ones.
    let (address, length) = match text.bytes().position(|byte| byte == b'/') {
        Some(slash) => (&text[..slash], Some(&text[slash + 1..])),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| Unreadable::NoPrefix)?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let length = match length {
        None => bits,
        Some(digits) => number(digits).ok_or(Unreadable::NoPrefix)?,
    };
    let prefix = Prefix::around(address, length).ok_or(Unreadable::NoPrefix)?;
    if prefix.address() == address { Ok(prefix) } else { Err(Unreadable::HostBits(prefix)) }
}

/// Digits without a sign and without zeros in front.
fn number(digits: &str) -> Option<u8> {
    let plain = digits == "0" || !digits.starts_with(['0', '+']);
    digits.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_and_addresses_are_read() {
        for (text, shown) in [
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("2001:DB8::/32", "2001:db8::/32"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.1/128"),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn bits_behind_the_length_name_the_prefix_that_was_meant() {
        for (text, meant) in
            [("192.0.2.1/24", "192.0.2.0/24"), ("10.1.2.3/0", "0.0.0.0/0"), ("2001:db8::1/64", "2001:db8::/64")]
        {
            let Err(Unreadable::HostBits(found)) = parse(text) else { panic!("{text}") };
            assert_eq!(found.to_string(), meant);
        }
    }

    #[test]
    fn what_is_no_prefix_is_refused() {
        for text in [
            "",
            "/",
            "/8",
            "10",
            "10/8",
            "10.0.0/8",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/08",
            "10.0.0.0/8/8",
            "010.0.0.0/8",
            "10.0.0.0 /8",
            " 10.0.0.0/8",
            "10.0.0.0/255.0.0.0",
            "::/129",
            "fe80::1%eth0",
            "[::1]",
            "::1/-1",
            "１0.0.0.0/8",
            "example.com",
            "0x0a.0.0.0/8",
        ] {
            assert_eq!(parse(text), Err(Unreadable::NoPrefix), "{text}");
        }
    }
}
