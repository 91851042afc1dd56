//! A real broker: mosquitto.

use std::{
    fmt::Write as _,
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    time::Duration,
};

use super::Pki;
use crate::{Netns, Process, Scratch, eventually, need, process};

/// How a broker is to run.
#[derive(Debug, Default)]
pub struct BrokerBuilder {
    namespace: Option<Netns>,
    persistence: bool,
    tls: Option<Tls>,
    password: Option<(String, String)>,
    acl: Option<String>,
    quiet: bool,
    extra: String,
}

#[derive(Debug)]
struct Tls {
    ca: Vec<u8>,
    cert: Vec<u8>,
    key: Vec<u8>,
    clients: bool,
}

impl BrokerBuilder {
    /// On the loopback of a namespace instead of the host's.
    #[must_use]
    pub fn inside(mut self, namespace: &Netns) -> Self {
        self.namespace = Some(namespace.clone());
        self
    }

    /// Sessions and retained messages are kept on disk, written each second: a killed broker forgets the last one.
    #[must_use]
    pub const fn persistent(mut self) -> Self {
        self.persistence = true;
        self
    }

    /// TLS with the server certificate of `pki`; `clients` demands certificates of it from clients, too.
    #[must_use]
    pub fn tls(mut self, pki: &Pki, clients: bool) -> Self {
        let read = |path: &Path| std::fs::read(path).expect("the PKI's files are there");
        self.tls =
            Some(Tls { ca: read(pki.ca()), cert: read(&pki.server().cert), key: read(&pki.server().key), clients });
        self
    }

    /// Only this user may connect.
    #[must_use]
    pub fn password(mut self, user: &str, password: &str) -> Self {
        self.password = Some((user.to_owned(), password.to_owned()));
        self
    }

    /// Content of the access control file (mosquitto.conf(5), `acl_file`).
    #[must_use]
    pub fn acl(mut self, content: &str) -> Self {
        self.acl = Some(content.to_owned());
        self
    }

    /// Logs errors only: for benches, where every packet's line in the log would be measured, too.
    #[must_use]
    pub const fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    /// A further line of mosquitto.conf(5).
    #[must_use]
    pub fn line(mut self, line: &str) -> Self {
        self.extra.push_str(line);
        self.extra.push('\n');
        self
    }

    /// Starts it on a free port.
    ///
    /// # Panics
    ///
    /// Where it does not listen within 10 seconds, with what it wrote.
    #[must_use]
    #[track_caller]
    pub fn start(self) -> Broker {
        let free = || {
            TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr()).expect("a free port").port()
        };
        let port = self.namespace.as_ref().map_or_else(free, |namespace| namespace.enter(free));
        let scratch = Scratch::new("broker");
        let secure = self.tls.is_some();
        let config = self.write_files(&scratch, port);
        scratch.write("mosquitto.conf", config);
        if let Some((user, password)) = &self.password {
            let mut command = Command::new("mosquitto_passwd");
            command.args(["-b", "-c"]).arg(scratch.path().join("passwords")).args([user, password]);
            assert!(command.status().expect("run mosquitto_passwd").success(), "mosquitto_passwd failed");
        }
        process::give_to_nobody(scratch.path());
        let mut broker = Broker { namespace: self.namespace, scratch, port, secure, process: None };
        broker.start_again();
        broker
    }

    fn write_files(&self, scratch: &Scratch, port: u16) -> String {
        let folder = scratch.path().display();
        // A subscriber gets every message at once, however slowly it acknowledges; nothing is queued away.
        let mut config = format!(
            "listener {port} 127.0.0.1\nmax_inflight_messages 0\nmax_queued_messages 0\n\
             set_tcp_nodelay true\nlog_dest stdout\nlog_type {}\nconnection_messages true\n",
            if self.quiet { "error" } else { "all" }
        );
        let mut line = |text: std::fmt::Arguments<'_>| writeln!(config, "{text}").expect("a string takes all");
        line(format_args!("allow_anonymous {}", self.password.is_none()));
        if self.persistence {
            line(format_args!("persistence true\npersistence_location {folder}/"));
            line(format_args!("autosave_interval 1"));
        }
        if let Some(tls) = &self.tls {
            let files =
                [("cafile", "ca.pem", &tls.ca), ("certfile", "cert.pem", &tls.cert), ("keyfile", "key.pem", &tls.key)];
            for (key, name, content) in files {
                line(format_args!("{key} {}", scratch.write(name, content).display()));
            }
            line(format_args!("require_certificate {}", tls.clients));
        }
        if self.password.is_some() {
            line(format_args!("password_file {folder}/passwords"));
        }
        if let Some(acl) = &self.acl {
            line(format_args!("acl_file {}", scratch.write("acl", acl).display()));
        }
        config.push_str(&self.extra);
        config
    }
}

/// A mosquitto of one's own, on a port that stays the same across its restarts. It runs as `nobody` where the
/// test runs as root.
#[derive(Debug)]
pub struct Broker {
    // Dropped before the folder that it writes to.
    process: Option<Process>,
    namespace: Option<Netns>,
    scratch: Scratch,
    port: u16,
    secure: bool,
}

impl Broker {
    /// One without persistence, TLS or passwords, on the host's loopback.
    #[must_use]
    #[track_caller]
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// One that is to be described.
    #[must_use]
    pub fn builder() -> BrokerBuilder {
        BrokerBuilder::default()
    }

    /// Port on the loopback.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Value for `[mqtt] url`.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.secure { "mqtts" } else { "mqtt" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// Where it runs, if not on the host.
    #[must_use]
    pub const fn namespace(&self) -> Option<&Netns> {
        self.namespace.as_ref()
    }

    /// SIGKILL: what it had not written is gone.
    pub fn kill(&mut self) {
        self.process.take();
    }

    /// SIGTERM: it says goodbye and saves its state.
    ///
    /// # Panics
    ///
    /// Where it does not end within 10 seconds.
    #[track_caller]
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _status = process.stop(Duration::from_secs(10));
        }
    }

    /// Starts it again on its port, with what it has on disk.
    ///
    /// # Panics
    ///
    /// Where it does not listen within 10 seconds.
    #[track_caller]
    pub fn start_again(&mut self) {
        let mut command = Command::new(need::find("mosquitto").unwrap_or_else(|| "mosquitto".into()));
        command.arg("-c").arg(self.scratch.path().join("mosquitto.conf"));
        if let Some(namespace) = &self.namespace {
            namespace.confine(&mut command);
        }
        process::run_as_nobody(&mut command);
        let mut process = Process::start("mosquitto", command);
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        let connect = || TcpStream::connect(address).map(drop);
        eventually(Duration::from_secs(10), "mosquitto listens", || {
            if let Some(status) = process.exited() {
                return Err(format!("{status}: {}", process.output().join("\n")));
            }
            let connected = self.namespace.as_ref().map_or_else(connect, |namespace| namespace.enter(connect));
            connected.map_err(|error| error.to_string())
        });
        self.process = Some(process);
    }

    /// SIGSTOP: connections stay open, nothing is answered.
    ///
    /// # Panics
    ///
    /// Where it does not run.
    #[track_caller]
    pub fn freeze(&self) {
        self.process.as_ref().expect("the broker runs").freeze();
    }

    /// SIGCONT.
    ///
    /// # Panics
    ///
    /// Where it does not run.
    #[track_caller]
    pub fn thaw(&self) {
        self.process.as_ref().expect("the broker runs").thaw();
    }

    /// What it logged since it was last started.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        self.process.as_ref().map(Process::output).unwrap_or_default()
    }
}
