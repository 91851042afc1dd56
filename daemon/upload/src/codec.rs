//! How content is encoded on the way: in frames of [`FRAME_BYTES`] of content, each by itself.
//!
//! What comes out is a valid zstd (RFC 8878, section 3: concatenated frames) or gzip (RFC 1952, section 2.2: members)
//! stream, which `zstd -d` and `gunzip` decode as a whole; and since no frame depends on the one before, sending can go on
//! at any frame, from nothing but the content and the frame's number. A frame is encoded in one call from one buffer, so that
//! the same library makes the same bytes of it again.

use std::{fmt, io};

use flate2::{Compress, Compression as Level, Crc, FlushCompress, Status};
use zstd_safe::{CCtx, CParameter};

use crate::settings::Compression;

/// Content of one frame. It bounds the memory of an upload (three such buffers), what is encoded anew when an
/// upload goes on, and how well compression does: four times as much gives some two percent.
pub const FRAME_BYTES: usize = 256 * 1024;
/// Most that a frame of incompressible content takes: zstd adds 3 bytes a block of 128 KiB, a header and a checksum;
/// deflate 5 bytes a block of at most 31 KiB, gzip's header and trailer.
pub const MOST_ENCODED_BYTES: usize = FRAME_BYTES + 4096;

/// How an upload is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoding {
    /// Which.
    pub coding: Coding,
    /// As the coding counts them; 0 with [`Coding::Identity`].
    pub level: u8,
}

/// Content codings (RFC 9110, section 8.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// As it is.
    Identity,
    /// RFC 8878.
    Zstd,
    /// RFC 1952.
    Gzip,
}

impl Encoding {
    /// As it is.
    pub const IDENTITY: Self = Self { coding: Coding::Identity, level: 0 };

    /// The one that is configured.
    #[must_use]
    pub const fn of(compression: Compression) -> Self {
        match compression {
            Compression::None => Self::IDENTITY,
            Compression::Zstd(level) => Self { coding: Coding::Zstd, level },
            Compression::Gzip(level) => Self { coding: Coding::Gzip, level },
        }
    }

    /// As `Content-Encoding` has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.coding.name()
    }

    /// Whether content goes out as it is.
    #[must_use]
    pub const fn is_identity(self) -> bool {
        matches!(self.coding, Coding::Identity)
    }
}

impl Coding {
    /// As `Content-Encoding` has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }

    /// The coding of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Identity, Self::Zstd, Self::Gzip].into_iter().find(|coding| coding.name() == name)
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Encoder").field(&self.encoding).finish()
    }
}

/// Encodes frames.
pub struct Encoder {
    encoding: Encoding,
    kind: Inner,
}

enum Inner {
    Identity,
    Zstd(CCtx<'static>),
    Gzip(Compress),
}

impl Encoder {
    /// An encoder. Its context takes memory as long as it lives: some 0.5 MiB with zstd's level 1, some 0.3 MiB with gzip.
    ///
    /// # Errors
    ///
    /// No memory, or a level that does not exist.
    pub fn new(encoding: Encoding) -> io::Result<Self> {
        let kind = match encoding.coding {
            Coding::Identity => Inner::Identity,
            Coding::Zstd => {
                let mut zstd = CCtx::try_create().ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
                for parameter in
                    [CParameter::CompressionLevel(i32::from(encoding.level)), CParameter::ChecksumFlag(true)]
                {
                    zstd.set_parameter(parameter).map_err(zstd_error)?;
                }
                Inner::Zstd(zstd)
            }
            Coding::Gzip => Inner::Gzip(Compress::new(Level::new(u32::from(encoding.level)), false)),
        };
        Ok(Self { encoding, kind })
    }

    /// Encodes one frame into `out`, which has room for [`MOST_ENCODED_BYTES`]; how many bytes it took.
    ///
    /// # Errors
    ///
    /// What the library says; a frame that fits [`FRAME_BYTES`] is encoded always.
    pub fn encode(&mut self, content: &[u8], out: &mut [u8]) -> io::Result<usize> {
        match &mut self.kind {
            Inner::Identity => {
                let room = out.get_mut(..content.len()).ok_or(io::ErrorKind::WriteZero)?;
                room.copy_from_slice(content);
                Ok(content.len())
            }
            Inner::Zstd(zstd) => zstd.compress2(out, content).map_err(zstd_error),
            Inner::Gzip(deflate) => member(deflate, content, out),
        }
    }

