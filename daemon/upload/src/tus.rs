//! tus 1.0.0 (tus.io/protocols/resumable-upload): requests, and what answers mean. Pure.
//!
//! ```text
//!   OPTIONS ──► what the server can do
//!   POST ─────► Location ──► PATCH at 0 ──► 204, Upload-Offset ──► PATCH … ──► all of it
//!                               ▲  cut off                                      │ the length came last
//!                               └── HEAD ──► Upload-Offset                      └─► empty PATCH with Upload-Length
//! ```

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, request::Builder};
use tidegate_values::base64;

use crate::{
    http::{Answer, join},
    trouble::{Kind, Trouble},
};

const VERSION: HeaderValue = HeaderValue::from_static("1.0.0");
const RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
const OFFSET: HeaderName = HeaderName::from_static("upload-offset");
const LENGTH: HeaderName = HeaderName::from_static("upload-length");
const DEFER_LENGTH: HeaderName = HeaderName::from_static("upload-defer-length");
const METADATA: HeaderName = HeaderName::from_static("upload-metadata");
const CHECKSUM: HeaderName = HeaderName::from_static("upload-checksum");
const EXPIRES: &str = "upload-expires";
/// Longest `Upload-Metadata`: what servers take of a header without being told.
pub const MAX_METADATA_BYTES: usize = 4096;

/// What a server says that it can do, beside *creation*, without which nothing can be begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// Extension *creation-defer-length*: the length may come last.
    pub defer_length: bool,
    /// Extension *termination*: an upload that is given up can be removed.
    pub termination: bool,
    /// Extension *checksum*, by the best algorithm that both sides know.
    pub checksum: Option<Algorithm>,
    /// `Tus-Max-Size`.
    pub max_size: Option<u64>,
}

/// Algorithms of *checksum*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// What every server with that extension has.
    Sha1,
    /// Better.
    Sha256,
}

impl Algorithm {
    /// As the protocol names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
        }
    }
}

/// What a server says about an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Bytes that it has.
    pub offset: u64,
    /// Bytes that it waits for in all; `None`: it has not been told.
    pub length: Option<u64>,
}

/// How long an upload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// So long.
    Known(u64),
    /// It will be said at the end.
    Deferred,
}

fn request(method: Method, uri: &Uri) -> Builder {
    Request::builder().method(method).uri(uri.clone()).header(RESUMABLE, VERSION)
}

/// Asks what the server can do.
#[must_use]
pub fn options(endpoint: &Uri) -> Builder {
    request(Method::OPTIONS, endpoint)
}

/// What the answer to [`options`] means.
///
/// # Errors
///
/// The server does not speak tus 1.0.0, or nothing can be begun there.
pub fn abilities(answer: &Answer) -> Result<Abilities, Trouble> {
    if !answer.status.is_success() {
        return Err(answer.trouble(false));
    }
    let missing = |what: &str| Trouble::new(Kind::Garbage, format!("no tus server of version 1.0.0: {what}"));
    let versions = answer.header("tus-version").ok_or_else(|| missing("the answer has no Tus-Version"))?;
    if !words(versions).any(|version| version == "1.0.0") {
        return Err(missing(&format!("it speaks {}", tidegate_values::excerpt(versions))));
    }
    let extensions = answer.header("tus-extension").unwrap_or_default();
    let has = |extension| words(extensions).any(|word| word == extension);
    let algorithms = answer.header("tus-checksum-algorithm").unwrap_or("sha1");
    let knows = |algorithm: Algorithm| words(algorithms).any(|word| word == algorithm.name());
    let checksum = [Algorithm::Sha256, Algorithm::Sha1].into_iter().find(|algorithm| knows(*algorithm));
    let abilities = Abilities {
        defer_length: has("creation-defer-length"),
        termination: has("termination"),
        checksum: checksum.filter(|_| has("checksum")),
        max_size: answer.header("tus-max-size").and_then(number),
    };
    if has("creation") { Ok(abilities) } else { Err(missing("without the extension creation")) }
}

fn words(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim)
}

