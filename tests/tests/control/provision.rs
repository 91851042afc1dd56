//! One file tells a new gateway who it is and where its broker is; a bad one tells nobody anything, and says why.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use serde_json::Value;
use tidegate_tests::{
    Broker, Daemon, Mounts, Scratch, Subscriber, eventually, mqtt::Pki, need, requires, schema::Schemas, skip,
};

use crate::SOON;

/// A broker that knows gateways by their certificates, and the port at which the test listens without one.
fn broker_of(pki: &Pki) -> (Broker, u16) {
    let free = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr()).expect("a free port");
    let broker = Broker::builder()
        .tls(pki, true)
        .line("use_identity_as_username true")
        .line(&format!("listener {} 127.0.0.1", free.port()))
        .start();
    (broker, free.port())
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A whole file for gateway `id`, with all PEM inside.
fn document(pki: &Pki, broker: &Broker, id: &str) -> String {
    let identity = pki.client(id);
    format!(
        "url = \"{}\"\ngateway_id = \"{id}\"\ngroups = [\"plant\"]\nca = '''\n{}'''\ncert = '''\n{}'''\nkey = '''\n{}'''\n",
        broker.url(),
        text(pki.ca()),
        text(&identity.cert),
        text(&identity.key),
    )
}

/// Puts a file beside the daemon's configuration, as an administrator puts it into `/etc/tidegate`.
fn put(daemon: &Daemon, content: impl AsRef<[u8]>) -> PathBuf {
    let file = daemon.config_file().with_file_name("provision.toml");
    fs::write(&file, content).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    file
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode() & 0o777
}

fn restart(daemon: &mut Daemon) {
    let (status, _) = daemon.stop(Duration::from_secs(5));
    assert!(status.success(), "{status}");
    daemon.start_again();
}

#[test]
fn a_new_gateway_is_provisioned_by_one_file() {
    requires!(need::program("mosquitto"), need::program("openssl"));
    let pki = Pki::new();
    let (broker, port) = broker_of(&pki);
    let subscriber = Subscriber::start(port, "tidegate/v1/gw-7/#");
    let mut daemon = Daemon::builder().nameless().start();
    assert_eq!(daemon.status()["uplink"]["state"], "not-provisioned");

    let content = document(&pki, &broker, "gw-7");
    let file = put(&daemon, &content);
    restart(&mut daemon);
    daemon.until_connected();
    assert_eq!(daemon.status()["gateway"], "gw-7");
    assert!(!file.exists(), "it holds a key");
    subscriber.wait_for("it is online by that name", SOON, |message| {
        message.topic == "tidegate/v1/gw-7/status" && message.json()["state"] == "online"
    });
    subscriber.wait_for("it says what was taken in", SOON, |message| {
        message.topic == "tidegate/v1/gw-7/event/config" && {
            let data = &message.json()["data"];
            data["what"] == "provisioned" && data["gateway_id"] == "gw-7" && data["url"] == broker.url().as_str()
        }
    });
    let folder = daemon.state().join("provisioned");
    assert_eq!((mode(&folder), mode(&folder.join("key.pem"))), (0o700, 0o600));
    eventually(SOON, "what was reported is forgotten", || !folder.join("notice.json").exists());

    // The same again changes nothing, and is removed.
    put(&daemon, &content);
    restart(&mut daemon);
    daemon.until_connected();
    assert!(!file.exists());
    Schemas::load().assert_valid("gw-7", &subscriber.messages());
    let told = subscriber.messages().into_iter().filter(|message| message.topic.ends_with("event/config"));
    assert_eq!(told.count(), 1, "once");
    let secret = content.lines().skip_while(|line| !line.contains("PRIVATE KEY")).nth(1).expect("a key");
    assert!(!daemon.log().iter().any(|line| line.contains(secret)), "the key is in the log");
    let published = subscriber.messages();
    assert!(!published.iter().any(|message| String::from_utf8_lossy(&message.payload).contains(secret)));
}

