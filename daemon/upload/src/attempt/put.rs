//! By `PUT`: all of it in one request.

use http::{HeaderValue, Method, Request, Uri, header, request::Builder};
use tidegate_values::{Digest, base64};

use super::{
    Arrived, Attempt,
    send::{Budget, is_redirect},
};
use crate::{
    codec::Encoding,
    http::redirected,
    producer::Cursor,
    source::Source,
    trouble::{Kind, Trouble},
};

impl Attempt<'_> {
    pub(super) async fn by_put(&mut self, source: &Source) -> Result<Arrived, Trouble> {
        let mut encoder = match &self.job.journal {
            Some(journal) if journal.known().finished => return Ok(Arrived::Whole),
            Some(_) => self.encoder()?,
            None => self.begin(source, false).await?,
        };
        self.progress.encoding.set(encoder.encoding().name());
        if let Some(end) = self.job.sent_end.take() {
            self.server.borrow_mut().resent_bytes += end;
        }
        // Nothing of an earlier attempt counts.
        if let Err(error) = self.job.journal.as_mut().expect("it was begun").resume(0) {
            tracing::debug!(%error, "the journal of an upload cannot be read");
        }
        let mut uri = self.put_address()?;
        for hops in 0.. {
            self.job.sent_end = Some(0);
            self.progress.from.set(None);
            self.progress.sending(0);
            let builder = self.put_request(&uri, encoder.encoding());
            let budget = self.journal().known().begin.length.map_or(Budget::All, Budget::Exactly);
            let mut cursor = Cursor { index: 0, skip: 0 };
            let (answer, given) = self.send(source, &mut encoder, &uri, builder, &mut cursor, budget).await?;
            if is_redirect(answer.status) {
                uri = redirected(&uri, answer.status, answer.header("location"), true, hops)?;
                self.server.borrow_mut().resent_bytes += self.job.sent_end.take().unwrap_or(0);
                continue;
            }
            if !answer.status.is_success() {
                return Err(answer.trouble(false));
            }
            self.progressed = true;
            let journal = self.job.journal.as_mut().expect("it was begun");
            let _tolerable = journal.confirmed(given.bytes);
            self.verified(source, &mut encoder, &uri).await?;
            return Ok(Arrived::Whole);
        }
        unreachable!("redirects are bounded")
    }

    /// Where the file goes: below the endpoint, by its name.
    fn put_address(&self) -> Result<Uri, Trouble> {
        let endpoint = self.endpoint.to_string();
        let (path, query) =
            endpoint.split_once('?').map_or((endpoint.as_str(), None), |(path, query)| (path, Some(query)));
        let question = if query.is_some() { "?" } else { "" };
        let address = format!(
            "{}/{}{question}{}",
            path.trim_end_matches('/'),
            escaped(&self.job.name),
            query.unwrap_or_default()
        );
        address.parse().map_err(|error| Trouble::new(Kind::Refused, format!("{address} is no address: {error}")))
    }

    fn put_request(&self, uri: &Uri, encoding: Encoding) -> Builder {
        let digest = content_digest(self.journal().known().begin.sha256);
        let mut builder = Request::builder()
            .method(Method::PUT)
            .uri(uri.clone())
            .header("unencoded-digest", digest.clone())
            .header("tidegate-metadata", self.metadata())
            .header(header::CONTENT_TYPE, self.job.content_type.as_deref().unwrap_or("application/octet-stream"));
        builder = if encoding.is_identity() {
            builder.header("repr-digest", digest)
        } else {
            builder.header(header::CONTENT_ENCODING, encoding.name())
        };
        builder
    }
}

/// `sha-256=:…:` (RFC 9530).
fn content_digest(sha256: Digest) -> HeaderValue {
    HeaderValue::try_from(format!("sha-256=:{}:", base64::encode(&sha256.0))).expect("base64 is a header")
}

/// A name as it stands in a path (RFC 3986, section 3.3).
fn escaped(name: &str) -> String {
    let kept = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    name.bytes().map(|byte| if kept(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
