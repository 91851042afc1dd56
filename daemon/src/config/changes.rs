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

/// What a daemon that `started` with one configuration can run of a `new` one without a restart: the keys that take
/// effect with the next start stay as they were.
#[must_use]
pub fn live(started: &Config, new: &Config) -> Config {
    let mut live = new.clone();
    live.gateway = started.gateway.clone();
    live.spool = started.spool.clone();
    live.traffic.flow_capacity = started.traffic.flow_capacity;
    live.policy.public_keys.clone_from(&started.policy.public_keys);
    live
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        super::{PublicKey, keys::Effect},
        *,
    };

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

    #[test]
    fn what_runs_has_the_live_keys_of_the_new_and_the_others_of_the_started_configuration() {
        let started = Config::defaults("gw-1");
        let mut new = Config::defaults("gw-2");
        new.gateway.groups = vec!["a".to_owned()];
        new.spool.direct = !started.spool.direct;
        new.traffic.flow_capacity = Some(77_777);
        new.policy.public_keys = vec![PublicKey::parse("/etc/policy.pem").unwrap()];
        new.traffic.sample_rate = 7;
        new.host.interval = Duration::from_secs(7);
        let running = live(&started, &new);
        for key in KEYS {
            let expected = if key.effect == Effect::Live { &new } else { &started };
            assert_eq!(key.get(&running), key.get(expected), "{}", key.name);
        }
    }
}
