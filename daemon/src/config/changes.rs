//! What differs between two configurations.

use super::{
    Config,
    keys::{KEYS, Key},
};

/// The keys whose values differ, in the order of [`KEYS`]; each says by its `effect` whether the running daemon
/// can take it over.
#[must_use]
pub fn changes(old: &Config, new: &Config) -> Vec<&'static Key> {
    KEYS.iter().filter(|key| key.get(old) != key.get(new)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::keys::Effect, *};

    #[test]
    fn a_change_names_its_keys_and_when_they_take_effect() {
        let old = Config::defaults("gw-1");
        let mut new = old.clone();
        assert!(changes(&old, &new).is_empty());
        new.host.interval = Duration::from_secs(10);
        new.spool.shares.ingest = 50;
        let changed: Vec<_> = changes(&old, &new).into_iter().map(|key| (key.name, key.effect)).collect();
        assert_eq!(changed, [("spool.shares.ingest", Effect::Restart), ("host.interval", Effect::Live)]);
    }
}
