//! Addresses of uploads: what a server's `Location` means, and where a redirect may lead.

use http::{StatusCode, Uri};

use crate::trouble::{Kind, Trouble};

/// Redirects that are followed for one request.
pub(crate) const MAX_REDIRECTS: u32 = 5;
/// Longest address.
const MAX_ADDRESS_BYTES: usize = 4096;

/// What `reference` means at `base` (RFC 3986, section 5.2): a URL, `//host/path`, `/path`, `path`, `?query`. `None`: it is
/// none of those, or not http.
#[must_use]
pub fn join(base: &Uri, reference: &str) -> Option<Uri> {
    let reference = reference.trim().split('#').next().unwrap_or_default();
    if reference.len() > MAX_ADDRESS_BYTES || !reference.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    let scheme = base.scheme_str()?;
    let authority = base.authority()?.as_str();
    // A colon in the first segment makes it the name of a scheme (section 4.2).
    let first = reference.split(['/', '?']).next().unwrap_or_default();
    let text = if first.contains(':') {
        reference.to_owned()
    } else if let Some(rest) = reference.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else {
        let path = base.path();
        let path = match reference.as_bytes().first() {
            Some(b'/') => reference.to_owned(),
            Some(b'?') => format!("{path}{reference}"),
            None => path.to_owned(),
            Some(_) => {
                let folder = &path[..=path.rfind('/').unwrap_or(0)];
                format!("{folder}{reference}")
            }
        };
        format!("{scheme}://{authority}{}", without_dots(&path))
    };
    let uri: Uri = text.parse().ok()?;
    let http = matches!(uri.scheme_str(), Some("http" | "https"));
    (http && uri.authority().is_some_and(|authority| !authority.as_str().contains('@') && !authority.host().is_empty()))
        .then_some(uri)
}

/// RFC 3986, section 5.2.4, for the path; a query stays as it is.
fn without_dots(path: &str) -> String {
    let (path, query) = path.split_once('?').map_or((path, ""), |(path, query)| (path, query));
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if segments.peek().is_none() {
                    kept.push("");
                }
            }
            segment => kept.push(segment),
        }
    }
    let question = if query.is_empty() { "" } else { "?" };
    format!("/{}{question}{query}", kept.join("/"))
}

/// Whether two addresses are of one server: a token that is meant for one is not for the other.
#[must_use]
pub(crate) fn same_server(one: &Uri, other: &Uri) -> bool {
    let host = |uri: &Uri| uri.host().map(str::to_ascii_lowercase);
    one.scheme() == other.scheme() && host(one) == host(other) && port(one) == port(other)
}

/// The port, where none is given that of the scheme.
#[must_use]
pub(crate) fn port(uri: &Uri) -> u16 {
    uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 })
}

/// Where a redirect leads. `hops` have been followed before. A request with a body is only sent on with the statuses that keep its
/// method (307, 308: RFC 9110, section 15.4); nobody is led from https to http.
///
/// # Errors
///
/// Why it is not followed.
pub fn redirected(
    from: &Uri,
    status: StatusCode,
    location: Option<&str>,
    has_body: bool,
    hops: u32,
) -> Result<Uri, Trouble> {
    let refuse = |why: String| Trouble { status: status.as_u16(), ..Trouble::new(Kind::Redirect, why) };
    if has_body && !matches!(status.as_u16(), 307 | 308) {
        return Err(refuse(format!("the server answers {status}, which would make another request of this one")));
    }
    if hops >= MAX_REDIRECTS {
        return Err(refuse(format!("more than {MAX_REDIRECTS} redirects")));
    }
    let location = location.ok_or_else(|| refuse(format!("the server answers {status} and does not say where to")))?;
    let to =
        join(from, location).ok_or_else(|| refuse(format!("the server answers {status}, to no address of http")))?;
    if from.scheme_str() == Some("https") && to.scheme_str() != Some("https") {
        return Err(refuse(format!("the server answers {status}, away from https")));
    }
    Ok(to)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn joined(reference: &str) -> Option<String> {
        let base: Uri = "https://files.example:8443/up/loads/?a=b".parse().unwrap();
        join(&base, reference).map(|uri| uri.to_string())
    }

    #[test]
    fn references_are_resolved_as_the_specification_says() {
        for (reference, meant) in [
            ("https://other.example/x", "https://other.example/x"),
            ("http://other.example/x?y=://z", "http://other.example/x?y=://z"),
            ("//other.example/x", "https://other.example/x"),
            ("/files/7", "https://files.example:8443/files/7"),
            ("7", "https://files.example:8443/up/loads/7"),
            ("./7", "https://files.example:8443/up/loads/7"),
            ("../7?c=d", "https://files.example:8443/up/7?c=d"),
            ("../../../../7", "https://files.example:8443/7"),
            ("/a/b/..", "https://files.example:8443/a/"),
            ("/x#fragment", "https://files.example:8443/x"),
            ("/to?url=http://x/", "https://files.example:8443/to?url=http://x/"),
        ] {
            assert_eq!(joined(reference).as_deref(), Some(meant), "{reference}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for reference in
            ["ftp://x/", "https://", "https://user@host/", "a b", "/\u{e9}", &"x".repeat(5000), "http://:80/"]
        {
            assert_eq!(joined(reference), None, "{reference}");
        }
    }

    #[test]
    fn redirects_are_bounded_and_never_lead_to_less() {
        let from: Uri = "https://a.example/up".parse().unwrap();
        let to = |status: u16, location, body, hops| {
            redirected(&from, StatusCode::from_u16(status).unwrap(), location, body, hops).map(|uri| uri.to_string())
        };
        assert_eq!(to(307, Some("/there"), true, 4).unwrap(), "https://a.example/there");
        assert_eq!(to(302, Some("/there"), false, 0).unwrap(), "https://a.example/there");
        for refused in [
            to(302, Some("/there"), true, 0),
            to(307, Some("/there"), true, 5),
            to(307, None, true, 0),
            to(307, Some("http://a.example/up"), true, 0),
            to(308, Some("mailto:me"), true, 0),
        ] {
            assert_eq!(refused.unwrap_err().kind, Kind::Redirect);
        }
    }

    #[test]
    fn servers_are_told_apart_by_scheme_host_and_port() {
        let uri = |text: &str| text.parse::<Uri>().unwrap();
        assert!(same_server(&uri("https://a/x"), &uri("https://a:443/y")));
        assert!(same_server(&uri("https://a/x"), &uri("https://A/y")));
        for other in ["http://a/x", "https://b/x", "https://a:444/x"] {
            assert!(!same_server(&uri("https://a/x"), &uri(other)));
        }
    }

    proptest! {
        #[test]
        fn no_reference_makes_it_panic(reference in "(//?|\\?|https?://)?[ -~\u{e9}]{0,40}") {
            let _any = joined(&reference);
        }
    }
}
