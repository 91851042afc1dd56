//! What each figure may be: `cross/budget.toml`.

use std::{collections::BTreeMap, fmt, path::Path};

use serde::Deserialize;

use super::Figure;

/// All limits, by the figures' names.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct Limits {
    limits: BTreeMap<String, Limit>,
}

/// What one figure may be.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limit {
    /// More than this fails.
    most: f64,
    unit: String,
    /// Where the design asks for less than `most`: what it asks for.
    goal: Option<f64>,
    /// Where the limit comes from; where the goal is missed, what it would take.
    #[serde(rename = "why")]
    _why: String,
}

impl Limits {
    /// Reads the file.
    ///
    /// # Errors
    ///
    /// It cannot be read, or says something that is not a limit.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// A verdict for each limit and each figure: one without the other exceeds, so that neither is forgotten.
    pub(super) fn judge(&self, figures: &[Figure]) -> Vec<Verdict> {
        let mut verdicts: Vec<Verdict> = self
            .limits
            .iter()
            .map(|(name, limit)| Verdict {
                name: name.clone(),
                value: figures.iter().find(|figure| figure.name == *name).map(|figure| figure.value),
                limit: Some(limit.clone()),
            })
            .collect();
        let unlimited = figures.iter().filter(|figure| !self.limits.contains_key(&figure.name));
        verdicts.extend(unlimited.map(|figure| Verdict {
            name: figure.name.clone(),
            value: Some(figure.value),
            limit: None,
        }));
        verdicts
    }
}

/// A figure beside its limit.
#[derive(Debug)]
pub(super) struct Verdict {
    name: String,
    value: Option<f64>,
    limit: Option<Limit>,
}

impl Verdict {
    /// Too much, not measured, or without a limit.
    pub(super) fn exceeds(&self) -> bool {
        match (self.value, &self.limit) {
            (Some(value), Some(limit)) => value.is_nan() || value > limit.most,
            _ => true,
        }
    }

    /// One object, in the words of `bench --json`.
    pub(super) fn json(&self) -> serde_json::Value {
        let limit = self.limit.as_ref();
        serde_json::json!({
            "bench": "budget", "case": self.name, "value": self.value, "unit": limit.map(|limit| &limit.unit),
            "reference": "cross/budget.toml", "reference_value": limit.map(|limit| limit.most),
            "ratio": self.value.zip(limit).map(|(value, limit)| value / limit.most),
            "goal": limit.and_then(|limit| limit.goal), "ok": !self.exceeds(),
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, value, limit } = self;
        let (Some(value), Some(limit)) = (value, limit) else {
            let what = if value.is_none() { "was not measured" } else { "has no limit in the file" };
            return write!(f, "{name:<34} FAILED: {what}");
        };
        let share = 100.0 * value / limit.most;
        write!(f, "{name:<34} {value:>12.2} {:>12.2} {share:>11.0}%  {}", limit.most, limit.unit)?;
        if self.exceeds() {
            write!(f, "   FAILED")?;
        } else if let Some(goal) = limit.goal.filter(|goal| value > goal) {
            write!(f, "   misses its goal of {goal}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(name: &str, value: f64) -> Vec<Verdict> {
        let limits: Limits = toml::from_str("a = { most = 2, unit = \"MiB\", goal = 1, why = \"\" }").unwrap();
        limits.judge(&[Figure { name: name.to_owned(), value }])
    }

    #[test]
    fn excess_and_what_is_missing_fail() {
        assert!(!judged("a", 2.0)[0].exceeds());
        assert!(judged("a", 2.01)[0].exceeds());
        assert!(judged("a", f64::NAN)[0].exceeds());
        let forgotten = judged("b", 1.0);
        assert_eq!(forgotten.len(), 2);
        assert!(forgotten.iter().all(Verdict::exceeds));
    }

    #[test]
    fn a_missed_goal_is_marked() {
        assert!(judged("a", 1.5)[0].to_string().ends_with("misses its goal of 1"));
        assert!(judged("a", 0.5)[0].to_string().ends_with("MiB"));
    }

    #[test]
    fn the_file_can_be_read() {
        Limits::read(&crate::workspace().join("cross/budget.toml")).unwrap();
    }
}