    /// How it encodes.
    #[must_use]
    pub const fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// What tells this encoder from one that makes other bytes: the library's version and level, and what it makes of a
    /// sample. Not a proof, which the frames' own checksums are.
    ///
    /// # Errors
    ///
    /// As [`Self::encode`].
    pub fn version(&mut self) -> io::Result<u32> {
        let sample: Vec<u8> = (0_u32..1024).flat_map(|n| (n.wrapping_mul(n) >> 3).to_le_bytes()).collect();
        let mut out = vec![0; sample.len() + 4096];
        let length = self.encode(&sample, &mut out)?;
        let made = crc32c::crc32c(&out[..length]);
        let library = if matches!(self.kind, Inner::Zstd(_)) { zstd_safe::version_number() } else { 0 };
        Ok(crc32c::crc32c_append(made, &[&library.to_le_bytes()[..], &[self.encoding.level]].concat()))
    }
}

fn zstd_error(code: usize) -> io::Error {
    io::Error::other(zstd_safe::get_error_name(code))
}

/// Writes one member of a gzip file (RFC 1952, section 2.3), without name and time: the same content, the same bytes.
fn member(deflate: &mut Compress, content: &[u8], out: &mut [u8]) -> io::Result<usize> {
    /// ID1, ID2, CM = deflate, no flags, no time, XFL, OS = unknown.
    const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    const TRAILER: usize = 8;
    deflate.reset();
    let (header, rest) = out.split_at_mut_checked(HEADER.len()).ok_or(io::ErrorKind::WriteZero)?;
    header.copy_from_slice(&HEADER);
    let status = deflate.compress(content, rest, FlushCompress::Finish).map_err(io::Error::other)?;
    let length = usize::try_from(deflate.total_out()).map_err(io::Error::other)?;
    let trailer = rest.get_mut(length..length + TRAILER);
    let (Status::StreamEnd, Some(trailer)) = (status, trailer) else { return Err(io::ErrorKind::WriteZero.into()) };
    let mut crc = Crc::new();
    crc.update(content);
    trailer[..4].copy_from_slice(&crc.sum().to_le_bytes());
    trailer[4..].copy_from_slice(&crc.amount().to_le_bytes());
    Ok(HEADER.len() + length + TRAILER)
}

/// Whether compressing pays: content of which more than this many parts in 16 remain is sent as it is, which costs the
/// gateway and the receiver nothing.
const WORTH_IT: u64 = 15;

/// Whether samples that took `encoded` bytes instead of `content` are worth to be compressed.
#[must_use]
pub const fn shrinks(content: u64, encoded: u64) -> bool {
    encoded < content / 16 * WORTH_IT
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use proptest::prelude::*;

    use super::*;

    const ALL: [Encoding; 4] = [
        Encoding::IDENTITY,
        Encoding { coding: Coding::Zstd, level: 1 },
        Encoding { coding: Coding::Zstd, level: 3 },
        Encoding { coding: Coding::Gzip, level: 1 },
    ];

    fn encoded(encoder: &mut Encoder, content: &[u8]) -> Vec<u8> {
        let mut out = vec![0; MOST_ENCODED_BYTES];
        let length = encoder.encode(content, &mut out).unwrap();
        out.truncate(length);
        out
    }

    fn decoded(coding: Coding, stream: &[u8]) -> Vec<u8> {
        let mut content = Vec::new();
        match coding {
            Coding::Identity => content.extend_from_slice(stream),
            Coding::Gzip => {
                flate2::read::MultiGzDecoder::new(stream).read_to_end(&mut content).unwrap();
            }
            Coding::Zstd => {
                let mut rest = stream;
                while !rest.is_empty() {
                    let length = zstd_safe::find_frame_compressed_size(rest).unwrap();
                    let mut frame = Vec::with_capacity(FRAME_BYTES);
                    zstd_safe::decompress(&mut frame, &rest[..length]).unwrap();
                    content.append(&mut frame);
                    rest = &rest[length..];
                }
            }
        }
        content
    }

    #[test]
    fn frames_of_random_content_fit_and_come_back() {
        let mut random = fastrand::Rng::with_seed(7);
        let content: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(FRAME_BYTES).collect();
        for encoding in ALL {
            let mut encoder = Encoder::new(encoding).unwrap();
            let out = encoded(&mut encoder, &content);
            assert!(!shrinks(content.len() as u64, out.len() as u64), "{encoding:?}");
            assert_eq!(decoded(encoding.coding, &out), content, "{encoding:?}");
        }
    }

    #[test]
    fn text_shrinks() {
        let content = "temperature=21.5;humidity=40;door=closed\n".repeat(1000).into_bytes();
        for encoding in &ALL[1..] {
            let out = encoded(&mut Encoder::new(*encoding).unwrap(), &content);
            assert!(
                shrinks(content.len() as u64, out.len() as u64),
                "{encoding:?}: {} of {}",
                out.len(),
                content.len()
            );
        }
    }

    #[test]
    fn levels_and_codings_have_versions_of_their_own() {
        let mut versions: Vec<u32> = ALL.map(|encoding| Encoder::new(encoding).unwrap().version().unwrap()).to_vec();
        versions.sort_unstable();
        versions.dedup();
        assert_eq!(versions.len(), ALL.len());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn concatenated_frames_decode_to_the_content_and_are_the_same_each_time(
            frames in proptest::collection::vec(proptest::collection::vec(0_u8..8, 0..5000), 1..5),
        ) {
            for encoding in ALL {
                let mut encoder = Encoder::new(encoding).unwrap();
                let first: Vec<Vec<u8>> = frames.iter().map(|frame| encoded(&mut encoder, frame)).collect();
                let mut another = Encoder::new(encoding).unwrap();
                for (frame, before) in frames.iter().zip(&first).rev() {
                    prop_assert_eq!(&encoded(&mut another, frame), before);
                }
                prop_assert_eq!(decoded(encoding.coding, &first.concat()), frames.concat());
            }
        }
    }
}
