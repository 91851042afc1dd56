//! Host and port, as they stand in URLs.

use std::net::Ipv6Addr;

/// Reads `HOST[:PORT]`, HOST a name, an IPv4 address, or an IPv6 address in brackets, which the result is without.
///
/// # Errors
///
/// What is wrong with it, in words that hold nothing of it.
pub(super) fn host_and_port(authority: &str) -> Result<(&str, Option<u16>), &'static str> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or("the bracket is not closed")?;
            address.parse::<Ipv6Addr>().map_err(|_| "what stands in brackets is no IPv6 address")?;
            let port = if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or("no port follows")?) };
            (address, port)
        }
        None => match authority.split_once(':') {
            Some((_, port)) if port.contains(':') => return Err("an IPv6 address stands in brackets: [::1]"),
            Some((host, port)) => (valid_name(host)?, Some(port)),
            None => (valid_name(authority)?, None),
        },
    };
    let port = match port {
        None => None,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => match digits.parse() {
            Ok(port) if port != 0 => Some(port),
            _ => return Err("the port is not between 1 and 65535"),
        },
        Some(_) => return Err("the port is not a number"),
    };
    Ok((host, port))
}

/// A host name (RFC 1123, section 2.1) or an IPv4 address. Underscores are let through: local names have them.
fn valid_name(host: &str) -> Result<&str, &'static str> {
    let valid = |label: &str| {
        matches!(label.len(), 1..=63) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if host.len() <= 253 && host.strip_suffix('.').unwrap_or(host).split('.').all(valid) {
        Ok(host)
    } else {
        Err("the host is neither a name nor an address")
    }
}