/// A number as headers have it: digits, and nothing else.
fn number(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// Begins an upload.
#[must_use]
pub fn create(endpoint: &Uri, length: Length, metadata: &HeaderValue) -> Builder {
    let builder = request(Method::POST, endpoint).header(METADATA, metadata);
    match length {
        Length::Known(length) => builder.header(LENGTH, length),
        Length::Deferred => builder.header(DEFER_LENGTH, 1),
    }
}

/// Where the upload is that [`create`] began.
///
/// # Errors
///
/// The server refuses, does not say where, or leads away from https.
pub fn created(endpoint: &Uri, answer: &Answer) -> Result<Uri, Trouble> {
    if answer.status != StatusCode::CREATED {
        return Err(answer.trouble(false));
    }
    let location = answer.header("location");
    let location = location
        .and_then(|location| join(endpoint, location))
        .ok_or_else(|| Trouble::new(Kind::Garbage, "the server began an upload and does not say where"))?;
    // As with redirects. Servers behind a proxy that ends TLS do this unless they are told of it.
    if endpoint.scheme_str() == Some("https") && location.scheme_str() != Some("https") {
        let text = format!("the server began an upload at {location}, away from https");
        return Err(Trouble::new(Kind::Redirect, text));
    }
    Ok(location)
}

/// Until when the server keeps the upload, as it says it: an HTTP date.
#[must_use]
pub fn expires(answer: &Answer) -> Option<&str> {
    answer.header(EXPIRES)
}

/// Asks how far the server is.
#[must_use]
pub fn head(location: &Uri) -> Builder {
    request(Method::HEAD, location)
}

/// What the answer to [`head`] means.
///
/// # Errors
///
/// The server has forgotten the upload, refuses, or does not say.
pub fn standing(answer: &Answer) -> Result<Standing, Trouble> {
    if !answer.status.is_success() {
        return Err(answer.trouble(true));
    }
    let offset = offset(&answer.headers)?;
    let length = answer.header("upload-length").map(|text| {
        number(text)
            .ok_or_else(|| Trouble::new(Kind::Garbage, "the server answers with an Upload-Length that is no number"))
    });
    Ok(Standing { offset, length: length.transpose()? })
}

/// Sends bytes from `offset` on. `length`: now it is known. `checksum` is of this request's bytes.
#[must_use]
pub fn patch(location: &Uri, offset: u64, length: Option<u64>, checksum: Option<&HeaderValue>) -> Builder {
    let mut builder = request(Method::PATCH, location)
        .header(http::header::CONTENT_TYPE, "application/offset+octet-stream")
        .header(OFFSET, offset);
    if let Some(length) = length {
        builder = builder.header(LENGTH, length);
    }
    match checksum {
        Some(checksum) => builder.header(CHECKSUM, checksum),
        None => builder,
    }
}

/// `Upload-Checksum` of these bytes' digest.
#[must_use]
pub fn checksum(algorithm: Algorithm, digest: &[u8]) -> HeaderValue {
    let text = format!("{} {}", algorithm.name(), base64::encode(digest));
    header(text)
}

/// What the server has after a [`patch`].
///
/// # Errors
///
/// It refuses, has forgotten the upload, or does not say.
pub fn patched(answer: &Answer) -> Result<u64, Trouble> {
    if answer.status.is_success() { offset(&answer.headers) } else { Err(answer.trouble(true)) }
}

/// Gives an upload up.
#[must_use]
pub fn terminate(location: &Uri) -> Builder {
    request(Method::DELETE, location)
}

fn offset(headers: &HeaderMap) -> Result<u64, Trouble> {
    let text = headers.get(OFFSET).and_then(|value| value.to_str().ok());
    text.and_then(number)
        .ok_or_else(|| Trouble::new(Kind::Garbage, "the server answers without an Upload-Offset that is a number"))
}

/// `Upload-Metadata`: keys in order, values in base64; what does not fit is left out, from the end.
#[must_use]
pub fn metadata<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> HeaderValue {
    let mut text = String::new();
    for (key, value) in pairs {
        let pair = format!("{key} {}", base64::encode(value.as_bytes()));
        if text.len() + pair.len() + 1 > MAX_METADATA_BYTES {
            break;
        }
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&pair);
    }
    header(text)
}

