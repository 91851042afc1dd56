//! The demo's broker: rumqttd, as a process of its own, because it cannot be stopped otherwise.

use std::{
    collections::HashMap,
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Command, ExitCode},
    time::Duration,
};

use tidegate_tests::{Netns, Process, eventually};

/// A broker that keeps everything in memory: when it is stopped it forgets sessions and retained messages.
#[derive(Debug)]
pub(crate) struct Broker {
    namespace: Option<Netns>,
    port: u16,
    process: Option<Process>,
}

impl Broker {
    /// Starts one on the loopback of a namespace or of the host.
    pub(crate) fn start(namespace: Option<&Netns>) -> Self {
        let free = || TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
        let port = namespace.map_or_else(free, |namespace| namespace.enter(free)).expect("a free port").port();
        let mut broker = Self { namespace: namespace.cloned(), port, process: None };
        broker.start_again();
        broker
    }

    /// Where it listens.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// Ends it at once.
    pub(crate) fn stop(&mut self) {
        self.process = None;
    }

    /// Starts it on its port.
    pub(crate) fn start_again(&mut self) {
        let mut command = Command::new(std::env::current_exe().expect("/proc is mounted"));
        command.args(["broker", &self.port.to_string()]);
        if let Some(namespace) = &self.namespace {
            namespace.confine(&mut command);
        }
        self.process = Some(Process::start("broker", command));
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        let connect = || TcpStream::connect(address).map(drop);
        eventually(Duration::from_secs(10), "the broker listens", || {
            self.namespace.as_ref().map_or_else(connect, |namespace| namespace.enter(connect))
        });
    }
}

/// Serves MQTT 5 until it is killed.
pub(crate) fn serve(port: u16) -> ExitCode {
    let server = rumqttd::ServerSettings {
        name: "demo".to_owned(),
        listen: SocketAddr::from(([127, 0, 0, 1], port)),
        tls: None,
        next_connection_delay_ms: 1,
        connections: rumqttd::ConnectionSettings {
            connection_timeout_ms: 5000,
            // The contract's Maximum Packet Size.
            max_payload_size: 8 << 20,
            max_inflight_count: 1000,
            auth: None,
            external_auth: None,
            // Without it, messages to topics that nobody subscribes to end the connection.
            dynamic_filters: true,
        },
    };
    let config = rumqttd::Config {
        router: rumqttd::RouterConfig {
            max_connections: 16,
            max_outgoing_packet_count: 1000,
            max_segment_size: 16 << 20,
            max_segment_count: 8,
            ..rumqttd::RouterConfig::default()
        },
        v5: Some(HashMap::from([("demo".to_owned(), server)])),
        ..rumqttd::Config::default()
    };
    match rumqttd::Broker::new(config).start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("broker: {error}");
            ExitCode::FAILURE
        }
    }
}