#[test]
fn a_bad_file_is_renamed_with_the_reason_and_changes_nothing() {
    requires!(need::program("mosquitto"), need::program("openssl"));
    let pki = Pki::new();
    let (broker, port) = broker_of(&pki);
    let subscriber = Subscriber::start(port, "tidegate/v1/gw-7/#");
    let mut daemon = Daemon::builder().nameless().start();
    let (good, other) = (document(&pki, &broker, "gw-7"), pki.client("gw-8"));
    let of_another = good.replacen(&text(&pki.client("gw-7").cert), "", 1);
    assert_eq!(of_another, good, "each certificate is its own");
    let bad: [(Vec<u8>, &str); 7] = [
        (b"".into(), "url: it is missing"),
        (b"url = \"mqtts://broker".into(), "it is not TOML"),
        (b"url = \"mqtts://\xff\"".into(), "it is not UTF-8 text"),
        (good.replace("gateway_id", "id").into(), "id: there is no such member"),
        (good.replace("mqtts://", "mqtt://").into(), "url: the connection is not encrypted"),
        (good.replace("gw-7", "gw 7").into(), "gateway_id: accepted is 1 to 64"),
        (
            format!("url = \"mqtts://b\"\ncert = '''{}'''\nkey = '''{}'''", text(pki.ca()), text(&other.key)).into(),
            "cert: the certificate is not of this key",
        ),
    ];
    for (content, reason) in &bad {
        let file = put(&daemon, content);
        restart(&mut daemon);
        assert_eq!(daemon.status()["uplink"]["state"], "not-provisioned", "{reason}");
        assert!(!file.exists(), "{reason}");
        let refused = daemon.config_file().with_file_name("provision.toml.refused");
        let kept = fs::read(&refused).unwrap();
        assert!(kept.ends_with(content), "its content stays");
        let told = String::from_utf8_lossy(&kept).into_owned();
        assert!(
            told.lines().any(|line| line.starts_with("# tidegate: ") && line.contains(reason)),
            "{reason} in\n{told}"
        );
        assert_eq!(mode(&refused), 0o600);
        assert!(!daemon.state().join("provisioned").exists());
    }

    // Mended and named as before, it is taken in, whatever comments are on top.
    let refused = daemon.config_file().with_file_name("provision.toml.refused");
    fs::write(&refused, format!("# tidegate: a reason\n{good}")).unwrap();
    fs::rename(&refused, daemon.config_file().with_file_name("provision.toml")).unwrap();
    restart(&mut daemon);
    daemon.until_connected();
    eventually(SOON, "all that was refused is reported", || {
        let told: Vec<Value> = subscriber.messages().iter().map(|message| message.json()["data"].clone()).collect();
        let refused = told.iter().filter(|data| data["what"] == "provisioning-refused").count();
        if refused == bad.len() { Ok(()) } else { Err(format!("{refused}")) }
    });
    Schemas::load().assert_valid("gw-7", &subscriber.messages());
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Files of a gateway, as somebody copies them onto a boot partition.
fn copy_to(folder: &Path, pki: &Pki, id: &str, url: &str) -> PathBuf {
    let identity = pki.client(id);
    fs::copy(pki.ca(), folder.join("ca.pem")).unwrap();
    fs::copy(identity.cert, folder.join("gw.pem")).unwrap();
    fs::copy(identity.key, folder.join("gw.key")).unwrap();
    let file = folder.join("provision.toml");
    let content =
        format!("url = \"{url}\"\nca = \"ca.pem\"\ncert = \"gw.pem\"\nkey = \"gw.key\"\ngateway_id = \"{id}\"\n");
    fs::write(&file, content).unwrap();
    file
}

/// Names of what is in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

#[test]
fn files_on_a_boot_partition_are_taken_in_and_another_file_replaces_the_whole() {
    requires!(need::program("openssl"));
    let (pki, boot) = (Pki::new(), Scratch::new("boot"));
    let daemon = Daemon::builder().nameless().prepare();
    let provision = |file: &Path| daemon.command(&["provision", "--json"]).arg(file).output().unwrap();
    let file = copy_to(boot.path(), &pki, "gw-7", "mqtts://one.example");
    let output = provision(&file);
    assert!(output.status.success(), "{}", said(&output));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&json["files"][0]["outcome"], &json["files"][0]["gateway_id"]),
        (&"provisioned".into(), &"gw-7".into())
    );
    assert_eq!(names(boot.path()), ["ca.pem", "gw.pem"], "what is secret is gone");
    let folder = daemon.state().join("provisioned");
    assert_eq!(names(&folder), ["ca.pem", "cert.pem", "key.pem", "notice.json", "taken-in.json", "tidegate.toml"]);
    assert_eq!(text(&folder.join("ca.pem")), text(pki.ca()));

    fs::write(&file, "url = \"mqtt://two.example\"\n").unwrap();
    assert!(provision(&file).status.success());
    assert_eq!(names(&folder), ["notice.json", "taken-in.json", "tidegate.toml"], "nothing of the first is left");
    assert_eq!(names(daemon.state()), ["provisioned"]);
    let output = daemon.command(&["check-config", "--json", "--config"]).arg(daemon.config_file()).output().unwrap();
    let keys: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(keys["keys"]["mqtt.url"]["value"], "mqtt://two.example:1883");
    assert_eq!(keys["keys"]["mqtt.cert"]["value"], "");

    let output = provision(&file);
    assert_eq!(output.status.code(), Some(1), "a file that was named and is absent: {}", said(&output));
    let nothing = daemon.command(&["provision", "--config"]).arg(daemon.config_file()).output().unwrap();
    assert!(nothing.status.success() && said(&nothing).starts_with("nothing to take in"), "{}", said(&nothing));
}

