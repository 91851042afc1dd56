//! Changing `Upload-Offset` in answers as they pass.
//!
//! Answers are read by lines, without their framing: those of a tus server have bodies of a line or none.

/// Passes bytes on with another offset.
#[derive(Debug)]
pub(super) struct Liar {
    delta: i64,
    /// The begin of a line that may be one to change.
    held: Vec<u8>,
    /// Whether bytes belong to a line that is none.
    passes: bool,
}

const HEADER: &[u8] = b"upload-offset:";
/// A line to change is no longer.
const LONGEST: usize = 64;

impl Liar {
    pub(super) const fn new(delta: i64) -> Self {
        Self { delta, held: Vec::new(), passes: false }
    }

    /// What is to be passed on now, and whether it holds a lie.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(bytes.len());
        let mut lied = false;
        for byte in bytes {
            if self.passes {
                out.push(*byte);
            } else {
                self.held.push(*byte);
                let known = self.held.len().min(HEADER.len());
                let may_be_one = self.held[..known].eq_ignore_ascii_case(&HEADER[..known]);
                if *byte == b'\n' && may_be_one && known == HEADER.len() {
                    match self.changed() {
                        Some(line) => {
                            lied = true;
                            out.extend_from_slice(&line);
                        }
                        None => out.extend_from_slice(&self.held),
                    }
                    self.held.clear();
                } else if !may_be_one || self.held.len() > LONGEST {
                    out.append(&mut self.held);
                    self.passes = true;
                }
            }
            if *byte == b'\n' {
                self.passes = false;
            }
        }
        (out, lied)
    }

    /// What was held back as the connection ends.
    pub(super) fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    fn changed(&self) -> Option<Vec<u8>> {
        let line = std::str::from_utf8(&self.held).ok()?;
        let (name, value) = line.split_once(':')?;
        let offset: u64 = value.trim().parse().ok()?;
        Some(format!("{name}: {}\r\n", offset.saturating_add_signed(self.delta)).into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_changed_wherever_reads_end() {
        let answer = b"HTTP/1.1 204 No Content\r\nUpload-Expires: x\r\nupload-offset: 1000\r\n\r\n\
                       HTTP/1.1 200 OK\r\nUPLOAD-OFFSET:7\r\nX: upload-offset: 5\r\n\r\nupload";
        let lie = "HTTP/1.1 204 No Content\r\nUpload-Expires: x\r\nupload-offset: 990\r\n\r\n\
                   HTTP/1.1 200 OK\r\nUPLOAD-OFFSET: 0\r\nX: upload-offset: 5\r\n\r\nupload";
        for size in [1, 3, 20, 1000] {
            let mut liar = Liar::new(-10);
            let mut out = Vec::new();
            let mut count = 0;
            for chunk in answer.chunks(size) {
                let (passed, lied) = liar.pass(chunk);
                count += u32::from(lied);
                out.extend(passed);
            }
            out.extend(liar.rest());
            assert_eq!(String::from_utf8(out).unwrap(), lie, "{size} at a time");
            assert!(count >= 1);
        }
    }
}
