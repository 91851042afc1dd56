//! A way through an HTTP proxy: `CONNECT` (RFC 9110, section 9.3.6).

use http::Uri;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::trouble::{Kind, Trouble};

/// Longest head of a proxy's answer.
const MAX_HEAD_BYTES: usize = 8192;

/// Has the proxy at the other end of `stream` connect us to `host:port`; what comes after its answer is the server's.
///
/// # Errors
///
/// What the proxy said.
pub(super) async fn tunnel(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    proxy: &Uri,
    target: &str,
) -> Result<(), Trouble> {
    let trouble = |what: String| Trouble::new(Kind::Proxy, format!("the proxy {proxy} {what}"));
    let ended = |error: std::io::Error| trouble(format!("ends the connection: {error}"));
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(ended)?;
    let mut head = Vec::with_capacity(256);
    // A byte at a time: what follows the head belongs to TLS.
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == MAX_HEAD_BYTES {
            return Err(trouble(format!("answers with a head of more than {MAX_HEAD_BYTES} bytes")));
        }
        head.push(stream.read_u8().await.map_err(ended)?);
    }
    match status(&head) {
        Some(200..=299) => Ok(()),
        Some(status) => Err(Trouble { status, ..trouble(format!("answers {status} when asked for {target}")) }),
        None => Err(trouble("does not speak HTTP".to_owned())),
    }
}

fn status(head: &[u8]) -> Option<u16> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    words.next().filter(|digits| digits.len() == 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn asked(answer: &str) -> (Result<(), Trouble>, String) {
        let (mut ours, mut theirs) = tokio::io::duplex(16 * 1024);
        theirs.write_all(answer.as_bytes()).await.unwrap();
        let proxy = "http://proxy:3128".parse().unwrap();
        let result = tunnel(&mut ours, &proxy, "files.example:443").await;
        drop(ours);
        let mut request = String::new();
        theirs.read_to_string(&mut request).await.unwrap();
        (result, request)
    }

    #[tokio::test]
    async fn a_proxy_that_agrees_is_gone_through() {
        let (result, request) = asked("HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n").await;
        assert_eq!(result, Ok(()));
        assert_eq!(request, "CONNECT files.example:443 HTTP/1.1\r\nHost: files.example:443\r\n\r\n");
    }

    #[tokio::test]
    async fn a_proxy_that_does_not_is_named() {
        let refused = asked("HTTP/1.0 407 Proxy Authentication Required\r\n\r\n").await.0.unwrap_err();
        assert_eq!((refused.kind, refused.status), (Kind::Proxy, 407));
        for garbage in ["SSH-2.0-OpenSSH\r\n\r\n", "HTTP/1.1 2000\r\n\r\n", &"x".repeat(9000)] {
            assert_eq!(asked(garbage).await.0.unwrap_err().kind, Kind::Proxy, "{garbage:.20}");
        }
    }
}
