//! From an address to a connection: name, route, TCP, proxy, TLS, and which HTTP is spoken.

use std::{io, net::SocketAddr, sync::Arc};

use http::Uri;
use rustls::pki_types::ServerName;
use tokio::{net::lookup_host, time::timeout};
use tokio_rustls::TlsConnector;

use super::{address::port, io::Io, proxy::tunnel, route::interface_to, tcp::Tcp, tls::Tls};
use crate::{
    settings::{HttpVersion, Settings},
    trouble::{Kind, Trouble},
};

/// A connection that HTTP can be spoken on.
pub(super) struct Dialled {
    pub(super) io: Io,
    pub(super) http2: bool,
    /// The peer is a proxy that wants whole addresses.
    pub(super) absolute: bool,
}

/// Connects to the server of `uri` within `connect_within`.
///
/// # Errors
///
/// What went wrong, in words for the one who must mend it.
pub(super) async fn dial(settings: &Settings, uri: &Uri, tls: &Tls) -> Result<Dialled, Trouble> {
    let within = settings.connect_within;
    timeout(within, dial_at_leisure(settings, uri, tls))
        .await
        .unwrap_or_else(|_| Err(Trouble::new(Kind::Connect, format!("{uri}: no connection within {within:?}"))))
}

async fn dial_at_leisure(settings: &Settings, uri: &Uri, tls: &Tls) -> Result<Dialled, Trouble> {
    let secure = uri.scheme_str() == Some("https");
    let first = settings.proxy.as_ref().unwrap_or(uri);
    let mut tcp = connect(settings, first).await?;
    if let (Some(proxy), true) = (&settings.proxy, secure) {
        tunnel(&mut tcp, proxy, &format!("{}:{}", uri.host().unwrap_or_default(), port(uri))).await?;
    }
    if !secure {
        let http2 = settings.http == HttpVersion::Http2;
        return Ok(Dialled { io: Io::Plain(tcp), http2, absolute: settings.proxy.is_some() });
    }
    let mut client = tls.config(&settings.credentials).map_err(|error| Trouble::new(Kind::Tls, error))?;
    client.alpn_protocols = match settings.http {
        HttpVersion::Auto => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        HttpVersion::Http1 => vec![b"http/1.1".to_vec()],
        HttpVersion::Http2 => vec![b"h2".to_vec()],
    };
    let host = bare_host(uri);
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| Trouble::new(Kind::Tls, format!("{host} is no name that a certificate can have")))?;
    let stream = TlsConnector::from(Arc::new(client)).connect(name, tcp).await.map_err(|error| {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
        Trouble::new(
            Kind::Tls,
            match cause {
                Some(cause) => format!("TLS with {host}: {}", settings.credentials.explain(cause)),
                None => format!("TLS with {host}: {error}"),
            },
        )
    })?;
    let agreed = stream.get_ref().1.alpn_protocol();
    let http2 = agreed == Some(b"h2") || (agreed.is_none() && settings.http == HttpVersion::Http2);
    Ok(Dialled { io: Io::Tls(Box::new(stream)), http2, absolute: false })
}

/// The host without the brackets of an IPv6 address.
fn bare_host(uri: &Uri) -> &str {
    let host = uri.host().unwrap_or_default();
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// The first address of the server that accepts.
async fn connect(settings: &Settings, uri: &Uri) -> Result<Tcp, Trouble> {
    let host = bare_host(uri);
    let trouble = |error: String| Trouble::new(Kind::Connect, error);
    let addresses = lookup_host((host, port(uri)))
        .await
        .map_err(|error| trouble(format!("{host} does not resolve to an address: {error}")))?;
    let mut last = trouble(format!("{host} does not resolve to an address"));
    for address in addresses {
        let connected = match allowed(settings, address) {
            Ok(interface) => Tcp::connect(address, interface.as_deref(), settings.progress_within).await,
            Err(Route::Metered(interface)) => {
                let text = format!("{host} is reached over {interface}, which is metered");
                last = Trouble::new(Kind::Metered, text);
                continue;
            }
            Err(Route::None(error)) => Err(error),
        };
        match connected {
            Ok(tcp) => return Ok(tcp),
            Err(error) => last = trouble(format!("{address}: {error}")),
        }
    }
    Err(last)
}

enum Route {
    Metered(String),
    None(io::Error),
}

/// The interface that a connection to `address` has to keep to; `None`: any. The one that is looked up is held on to, so that
/// a route that changes meanwhile does not take the upload over what is metered.
fn allowed(settings: &Settings, address: SocketAddr) -> Result<Option<String>, Route> {
    if settings.metered.as_list().is_empty() {
        return Ok(None);
    }
    match interface_to(address).map_err(Route::None)? {
        Some(interface) if settings.metered.matches(&interface) => Err(Route::Metered(interface)),
        interface => Ok(interface),
    }
}
