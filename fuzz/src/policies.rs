//! Policies: what somebody signed or did not, and what it says.

use tidegate::policy::{
    bundle::{MAX_PREFIXES, MAX_RULES},
    diff::diff,
    envelope::{self, Signer},
    keys::Keyring,
    read, show,
};

/// An envelope; the key that counts is that of the seed of sevens.
pub(crate) fn envelope(bytes: &[u8]) {
    let ours = Signer::from_seed(&[7; 32]);
    let mut keys = Keyring::default();
    keys.add(ours.key);
    match envelope::open(bytes, &keys, None) {
        Ok(opened) => {
            assert_eq!(opened.key, ours.key);
            assert_eq!(
                envelope::look_into(bytes).as_deref(),
                Ok(opened.payload()),
                "both readers see the same payload"
            );
        }
        Err(refused) => super::is_fit_to_be_told(&refused.to_string()),
    }
    // Whatever is signed is opened, and nothing else comes out.
    let signed = envelope::sign(bytes, &[ours]);
    let opened = envelope::open(signed.as_bytes(), &keys, None).expect("it was signed by a key that counts");
    assert_eq!(opened.payload(), bytes);
}

/// A bundle.
pub(crate) fn bundle(bytes: &[u8]) {
    match read(bytes) {
        Ok(bundle) => {
            assert!(bundle.rules.len() <= MAX_RULES && bundle.prefix_count() <= MAX_PREFIXES);
            let shown = show::bundle(&bundle).to_string();
            let again = read(shown.as_bytes()).expect("what is shown can be signed");
            assert_eq!(again, bundle);
            assert!(diff(&bundle, &again).is_empty());
        }
        Err(refused) => super::is_fit_to_be_told(&refused.to_string()),
    }
}
