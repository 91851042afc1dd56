//! Keeps what the broker says, across lost connections.
//!
//! ```text
//!                 connected, subscribed              a round trip of silence
//!   Connecting ─────────────────────────► Reading ───────────────────────────► Following
//!       ▲                                    │ lost                                │ lost
//!       └── back-off ────────────────────────┴─────────────────────────────────────┘
//! ```
//!
//! # When has everything come?
//!
//! MQTT does not say where the retained messages of a subscription end. A message to ourselves behind them would (the
//! daemon does that), but an operator who only looks has no right to publish. So the end is *a round trip of silence*:
//! a subscription that brings nothing is sent again and again, and once nothing that was retained has come between it
//! and its answer, and nothing for [`QUIET`] after, everything has come. (What happens meanwhile comes without the
//! flag: a fleet that never falls silent is read all the same.) Unlike waiting alone this does not depend on how fast the link
//! is: the answer queues behind what the broker had to send, and a broker that waits for acknowledgements goes on
//! within one round trip of them. The short wait after it is for brokers that hand retained messages out piecemeal.

use std::{fmt, pin::Pin, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    broker::{Arrival, Link, LinkError, Options, Outcome},
    folder::Folder,
    seen::Seen,
    target::{Target, Topic, Topics},
};

/// Silence after the round trip.
const QUIET: Duration = Duration::from_millis(300);
/// Longest wait before the next attempt to connect.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Something else is known about this.
    Changed(Topic),
    /// All that the broker retains has come.
    Complete,
    /// The connection is lost, and made again.
    Lost(LinkError),
}

/// Follows what the broker says.
pub struct Observer<'a> {
    options: Options,
    topics: &'a Topics,
    folder: &'a Folder,
    seen: Seen,
    failures: u32,
    phase: Phase,
}

enum Phase {
    Connecting(Pin<Box<dyn Future<Output = Result<Link, LinkError>> + Send>>),
    Reading { link: Link, granted: bool, heard: bool, quiet_until: Option<Instant> },
    Following(Link),
}

impl fmt::Debug for Observer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer").field("options", &self.options).finish_non_exhaustive()
    }
}

impl<'a> Observer<'a> {
    /// Connects with the first call of [`Self::next`].
    #[must_use]
    pub fn new(options: Options, topics: &'a Topics, folder: &'a Folder) -> Self {
        let phase = Phase::Connecting(Box::pin(Link::open(options.clone())));
        Self { options, topics, folder, seen: Seen::default(), failures: 0, phase }
    }

    /// What the broker has said so far.
    #[must_use]
    pub const fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Reads all that the broker retains.
    ///
    /// # Errors
    ///
    /// The first thing that went wrong: who asks once wants to know.
    pub async fn read(&mut self) -> Result<(), LinkError> {
        loop {
            match self.next().await? {
                News::Complete => return Ok(()),
                News::Lost(error) => return Err(error),
                News::Changed(_) => {}
            }
        }
    }

    /// Publishes a retained document; none where there is no connection on which everything has come.
    pub fn publish(
        &self,
        target: &Target,
        payload: bytes::Bytes,
    ) -> Option<impl Future<Output = Outcome> + Send + use<>> {
        match &self.phase {
            Phase::Following(link) => Some(link.publish(self.topics.desired(target), payload)),
            _ => None,
        }
    }

    /// What happens next; cancelling loses nothing. It connects again by itself, for as long as it takes.
    ///
    /// # Errors
    ///
    /// What trying again would not mend ([`LinkError::is_permanent`]).
    pub async fn next(&mut self) -> Result<News, LinkError> {
        loop {
            match &mut self.phase {
                Phase::Connecting(connecting) => match connecting.as_mut().await {
                    Ok(link) => {
                        link.subscribe(&self.topics.filters(), true);
                        self.seen.begin();
                        self.phase = Phase::Reading { link, granted: false, heard: false, quiet_until: None };
                    }
                    Err(error) => return self.lost(error),
                },
                Phase::Reading { link, granted, heard, quiet_until } => {
                    let silence = async {
                        match quiet_until {
                            Some(until) => sleep_until(*until).await,
                            None => std::future::pending().await,
                        }
                    };
                    let arrival = tokio::select! {
                        arrival = link.next() => arrival,
                        () = silence => {
                            self.complete();
                            return Ok(News::Complete);
                        }
                    };
                    match arrival {
                        Ok(Arrival::Message { topic, payload, retained }) => {
                            *heard |= retained;
                            if retained && quiet_until.take().is_some() {
                                self.ask_again();
                            }
                            if let Some(news) = self.take(&topic, &payload) {
                                return Ok(news);
                            }
                        }
                        Ok(Arrival::Subscribed(answers)) => {
                            let forbidden = answers.iter().position(|granted| !granted);
                            if let Some(filter) =
                                forbidden.and_then(|index| self.topics.filters().into_iter().nth(index))
                            {
                                return Err(LinkError::Forbidden(filter));
                            }
                            if std::mem::replace(granted, true) && !*heard {
                                *quiet_until = Some(Instant::now() + QUIET);
                            } else {
                                self.ask_again();
                            }
                        }
                        Err(error) => return self.lost(error),
                    }
                }
                Phase::Following(link) => match link.next().await {
                    Ok(Arrival::Message { topic, payload, .. }) => {
                        if let Some(news) = self.take(&topic, &payload) {
                            return Ok(news);
                        }
                    }
                    Ok(Arrival::Subscribed(_)) => {}
                    Err(error) => return self.lost(error),
                },
            }
        }
    }

    /// Sends the subscription that brings nothing but its answer.
    fn ask_again(&mut self) {
        if let Phase::Reading { link, heard, .. } = &mut self.phase {
            *heard = false;
            // The same subscription as before (MQTT 5, 3.8.3.1: retain handling 2), so nothing changes by it.
            link.subscribe(&self.topics.filters(), false);
        }
    }

    fn complete(&mut self) {
        self.seen.complete();
        self.failures = 0;
        let nothing = Phase::Connecting(Box::pin(std::future::pending()));
        if let Phase::Reading { link, .. } = std::mem::replace(&mut self.phase, nothing) {
            self.phase = Phase::Following(link);
        }
    }

    fn take(&mut self, topic: &str, payload: &[u8]) -> Option<News> {
        let topic = self.topics.read(topic)?;
        self.seen.take(&topic, payload, self.folder);
        Some(News::Changed(topic))
    }

    fn lost(&mut self, error: LinkError) -> Result<News, LinkError> {
        if error.is_permanent() {
            return Err(error);
        }
        let ceiling = Duration::from_millis(250).saturating_mul(1 << self.failures.min(8)).min(LONGEST_WAIT);
        let wait = ceiling.mul_f64(fastrand::f64());
        self.failures += 1;
        let options = self.options.clone();
        self.phase = Phase::Connecting(Box::pin(async move {
            sleep(wait).await;
            Link::open(options).await
        }));
        Ok(News::Lost(error))
    }
}
