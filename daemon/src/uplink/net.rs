//! The TCP connection below the session.

use std::{io, time::Duration};

use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

use crate::config::Broker;

/// For one address to accept: three SYNs (1 s + 2 s + 4 s, RFC 6298) and some.
const ACCEPT_WITHIN: Duration = Duration::from_secs(10);

/// Connects to the first address of the broker that accepts.
///
/// The system gives up on data that nobody acknowledges after `dead_after`: the kernel's default is 15 minutes,
/// which a half-open connection (a modem that got a new address) would live on.
///
/// # Errors
///
/// The last address's, with what was tried.
pub(super) async fn connect(broker: &Broker, dead_after: Duration) -> io::Result<TcpStream> {
    let Broker { host, port, .. } = broker;
    let addresses = lookup_host((host.as_str(), *port))
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("{host} does not resolve to an address: {error}")))?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} does not resolve to an address"));
    for address in addresses {
        let attempt = match timeout(ACCEPT_WITHIN, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => configure(stream, dead_after),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {ACCEPT_WITHIN:?}"))),
        };
        match attempt {
            Ok(stream) => return Ok(stream),
            Err(error) => last = io::Error::new(error.kind(), format!("{address}: {error}")),
        }
    }
    Err(last)
}

fn configure(stream: TcpStream, dead_after: Duration) -> io::Result<TcpStream> {
    // Acknowledgements are small and each waits for one: Nagle's algorithm would hold them back.
    stream.set_nodelay(true)?;
    let dead_after_ms = u32::try_from(dead_after.as_millis()).unwrap_or(u32::MAX);
    rustix::net::sockopt::set_tcp_user_timeout(&stream, dead_after_ms)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_closed_port_is_named() {
        let port = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let broker = Broker { host: "127.0.0.1".to_owned(), port, tls: false };
        let error = connect(&broker, Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
    }

    #[tokio::test]
    async fn an_ipv6_address_needs_no_brackets() {
        let Ok(listener) = tokio::net::TcpListener::bind("[::1]:0").await else { return };
        let broker = Broker { host: "::1".to_owned(), port: listener.local_addr().unwrap().port(), tls: false };
        assert!(connect(&broker, Duration::from_secs(1)).await.is_ok());
    }
}
