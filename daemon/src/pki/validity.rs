//! When a certificate expires.
//!
//! The one field that is wanted stands early in a certificate, behind four others (RFC 5280, section 4.1):
//!
//! ```text
//! Certificate SEQUENCE { TBSCertificate SEQUENCE {
//!     version [0] OPTIONAL, serialNumber INTEGER, signature SEQUENCE, issuer SEQUENCE,
//!     validity SEQUENCE { notBefore Time, notAfter Time }, … } … }
//! ```
//!
//! So this steps over four elements of DER, instead of taking in a library for all of X.509 (x509-cert, with der, spki
//! and const-oid) on a small binary; rustls' own verifier keeps the date to itself. A certificate that is read here need
//! not be valid: it is judged where it is used.

use rustls::pki_types::CertificateDer;
use tidegate_values::calendar::days_since_1970;

// Tags of DER (X.690, section 8.1.2).
const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const EXPLICIT_0: u8 = 0xa0;

/// The last moment of its validity, in milliseconds since 1970; `None` where it is no certificate, or before 1970.
#[must_use]
pub fn not_after_ms(certificate: &CertificateDer<'_>) -> Option<u64> {
    let mut certificate = Elements(certificate).take(SEQUENCE)?;
    let mut signed = certificate.take(SEQUENCE)?;
    if signed.tag() == Some(EXPLICIT_0) {
        signed.take(EXPLICIT_0)?;
    }
    signed.take(INTEGER)?;
    signed.take(SEQUENCE)?;
    signed.take(SEQUENCE)?;
    let mut validity = signed.take(SEQUENCE)?;
    let _not_before = validity.take(validity.tag()?)?;
    let tag = validity.tag()?;
    milliseconds(tag, validity.take(tag)?.0)
}

/// Elements of DER, one behind the other.
#[derive(Clone, Copy)]
struct Elements<'a>(&'a [u8]);

impl Elements<'_> {
    /// The tag of the first.
    fn tag(self) -> Option<u8> {
        self.0.first().copied()
    }

    /// Steps over the first, which must have this tag, and returns what is in it.
    fn take(&mut self, tag: u8) -> Option<Self> {
        let (&found, rest) = self.0.split_first()?;
        let (&length, rest) = rest.split_first()?;
        let (length, rest) = match length {
            0..=0x7f => (usize::from(length), rest),
            // The length in one to four bytes that follow.
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (contents, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        (found == tag).then_some(Self(contents))
    }
}

/// `YYMMDDhhmmssZ` of 1950 to 2049, or `YYYYMMDDhhmmssZ` (RFC 5280, section 4.1.2.5: always with seconds, always UTC).
fn milliseconds(tag: u8, text: &[u8]) -> Option<u64> {
    let digits = text.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |digits: &[u8]| digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    let (year, rest) = match (tag, digits.len()) {
        (UTC_TIME, 12) => {
            let year = number(&digits[..2]);
            (year + if year < 50 { 2000 } else { 1900 }, &digits[2..])
        }
        (GENERALIZED_TIME, 14) => (number(&digits[..4]), &digits[4..]),
        _ => return None,
    };
    let part = |index: usize| number(&rest[index * 2..index * 2 + 2]);
    let (month, day, hour, minute, second) = (part(0), part(1), part(2), part(3), part(4));
    let valid = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    let days = valid.then(|| days_since_1970(year, month, day)).flatten()?;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use proptest::prelude::*;

    use super::*;
    use crate::pki::{certificates, samples};

    #[test]
    fn the_last_moment_of_a_certificate_is_the_one_that_openssl_shows() {
        // `openssl x509 -noout -enddate` says: Jan  1 00:00:00 2049 GMT, and May  6 07:08:09 2051 GMT.
        let not_after = |pem: &str| not_after_ms(&certificates(pem.as_bytes()).unwrap()[0]);
        assert_eq!(not_after(samples::CERT), Some(2_493_072_000_000), "as UTCTime");
        assert_eq!(not_after(samples::CA), Some(2_566_969_689_000), "as GeneralizedTime");
    }

    #[test]
    fn times_that_are_none_are_refused() {
        for (tag, text) in [
            (UTC_TIME, "490101000000"),
            (UTC_TIME, "20490101000000Z"),
            (UTC_TIME, "491301000000Z"),
            (UTC_TIME, "490100000000Z"),
            (UTC_TIME, "490101240000Z"),
            (UTC_TIME, "4901010000+1Z"),
            (GENERALIZED_TIME, "490101000000Z"),
            (GENERALIZED_TIME, "00000101000000Z"),
            (GENERALIZED_TIME, "19691231235959Z"),
            (INTEGER, "490101000000Z"),
        ] {
            assert_eq!(milliseconds(tag, text.as_bytes()), None, "{tag:#x} {text}");
        }
        assert_eq!(milliseconds(GENERALIZED_TIME, b"19700101000000Z"), Some(0));
        assert_eq!(milliseconds(GENERALIZED_TIME, b"99991231235959Z"), Some(253_402_300_799_000), "RFC 5280: no end");
    }

    proptest! {
        #[test]
        fn days_follow_each_other(days in 0_u64..3_000_000) {
            // Counted by hand from a year's length, month by month.
            let (mut year, mut left) = (1970, days);
            let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
            while left >= if leap(year) { 366 } else { 365 } {
                left -= if leap(year) { 366 } else { 365 };
                year += 1;
            }
            let mut month = 1;
            for length in [31, if leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
                if left < length {
                    break;
                }
                left -= length;
                month += 1;
            }
            prop_assert_eq!(days_since_1970(year, month, left + 1), Some(days));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _any = not_after_ms(&CertificateDer::from(bytes));
        }

        #[test]
        fn a_certificate_that_is_damaged_or_cut_is_read_or_refused(at in 0_usize..600, byte: u8, cut in 0_usize..600) {
            let mut der = certificates(samples::CERT.as_bytes()).unwrap()[0].to_vec();
            let length = der.len();
            der[at % length] = byte;
            der.truncate(cut.max(1));
            if let Some(ms) = not_after_ms(&CertificateDer::from(der)) {
                prop_assert!(SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(ms)).is_some());
            }
        }
    }
}