#[test]
fn a_file_on_a_read_only_medium_is_taken_in_once() {
    requires!(need::root(), need::program("openssl"));
    let (pki, boot) = (Pki::new(), Scratch::new("boot"));
    let daemon = Daemon::builder().nameless().prepare();
    let mount = |arguments: &[&str]| {
        let status =
            Command::new("mount").args(arguments).arg(boot.path()).status().map_err(|error| error.to_string())?;
        if status.success() { Ok(()) } else { Err(format!("mount {arguments:?}: {status}")) }
    };
    let writable = |writable: bool| mount(&["-o", if writable { "remount,rw" } else { "remount,ro" }]).unwrap();
    let mounts = match Mounts::new(|| mount(&["-t", "tmpfs", "tmpfs"])) {
        Ok(mounts) => mounts,
        Err(why) => skip!("{why}"),
    };
    let outcome = |file: &Path| {
        let output = daemon.command(&["provision", "--json"]).arg(file).output().unwrap();
        let json: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
        json["files"][0].clone()
    };
    let url = || {
        text(&daemon.state().join("provisioned/tidegate.toml"))
            .lines()
            .find(|l| l.starts_with("url"))
            .unwrap()
            .to_owned()
    };
    mounts.enter(|| {
        let file = copy_to(boot.path(), &pki, "gw-7", "mqtts://one.example");
        writable(false);
        let first = outcome(&file);
        assert_eq!(first["outcome"], "provisioned");
        assert!(first["remains"].as_str().is_some_and(|why| why.contains("ead-only")), "{first}");
        assert_eq!(outcome(&file)["outcome"], "known");

        // Another one from elsewhere, and the medium's does not come back with the next start.
        let elsewhere = daemon.scratch().write("provision.toml", "url = \"mqtts://two.example\"\n");
        assert_eq!(outcome(&elsewhere)["outcome"], "provisioned");
        assert_eq!(outcome(&file)["outcome"], "known");
        assert_eq!(url(), "url = \"mqtts://two.example\"");

        // Where the medium can be written again, the key goes.
        writable(true);
        assert_eq!((&outcome(&file)["outcome"], file.exists()), (&"known".into(), false));
        assert_eq!(names(boot.path()), ["ca.pem", "gw.pem"]);

        // The same for one that is refused.
        fs::write(&file, "url = 7").unwrap();
        writable(false);
        assert_eq!(outcome(&file)["outcome"], "refused");
        assert_eq!(outcome(&file)["outcome"], "known");
        writable(true);
        assert_eq!(outcome(&file)["outcome"], "refused");
        assert_eq!(names(boot.path()), ["ca.pem", "gw.pem", "provision.toml.refused"]);
        assert_eq!(url(), "url = \"mqtts://two.example\"");
    });
}

