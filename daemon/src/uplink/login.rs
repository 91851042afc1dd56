//! What the broker is shown: certificates, user name and password, read anew for each connection.

use std::{path::Path, sync::Arc};

use rustls::ClientConfig;

use crate::{
    config::Mqtt,
    credentials::{self, CredentialError, Files},
};

/// What proves to the broker who we are, and to us who the broker is.
#[derive(Debug, Default)]
pub(super) struct Login {
    /// For `mqtts`.
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// User name and password.
    pub(super) user: Option<(String, String)>,
}

/// Reads all of it. Blocks on the file system: call it where blocking is allowed.
///
/// # Errors
///
/// See [`CredentialError`].
pub(super) fn read(mqtt: &Mqtt, tls: bool) -> Result<Login, CredentialError> {
    read_with(mqtt, tls, credentials::store().as_deref())
}

/// [`read`], with systemd's credentials from the folder `store`.
fn read_with(mqtt: &Mqtt, tls: bool, store: Option<&Path>) -> Result<Login, CredentialError> {
    let files = Files::of_mqtt(mqtt);
    let user = match &mqtt.user {
        Some(user) => Some((user.clone(), files.secret(store)?.unwrap_or_default())),
        None => None,
    };
    let tls = tls.then(|| files.client_config(store)).transpose()?.map(Arc::new);
    Ok(Login { tls, user })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::Config;

    #[test]
    fn a_password_is_read_where_there_is_a_user_and_is_empty_where_there_is_none() {
        let store = tempfile::tempdir().unwrap();
        let user = |mqtt: &Mqtt| read_with(mqtt, false, Some(store.path())).unwrap().user;
        let without = Config::defaults("gw-7").mqtt;
        let with_user = Mqtt { user: Some("gw".to_owned()), ..without.clone() };
        assert_eq!(user(&with_user), Some(("gw".to_owned(), String::new())));

        fs::write(store.path().join("tidegate.mqtt-password"), "secret\n").unwrap();
        assert_eq!(user(&with_user), Some(("gw".to_owned(), "secret".to_owned())));
        assert_eq!(user(&without), None);
        assert!(read(&with_user, false).unwrap().tls.is_none());
    }
}