/// Names and base64, which are always fit for a header.
fn header(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(status: u16, headers: &[(&'static str, &str)]) -> Answer {
        let pairs = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap()));
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: pairs.collect(),
            said: String::new(),
            early: false,
        }
    }

    fn endpoint() -> Uri {
        Uri::from_static("https://files.example/up/")
    }

    #[test]
    fn what_a_server_can_do_is_read_from_its_lists() {
        let full = answer(
            204,
            &[
                ("tus-version", "1.0.0,0.2.2"),
                ("tus-extension", "creation, creation-defer-length,termination,checksum,expiration"),
                ("tus-checksum-algorithm", "md5, sha1,sha256"),
                ("tus-max-size", "1000"),
            ],
        );
        let all = Abilities {
            defer_length: true,
            termination: true,
            checksum: Some(Algorithm::Sha256),
            max_size: Some(1000),
        };
        assert_eq!(abilities(&full), Ok(all));
        let bare = answer(200, &[("tus-version", "1.0.0"), ("tus-extension", "creation")]);
        assert_eq!(abilities(&bare), Ok(Abilities::default()));
    }

    #[test]
    fn a_server_that_is_none_is_told_so() {
        for no in [
            answer(200, &[]),
            answer(200, &[("tus-version", "0.2.2"), ("tus-extension", "creation")]),
            answer(200, &[("tus-version", "1.0.0")]),
        ] {
            assert_eq!(abilities(&no).unwrap_err().kind, Kind::Garbage);
        }
        assert_eq!(abilities(&answer(403, &[])).unwrap_err().kind, Kind::Forbidden);
    }

    #[test]
    fn where_an_upload_is_may_be_said_in_short() {
        let at = |location| created(&endpoint(), &answer(201, &[("location", location)])).map(|uri| uri.to_string());
        assert_eq!(at("/files/7").unwrap(), "https://files.example/files/7");
        assert_eq!(at("https://other.example/7").unwrap(), "https://other.example/7");
        assert_eq!(at("gopher://x").unwrap_err().kind, Kind::Garbage);
        assert_eq!(at("http://files.example/files/7").unwrap_err().kind, Kind::Redirect, "in the clear");
        assert_eq!(created(&endpoint(), &answer(201, &[])).unwrap_err().kind, Kind::Garbage);
        assert_eq!(created(&endpoint(), &answer(413, &[])).unwrap_err().kind, Kind::TooLarge);
    }

    #[test]
    fn offsets_are_numbers_or_garbage() {
        let read = |text| standing(&answer(200, &[("upload-offset", text)])).map(|standing| standing.offset);
        assert_eq!(read("0"), Ok(0));
        assert_eq!(read("18446744073709551615"), Ok(u64::MAX));
        for garbage in ["", "-1", "+1", "1e3", "18446744073709551616", "0x10", "1,2"] {
            assert_eq!(read(garbage).unwrap_err().kind, Kind::Garbage, "{garbage}");
        }
        assert_eq!(patched(&answer(204, &[])).unwrap_err().kind, Kind::Garbage);
        assert_eq!(patched(&answer(404, &[])).unwrap_err().kind, Kind::Forgotten);
        assert_eq!(patched(&answer(460, &[])).unwrap_err().kind, Kind::Checksum);
    }

    #[test]
    fn metadata_is_as_the_protocol_writes_it_and_bounded() {
        let header = metadata([("filename", "a b.csv"), ("size", "12")]);
        assert_eq!(header, "filename YSBiLmNzdg==,size MTI=");
        let long = "x".repeat(3060);
        let header = metadata([("filename", "a"), ("long", long.as_str()), ("more", long.as_str())]);
        assert_eq!(header.to_str().unwrap().split(',').count(), 1);
    }

    proptest! {
        #[test]
        fn no_answer_makes_a_reader_panic(
            status in 100_u16..1000,
            values in proptest::collection::vec(proptest::collection::vec(32_u8..=255, 0..30), 7),
        ) {
            let names = ["upload-offset", "upload-length", "location", "tus-version", "tus-extension", "tus-max-size", "retry-after"];
            let mut headers = HeaderMap::new();
            for (name, value) in names.into_iter().zip(values) {
                if let Ok(value) = HeaderValue::from_bytes(&value) {
                    headers.insert(name, value);
                }
            }
            let answer = Answer { status: StatusCode::from_u16(status).unwrap(), headers, said: String::new(), early: false };
            let _ = (abilities(&answer), created(&endpoint(), &answer), standing(&answer), patched(&answer));
        }
    }
}
