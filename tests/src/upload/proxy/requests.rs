//! Finding the first HEAD or PATCH among the requests of a connection.
//!
//! Bodies are skipped by their Content-Length; after a request whose body is chunked nothing more is found.

/// Reads requests as they pass.
#[derive(Debug, Default)]
pub(super) struct Requests {
    head: Vec<u8>,
    body_left: u64,
    lost: bool,
}

/// What of the bytes is to be passed on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// All of this.
    Pass(Vec<u8>),
    /// This, before the request that was looked for; the rest is dropped.
    Found(Vec<u8>),
}

/// A longer head is passed on unread.
const LONGEST: usize = 64 << 10;

impl Requests {
    /// Holds back a head until all of it is there.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Seen {
        let mut out = Vec::with_capacity(bytes.len());
        for (index, byte) in bytes.iter().enumerate() {
            if self.lost {
                out.extend_from_slice(&bytes[index..]);
                break;
            }
            if self.body_left > 0 {
                self.body_left -= 1;
                out.push(*byte);
                continue;
            }
            self.head.push(*byte);
            if self.head.ends_with(b"\r\n\r\n") {
                if self.head.starts_with(b"HEAD ") || self.head.starts_with(b"PATCH ") {
                    return Seen::Found(out);
                }
                self.read_framing();
                out.append(&mut self.head);
            } else if self.head.len() > LONGEST {
                self.lost = true;
                out.append(&mut self.head);
            }
        }
        Seen::Pass(out)
    }

    fn read_framing(&mut self) {
        let head = String::from_utf8_lossy(&self.head);
        for (name, value) in head.lines().filter_map(|line| line.split_once(':')) {
            if name.eq_ignore_ascii_case("content-length") {
                self.body_left = value.trim().parse().unwrap_or(0);
            }
            self.lost |= name.eq_ignore_ascii_case("transfer-encoding");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_found_behind_others() {
        let before = "OPTIONS /files HTTP/1.1\r\n\r\nPOST /files HTTP/1.1\r\nContent-Length: 9\r\n\r\nPATCH /\r\n";
        let all = format!("{before}HEAD /files/a HTTP/1.1\r\nHost: a\r\n\r\n");
        for size in [1, 7, 1000] {
            let mut requests = Requests::default();
            let mut passed = Vec::new();
            let mut found = false;
            for chunk in all.as_bytes().chunks(size) {
                assert!(!found);
                match requests.read(chunk) {
                    Seen::Pass(bytes) => passed.extend(bytes),
                    Seen::Found(bytes) => {
                        passed.extend(bytes);
                        found = true;
                    }
                }
            }
            assert!(found);
            assert_eq!(String::from_utf8(passed).unwrap(), before);
        }
    }

    #[test]
    fn what_is_chunked_passes() {
        let mut requests = Requests::default();
        let all = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nHEAD / HTTP/1.1\r\n\r\n";
        assert_eq!(requests.read(all), Seen::Pass(all.to_vec()));
    }
}
