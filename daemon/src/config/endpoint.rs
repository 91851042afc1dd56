//! Where uploads go, from `[upload] endpoint`, and the proxy that they go through.

use std::fmt;

use http::Uri;

use super::address::host_and_port;

/// Stands for the gateway's id in a path.
const GATEWAY: &str = "{gateway}";

/// Where uploads go: `http://HOST[:PORT][/PATH]` or `https://…`, in which the path may hold `{gateway}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// As it was given.
    text: String,
    /// `https`.
    pub tls: bool,
}

impl Endpoint {
    /// Reads an endpoint.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words that hold nothing of a password.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text.split_once("://").ok_or("it does not begin with http:// or https://")?;
        let tls = match scheme {
            "http" => false,
            "https" => true,
            _ => return Err("the scheme is neither http nor https"),
        };
        let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        if authority.contains('@') {
            return Err("user and password do not belong into the endpoint; a token belongs into token_file");
        }
        host_and_port(authority)?;
        valid_path(path)?;
        Ok(Self { text: text.to_owned(), tls })
    }

    /// That of a gateway.
    ///
    /// # Panics
    ///
    /// Never: what was read is a URI, and so it is with an id in it, of `A-Z a-z 0-9 _ . -`.
    #[must_use]
    pub fn of(&self, gateway: &str) -> Uri {
        self.text.replace(GATEWAY, gateway).parse().expect("an endpoint is a URI")
    }
}

/// Segments of `pchar` (RFC 3986, 3.3). No query: it would be told to whoever asks for the configuration, and what makes
/// one necessary is mostly a secret.
fn valid_path(path: &str) -> Result<(), &'static str> {
    let path = path.replace(GATEWAY, "");
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            byte if byte.is_ascii_alphanumeric() || b"/-._~:@!$&'()*+,;=".contains(&byte) => {}
            b'%' => {
                let hexadecimal = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_hexdigit());
                if !(hexadecimal(bytes.next()) && hexadecimal(bytes.next())) {
                    return Err("a % in the path is followed by two hexadecimal digits");
                }
            }
            b'{' | b'}' => return Err("in braces there is only {gateway}, the gateway's id"),
            b'?' | b'#' => return Err("it has neither query nor fragment; a token belongs into token_file"),
            _ => return Err("the path holds a character that has to be written as % and two hexadecimal digits"),
        }
    }
    Ok(())
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Reads `http://HOST:PORT`.
///
/// # Errors
///
/// What is wrong with it, in words that hold nothing of a password.
pub(super) fn proxy(text: &str) -> Result<Uri, &'static str> {
    let rest = text.strip_prefix("http://").ok_or("it does not begin with http://")?;
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains('@') {
        return Err("a proxy that wants user and password is not supported");
    }
    match host_and_port(authority)? {
        (_, Some(_)) => text.parse().map_err(|_| "it is no URI"),
        (_, None) => Err("the port is missing"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_gateways_id_takes_its_place_in_the_path() {
        for (text, uri) in [
            ("http://files", "http://files/"),
            ("https://files.example:8443/", "https://files.example:8443/"),
            ("https://files.example/in/{gateway}", "https://files.example/in/gw-7"),
            ("http://[2001:db8::1]:80/{gateway}/x/{gateway}", "http://[2001:db8::1]:80/gw-7/x/gw-7"),
            ("https://files.example/a%20b;v=1/@x:y", "https://files.example/a%20b;v=1/@x:y"),
        ] {
            let endpoint = Endpoint::parse(text).unwrap();
            assert_eq!(endpoint.of("gw-7").to_string(), uri);
            assert_eq!((endpoint.tls, endpoint.to_string()), (text.starts_with("https"), text.to_owned()));
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        for text in [
            "",
            "files.example",
            "ftp://files.example/",
            "HTTP://files.example/",
            "https://",
            "https:///in",
            "https://files.example:0/",
            "https://::1/",
            "https://{gateway}.files.example/",
            "https://user:secret@files.example/",
            "https://files.example/{id}",
            "https://files.example/{gateway",
            "https://files.example/a b",
            "https://files.example/ä",
            "https://files.example/%2",
            "https://files.example/%zz",
            "https://files.example/in?sig=secret",
            "https://files.example?sig=secret",
            "https://files.example/in#x",
            "https://files.example/a\"b",
            "https://files.example/a\r\nb",
        ] {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_proxy_is_host_and_port() {
        assert_eq!(proxy("http://proxy:3128").unwrap().port_u16(), Some(3128));
        assert_eq!(proxy("http://[::1]:3128/").unwrap().host(), Some("[::1]"));
        for text in
            ["", "proxy:3128", "https://proxy:3128", "http://proxy", "http://u:p@proxy:3128", "http://proxy:1/x"]
        {
            assert!(proxy(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_endpoint_is_a_uri(text in "(https?://)?([a-z.]{1,9}(:[0-9]{1,5})?|.{0,8})(/.{0,30})?", id in "[A-Za-z0-9_.-]{1,64}") {
            if let Ok(endpoint) = Endpoint::parse(&text) {
                prop_assert!(endpoint.of(&id).host().is_some());
            }
            if let Ok(proxy) = proxy(&text) {
                prop_assert!(proxy.port_u16().is_some());
            }
        }
    }
}