#[test]
fn what_is_provisioned_belongs_to_the_owner_of_the_state_however_it_was_prepared() {
    requires!(need::root(), need::program("openssl"));
    let (pki, boot) = (Pki::new(), Scratch::new("boot"));
    let daemon = Daemon::builder().nameless().unprivileged().prepare();
    let victim = boot.path().join("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("precious"), "").unwrap();
    // A daemon that was taken over puts a link where root is about to write.
    std::os::unix::fs::symlink(&victim, daemon.state().join("provisioned.new")).unwrap();
    let file = copy_to(boot.path(), &pki, "gw-7", "mqtts://one.example");
    let output = daemon.command(&["provision"]).arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(names(&victim), ["precious"]);
    let owner = |path: &Path| std::os::unix::fs::MetadataExt::uid(&fs::metadata(path).unwrap());
    let folder = daemon.state().join("provisioned");
    for name in names(&folder) {
        assert_eq!((owner(&folder.join(&name)), mode(&folder.join(&name))), (owner(daemon.state()), 0o600), "{name}");
    }
    assert_eq!((owner(&folder), mode(&folder)), (owner(daemon.state()), 0o700));
    assert!(!file.exists(), "removed by root, from a folder that is root's");
}

/// System calls that change something, or come before such; names of other architectures, too.
const CALLS: [&str; 11] =
    ["openat", "write", "fsync", "mkdir", "mkdirat", "rename", "renameat", "renameat2", "unlink", "unlinkat", "fchown"];

/// Runs `tidegate provision FILE` and kills it as it makes the system call for the `nth` time. Whether it came to that.
fn killed_at(daemon: &Daemon, file: &Path, call: &str, nth: u32) -> bool {
    let provision = daemon.command(&["provision"]);
    let mut command = Command::new("strace");
    command.args(["-qq", "-o", "/dev/null", "-e", &format!("inject=?{call}:signal=KILL:when={nth}")]);
    command.arg(provision.get_program()).args(provision.get_args()).arg(file);
    command.envs(provision.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let output = command.output().expect("it was found");
    // strace ends as its child does.
    !matches!(output.status.code(), Some(0 | 78))
}

/// Calls `prepare`, kills the command and calls `check`, at every system call of [`CALLS`]; returns how often.
fn at_every_call(daemon: &Daemon, prepare: impl Fn() -> PathBuf, check: impl Fn(&str)) -> usize {
    let mut kills = 0;
    for call in CALLS {
        for nth in 1.. {
            let file = prepare();
            if !killed_at(daemon, &file, call, nth) {
                break;
            }
            kills += 1;
            check(&format!("killed at {call} {nth}"));
        }
    }
    kills
}

#[test]
fn killed_at_any_system_call_it_has_taken_in_all_or_nothing_and_goes_on() {
    requires!(need::program("strace"), need::program("openssl"));
    let traced = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).status();
    if !traced.is_ok_and(|status| status.success()) {
        skip!("strace may not trace here");
    }
    let (pki, boot) = (Pki::new(), Scratch::new("boot"));
    let daemon = Daemon::builder().nameless().prepare();
    let folder = daemon.state().join("provisioned");
    let file = boot.path().join("provision.toml");
    let again = || daemon.command(&["provision", "--quiet"]).arg(&file).output().unwrap();
    let one = copy_to(boot.path(), &pki, "gw-7", "mqtts://one.example");
    let saved: Vec<_> = ["gw.key", "provision.toml"].map(|name| (name, text(&boot.path().join(name)))).into();
    assert_eq!(one, file);

    // The one that is there, and what it names; whole.
    let whole = |what: &str| -> &str {
        let layer = text(&folder.join("tidegate.toml"));
        let wanted: &[&str] = if layer.contains("one.example") {
            &["ca.pem", "cert.pem", "key.pem", "notice.json", "taken-in.json", "tidegate.toml"]
        } else {
            &["notice.json", "taken-in.json", "tidegate.toml"]
        };
        assert_eq!(names(&folder), wanted, "{what}");
        if wanted.len() == 6 { "one" } else { "two" }
    };
    let put_the_first = || {
        fs::write(&file, "url = \"mqtts://two.example\"\n").unwrap();
        assert!(again().status.success());
        assert_eq!(whole("before"), "two");
        for (name, content) in &saved {
            fs::write(boot.path().join(name), content).unwrap();
        }
        file.clone()
    };
    let kills = at_every_call(&daemon, put_the_first, |what| {
        whole(what);
        let was_there = file.exists();
        let output = again();
        assert_eq!(output.status.success(), was_there, "{what}: {}", said(&output));
        assert_eq!(whole(what), "one");
        assert_eq!(text(&folder.join("key.pem")), saved[0].1, "{what}");
        assert_eq!(names(boot.path()), ["ca.pem", "gw.pem"], "{what}");
        assert_eq!(names(daemon.state()), ["provisioned"], "{what}");
    });
    println!("killed {kills} times");
    assert!(kills > 30, "{kills} kills prove little");

    let bad = format!("{}# and more\ngroups = 7\n", saved[1].1);
    let put_a_bad_one = || {
        let _ = fs::remove_file(boot.path().join("provision.toml.refused"));
        fs::write(&file, &bad).unwrap();
        fs::write(boot.path().join("gw.key"), &saved[0].1).unwrap();
        file.clone()
    };
    let kills = at_every_call(&daemon, put_a_bad_one, |what| {
        let output = again();
        assert!(output.status.code().is_some(), "{what}: {}", said(&output));
        assert_eq!(names(boot.path()), ["ca.pem", "gw.key", "gw.pem", "provision.toml.refused"], "{what}");
        let kept = text(&boot.path().join("provision.toml.refused"));
        assert!(kept.ends_with(&bad) && kept.contains("groups: found a number"), "{what}: {kept}");
        assert_eq!(whole(what), "one");
    });
    assert!(kills > 15, "{kills} kills prove little");
}
