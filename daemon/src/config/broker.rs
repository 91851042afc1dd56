//! The broker's address, from `[mqtt] url`.

use std::fmt;

use super::address::host_and_port;

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
        let (host, port) = host_and_port(rest.strip_suffix('/').unwrap_or(rest))?;
        let port = port.unwrap_or(if tls { 8883 } else { 1883 });
        Ok(Self { host: host.to_owned(), port, tls })
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
