//! The gateway's default id, derived from the machine id.
//!
//! machine-id(5) asks that the id itself never leaves the machine and that programs derive one of their own
//! by a keyed hash. This one is what `systemd-id128 machine-id --app-specific=APPLICATION` prints: HMAC-SHA256
//! keyed with the machine id, of the application's id (`sd_id128_get_machine_app_specific(3)`). 48 bits of it
//! make two of 100,000 gateways share an id with a probability of 2 in 100,000; a fleet that cannot live with
//! that sets `[gateway] id`.

use std::{fmt::Write as _, fs, path::Path};

use ring::hmac;

use super::error::Problem;

/// Identifies tidegate to the derivation: 9c1f0f52-6c0c-4d0e-8f5c-3f1d3a9e7b24.
const APPLICATION: [u8; 16] =
    [0x9c, 0x1f, 0x0f, 0x52, 0x6c, 0x0c, 0x4d, 0x0e, 0x8f, 0x5c, 0x3f, 0x1d, 0x3a, 0x9e, 0x7b, 0x24];

/// `tg-` and 12 hexadecimal digits.
///
/// # Errors
///
/// [`Problem::NoMachineId`] where the file is absent, empty or `uninitialized` (an image's first boot).
pub(super) fn derived_id(machine_id_file: &Path) -> Result<String, Problem> {
    let missing = |found: String| Problem::NoMachineId { path: machine_id_file.display().to_string(), found };
    let text = fs::read_to_string(machine_id_file).map_err(|error| missing(error.to_string()))?;
    let machine_id = parse(text.trim()).ok_or_else(|| {
        missing(if text.trim().is_empty() {
            "it is empty".into()
        } else {
            "it does not hold 32 hexadecimal digits".into()
        })
    })?;
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &machine_id), &APPLICATION);
    let mut id = String::from("tg-");
    // The bits that systemd overwrites to make a UUID of version 4 come behind these six bytes.
    for byte in &tag.as_ref()[..6] {
        let _infallible = write!(id, "{byte:02x}");
    }
    Ok(id)
}

fn parse(text: &str) -> Option<[u8; 16]> {
    let mut id = [0; 16];
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (index, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    (id != [0; 16]).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derive(content: &str) -> Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("machine-id");
        fs::write(&file, content).unwrap();
        derived_id(&file).map_err(|problem| problem.to_string())
    }

    #[test]
    fn the_id_is_the_one_that_systemd_derives() {
        // As `systemd-id128 machine-id --app-specific=9c1f0f526c0c4d0e8f5c3f1d3a9e7b24` prints on a machine of this id.
        assert_eq!(derive("000102030405060708090a0b0c0d0e0f\n").as_deref(), Ok("tg-20fbf60875a1"));
    }

    #[test]
    fn a_machine_without_an_id_is_told_what_to_set() {
        for content in ["", "uninitialized\n", "3d1219c7", "00000000000000000000000000000000"] {
            let message = derive(content).unwrap_err();
            assert!(message.contains("set [gateway] id"), "{message}");
        }
    }
}
