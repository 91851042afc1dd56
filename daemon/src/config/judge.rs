//! Judges values that become a layer later, by the same table as the layers.

use config::{Value, ValueKind};

use super::{
    Config,
    keys::{self, Refused},
};

/// Takes over a value where its key accepts it.
///
/// # Errors
///
/// What is accepted, and the reason where that does not make it plain; `config` is as it was.
///
/// # Panics
///
/// Where there is no such key.
pub fn judge(config: &mut Config, name: &str, value: impl Into<ValueKind>) -> Result<(), String> {
    let key = keys::find(name).expect("a key of the table");
    (key.set)(config, &Value::new(None, value)).map_err(|Refused(reason)| match reason {
        Some(reason) => format!("accepted is {} ({reason})", key.accepted),
        None => format!("accepted is {}", key.accepted),
    })
}
