//! When uploads may go on.

/// Times of the week.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Windows(Vec<String>);

/// Why a list of times is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no window")]
pub struct WindowError(String);

impl Windows {
    /// Reads a list as the configuration holds it; an empty one is always open.
    ///
    /// # Errors
    ///
    /// The first entry that is none.
    pub fn parse(list: &[&str]) -> Result<Self, WindowError> {
        match list.iter().find(|entry| !entry.contains('-')) {
            Some(entry) => Err(WindowError((*entry).to_owned())),
            None => Ok(Self(list.iter().map(|entry| (*entry).to_owned()).collect())),
        }
    }

    /// The list as it was given.
    #[must_use]
    pub fn as_list(&self) -> &[String] {
        &self.0
    }
}
