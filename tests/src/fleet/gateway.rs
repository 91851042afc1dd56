//! One simulated gateway: its control, and a connection of its own to a real broker.
//!
//! ```text
//!   offline ──► connected ──► subscribed ──► read in full ──► linked: takes documents, proves them, reports
//!      ▲            │             │              │               │
//!      └────────────┴─────────────┴──────────────┴───────────────┘ connection lost, or switched off
//! ```

use std::{collections::BTreeSet, io, sync::Arc, time::Duration};

use bytes::Bytes;
use serde_json::json;
use tidegate::control::link::{Payload, Source};
use tokio::{
    sync::watch,
    time::{sleep, sleep_until},
};

use super::{
    client::{Arrival, Client},
    control::{Act, Control},
    simulation::{Shared, id},
};

/// Between attempts to connect, at most. The daemon's grow to two minutes: time that a test would only wait.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// What a gateway is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    /// Whether it has power.
    pub(super) online: bool,
    /// Number of its process: another one has connections of its own.
    pub(super) life: u64,
}

pub(super) async fn run(shared: Arc<Shared>, index: usize, mut orders: watch::Receiver<Order>) {
    let mut attempt = 0_u64;
    loop {
        if orders.wait_for(|order| order.online).await.is_err() {
            return;
        }
        // Spread evenly, as the daemon's full jitter does; not at random, so that each run is the same.
        attempt += 1;
        let share = (index as u64).wrapping_mul(2_654_435_761).wrapping_add(attempt * 40_503) % 1000;
        let ceiling = if attempt == 1 { shared.spread } else { LONGEST_WAIT };
        sleep(ceiling.mul_f64(share as f64 / 1000.0)).await;
        let mut session =
            Session { shared: &shared, index, nonce: None, present: BTreeSet::new(), witness: None, said: None };
        let ended = session.run(&mut orders).await;
        shared.with(index, |control| drop(control.linked(false)));
        if ended.is_ok() {
            return;
        }
    }
}

struct Session<'a> {
    shared: &'a Shared,
    index: usize,
    /// The round trip that shows where what is retained ends.
    nonce: Option<()>,
    present: BTreeSet<Source>,
    witness: Option<Bytes>,
    /// The last report, so that it is not repeated.
    said: Option<Bytes>,
}

impl Session<'_> {
    /// Until the connection is lost (`Err`), or nobody gives orders any more.
    async fn run(&mut self, orders: &mut watch::Receiver<Order>) -> io::Result<()> {
        let client_id = id(self.index);
        let sources = self.shared.with(self.index, |control| control.sources().to_vec());
        let will = (self.topic("status"), status("offline"));
        let mut client = Client::connect(self.shared.port, &client_id, will).await?;
        let desired = sources.iter().map(|source| self.desired(source));
        let own = [self.topic("echo"), self.topic("config/reported")];
        client.subscribe(desired.chain(own)).await?;
        let order = *orders.borrow_and_update();
        loop {
            let wake = self.shared.with(self.index, |control| control.wake());
            let woken = async {
                match wake {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                arrival = client.next() => self.take(arrival?, &sources, &mut client).await?,
                () = woken => {
                    let acts = self.shared.with(self.index, Control::tick);
                    self.perform(acts, &mut client).await?;
                }
                changed = orders.changed() => match changed {
                    Ok(()) if *orders.borrow_and_update() == order => {}
                    // Without a farewell, as a modem goes: the broker publishes the will.
                    Ok(()) => return Err(io::ErrorKind::NotConnected.into()),
                    Err(_) => return Ok(()),
                },
            }
        }
    }

    async fn take(&mut self, arrival: Arrival, sources: &[Source], client: &mut Client) -> io::Result<()> {
        let (topic, payload, packet_id) = match arrival {
            Arrival::Subscribed => {
                // Comes back behind all that is retained for us.
                self.nonce = Some(());
                return client.publish(self.topic("echo"), "all", false).await;
            }
            Arrival::Message { topic, payload, packet_id } => (topic, payload, packet_id),
        };
        client.acknowledge(packet_id).await?;
        if topic == self.topic("config/reported") {
            if self.nonce.is_some() {
                self.witness = Some(payload);
            }
            return Ok(());
        }
        let acts = if topic == self.topic("echo") {
            match str::from_utf8(&payload).ok().and_then(|text| text.strip_prefix("probe ")) {
                Some(trial) => {
                    let trial = trial.parse().unwrap_or_default();
                    self.shared.with(self.index, |control| control.probed(trial))
                }
                None if self.nonce.take().is_some() => self.linked(client).await?,
                None => Vec::new(),
            }
        } else if let Some(source) = sources.iter().find(|source| self.desired(source) == topic) {
            if self.nonce.is_some() && !payload.is_empty() {
                self.present.insert(source.clone());
            }
            let payload = if payload.is_empty() { Payload::Empty } else { Payload::Document(payload) };
            self.shared.with(self.index, |control| control.desired(source.clone(), payload))
        } else {
            Vec::new()
        };
        self.perform(acts, client).await
    }

    async fn linked(&mut self, client: &mut Client) -> io::Result<Vec<Act>> {
        client.publish(self.topic("status"), status("online"), true).await?;
        let (present, witness) = (std::mem::take(&mut self.present), self.witness.take());
        let acts = self.shared.with(self.index, |control| {
            let mut acts = control.read_in_full(present, witness);
            acts.extend(control.linked(true));
            acts
        });
        Ok(acts)
    }

    async fn perform(&mut self, acts: Vec<Act>, client: &mut Client) -> io::Result<()> {
        for Act::Probe(trial) in acts {
            client.publish(self.topic("echo"), format!("probe {trial}"), false).await?;
        }
        // Before the round trip there is nothing to say: what the broker has may still be on its way.
        if self.nonce.is_none() {
            let report = self.shared.with(self.index, |control| control.report());
            if self.said.as_ref() != Some(&report) {
                client.publish(self.topic("config/reported"), report.clone(), true).await?;
                self.said = Some(report);
            }
        }
        Ok(())
    }

    fn topic(&self, below: &str) -> String {
        format!("{}/{}/{below}", self.shared.root, id(self.index))
    }

    fn desired(&self, source: &Source) -> String {
        match source {
            Source::Group(group) => format!("{}/@{group}/config/desired", self.shared.root),
            Source::Device => self.topic("config/desired"),
        }
    }
}

fn status(state: &str) -> Bytes {
    json!({"v": 1, "state": state, "boot": "00000000-0000-4000-8000-000000000000", "version": "0.1.0"})
        .to_string()
        .into()
}
