//! What a document becomes: a layer of the configuration, and the PEM files that it names.

use std::path::Path;

use serde_json::{Value, json};

use super::Document;

const LAYER: &str = "tidegate.toml";
const CA: &str = "ca.pem";
const CERT: &str = "cert.pem";
const KEY: &str = "key.pem";

const HEADER: &str = "\
# Taken in from a provision.toml; the next one replaces all of it.
# To change a key on this gateway, set it in /etc/tidegate/tidegate.toml, which wins.
";

/// The files that stand in `folder`, by name.
pub(super) fn files(document: &Document, folder: &Path) -> Vec<(&'static str, String)> {
    let path = |name: &str| json!(folder.join(name).to_string_lossy());
    let mut files = Vec::new();
    let mut mqtt = vec![("url", json!(document.url))];
    if let Some(ca) = &document.ca {
        mqtt.push(("ca", path(CA)));
        files.push((CA, ca.0.clone()));
    }
    if let Some((cert, key)) = &document.identity {
        mqtt.extend([("cert", path(CERT)), ("key", path(KEY))]);
        files.extend([(CERT, cert.0.clone()), (KEY, key.0.clone())]);
    }
    let mut gateway = Vec::new();
    gateway.extend(document.gateway_id.as_ref().map(|id| ("id", json!(id))));
    gateway.extend((!document.groups.is_empty()).then(|| ("groups", json!(document.groups))));
    let keys: Vec<String> = document.policy_keys.iter().map(ToString::to_string).collect();
    let policy = Vec::from_iter((!keys.is_empty()).then(|| ("public_keys", json!(keys))));

    let sections = [section("gateway", &gateway), section("mqtt", &mqtt), section("policy", &policy)];
    files.push((LAYER, HEADER.to_owned() + &sections.concat()));
    files
}

/// Texts and lists of them have the same notation in JSON and in TOML.
fn section(name: &str, keys: &[(&str, Value)]) -> String {
    if keys.is_empty() {
        return String::new();
    }
    let mut text = format!("\n[{name}]\n");
    for (key, value) in keys {
        text.push_str(&format!("{key} = {value}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::samples::{CERT as CERT_PEM, KEY as KEY_PEM, POLICY_KEY_LITERAL};

    fn files_of(text: &str) -> Vec<(&'static str, String)> {
        let document = Document::read(text.as_bytes(), &mut |name| Err(name.to_owned())).unwrap();
        files(&document, Path::new("/var/lib/tidegate/provisioned"))
    }

    #[test]
    fn a_document_becomes_a_layer_and_its_files() {
        let text = format!(
            "url = \"mqtts://b:8884\"\ncert = '''{CERT_PEM}'''\nkey = '''{KEY_PEM}'''\ngateway_id = \"gw-7\"\n\
             groups = [\"plant\", \"north\"]\npolicy_keys = [\"{POLICY_KEY_LITERAL}\"]"
        );
        let files = files_of(&text);
        assert_eq!(files[..2], [("cert.pem", CERT_PEM.to_owned()), ("key.pem", KEY_PEM.to_owned())]);
        let wanted = format!(
            "{HEADER}\n[gateway]\nid = \"gw-7\"\ngroups = [\"plant\",\"north\"]\n\n[mqtt]\nurl = \"mqtts://b:8884\"\n\
             cert = \"/var/lib/tidegate/provisioned/cert.pem\"\nkey = \"/var/lib/tidegate/provisioned/key.pem\"\n\n\
             [policy]\npublic_keys = [\"{POLICY_KEY_LITERAL}\"]\n"
        );
        assert_eq!(files[2], ("tidegate.toml", wanted));
    }

    #[test]
    fn what_was_not_given_is_not_set() {
        assert_eq!(
            files_of("url = \"mqtt://b\""),
            [("tidegate.toml", format!("{HEADER}\n[mqtt]\nurl = \"mqtt://b\"\n"))]
        );
    }
}
