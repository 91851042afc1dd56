//! One connection to a server, and who it is of.

use std::{cell::RefCell, rc::Rc};

use http::{HeaderValue, Request, Response, Uri, header};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use tokio::task::{AbortHandle, JoinHandle};

use super::{address::same_server, dial::dial, tls::Tls};
use crate::{
    body::Pieces,
    settings::Settings,
    trouble::{Kind, Trouble},
};

/// What is kept of a head that comes in, and of a body that goes out: one piece.
const MOST_BUFFERED: usize = 64 * 1024;
/// Longest list of headers in an answer, with HTTP/2.
const MAX_HEADERS_BYTES: u32 = 16 * 1024;
/// What a server may send before it is read, with HTTP/2: answers are short, and what is read back is read as it is compared.
const WINDOW_BYTES: u32 = 64 * 1024;

/// A connection. It ends when it is dropped, with whatever is under way on it.
pub(crate) struct Connection {
    sender: Sender,
    driver: JoinHandle<()>,
    tasks: Local,
    server: Uri,
    absolute: bool,
    authorization: Option<HeaderValue>,
}

enum Sender {
    Http1(http1::SendRequest<Pieces>),
    Http2(http2::SendRequest<Pieces>),
}

/// Runs the tasks of a connection where it is: on this thread, and no longer than it lives. Left alone they would go on until
/// the server has read what they still have, and a server that never reads would be given another such task by each attempt.
#[derive(Clone, Default)]
struct Local(Rc<RefCell<Vec<AbortHandle>>>);

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        let task = tokio::task::spawn_local(async move {
            future.await;
        });
        let mut tasks = self.0.borrow_mut();
        tasks.retain(|task| !task.is_finished());
        tasks.push(task.abort_handle());
    }
}

impl Connection {
    /// Connects to the server of `uri`. Call it inside a `LocalSet`.
    ///
    /// # Errors
    ///
    /// See [`Kind::Connect`], [`Kind::Tls`], [`Kind::Proxy`], [`Kind::Metered`].
    pub(crate) async fn open(settings: &Settings, uri: &Uri, tls: &Tls) -> Result<Self, Trouble> {
        let authorization = settings.credentials.authorization().map_err(|error| Trouble::new(Kind::Tls, error))?;
        let dialled = dial(settings, uri, tls).await?;
        let shaken = |error: hyper::Error| Trouble::new(Kind::EarlyClose, format!("{uri}: {error}"));
        let tasks = Local::default();
        let (sender, driver) = if dialled.http2 {
            let (sender, connection) = http2::Builder::new(tasks.clone())
                .max_send_buf_size(MOST_BUFFERED)
                .max_header_list_size(MAX_HEADERS_BYTES)
                .initial_stream_window_size(WINDOW_BYTES)
                .initial_connection_window_size(WINDOW_BYTES)
                .handshake(dialled.io)
                .await
                .map_err(shaken)?;
            let driver = tokio::task::spawn_local(async move { drop(connection.await) });
            (Sender::Http2(sender), driver)
        } else {
            let (sender, connection) =
                http1::Builder::new().max_buf_size(MOST_BUFFERED).handshake(dialled.io).await.map_err(shaken)?;
            let driver = tokio::task::spawn_local(async move { drop(connection.await) });
            (Sender::Http1(sender), driver)
        };
        Ok(Self { sender, driver, tasks, server: uri.clone(), absolute: dialled.absolute, authorization })
    }

    /// Whether requests to `uri` can go over it.
    pub(crate) fn serves(&self, uri: &Uri) -> bool {
        let open = match &self.sender {
            Sender::Http1(sender) => !sender.is_closed(),
            Sender::Http2(sender) => !sender.is_closed(),
        };
        open && same_server(&self.server, uri)
    }

    /// Sends a request; `trusted`: to the server that credentials are meant for. The answer may come before the body has gone.
    pub(crate) async fn send(
        &mut self,
        mut request: Request<Pieces>,
        trusted: bool,
    ) -> hyper::Result<Response<Incoming>> {
        if let Some(authorization) = self.authorization.as_ref().filter(|_| trusted) {
            request.headers_mut().insert(header::AUTHORIZATION, authorization.clone());
        }
        match &mut self.sender {
            Sender::Http1(sender) => {
                let authority = request.uri().authority().map(|authority| authority.as_str().to_owned());
                let host = authority.and_then(|authority| HeaderValue::try_from(authority).ok());
                if let Some(host) = host {
                    request.headers_mut().insert(header::HOST, host);
                }
                if !self.absolute {
                    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
                    *request.uri_mut() = path.parse().unwrap_or_default();
                }
                sender.ready().await?;
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
        for task in self.tasks.0.borrow().iter() {
            task.abort();
        }
    }
}
