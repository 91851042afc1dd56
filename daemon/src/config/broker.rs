//! The broker's address, from `[mqtt] url`.

use std::{fmt, net::Ipv6Addr};

/// Where the broker listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// Host name or address; an IPv6 address stands without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// `mqtts`.
    pub tls: bool,
}

impl Broker {
    /// Reads `mqtt://HOST[:PORT]` or `mqtts://HOST[:PORT]`; the ports are 1883 and 8883 where none is given.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words that hold nothing of a password.
    pub fn parse(url: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = url.split_once("://").ok_or("it does not begin with mqtt:// or mqtts://")?;
        let tls = match scheme {
            "mqtt" => false,
            "mqtts" => true,
            _ => return Err("the scheme is neither mqtt nor mqtts"),
        };
        if rest.contains('@') {
            return Err("user and password belong into user and password_file, not into the url");
        }
        let authority = rest.strip_suffix('/').unwrap_or(rest);
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
            None if tls => 8883,
            None => 1883,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => match digits.parse() {
                Ok(port) if port != 0 => port,
                _ => return Err("the port is not between 1 and 65535"),
            },
            Some(_) => return Err("the port is not a number"),
        };
        Ok(Self { host: host.to_owned(), port, tls })
    }
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

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_and_addresses_are_read_with_and_without_port() {
        for (url, host, port, tls) in [
            ("mqtt://broker.example", "broker.example", 1883, false),
            ("mqtts://broker.example/", "broker.example", 8883, true),
            ("mqtt://10.0.0.1:2883", "10.0.0.1", 2883, false),
            ("mqtts://[2001:db8::1]", "2001:db8::1", 8883, true),
            ("mqtt://[::1]:1884", "::1", 1884, false),
        ] {
            let broker = Broker { host: host.into(), port, tls };
            assert_eq!(Broker::parse(url).as_ref(), Ok(&broker), "{url}");
            assert_eq!(Broker::parse(&broker.to_string()), Ok(broker));
        }
    }

    #[test]
    fn what_is_no_broker_is_refused() {
        for url in [
            "",
            "broker",
            "broker:1883",
            "http://broker",
            "mqtt://",
            "mqtt://:1883",
            "mqtt://broker:0",
            "mqtt://broker:65536",
            "mqtt://broker:+1",
            "mqtt://broker/path",
            "mqtt://::1",
            "mqtt://[::1",
            "mqtt://[::1]x",
            "mqtt://[nine]",
            "mqtt://a b",
            "mqtt://user:secret@broker",
        ] {
            assert!(Broker::parse(url).is_err(), "{url}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(url in "(mqtts?://)?.{0,40}") {
            if let Ok(broker) = Broker::parse(&url) {
                prop_assert_eq!(Broker::parse(&broker.to_string()), Ok(broker));
            }
        }
    }
}
