//! Which connection meets which fault.

use std::{
    fmt::{self, Display},
    ops::RangeInclusive,
    time::Duration,
};

use fastrand::Rng;

use super::fault::{At, End, Fault};

/// A fault for each connection, in order; then none, or the same again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    faults: Vec<Fault>,
    repeats: bool,
    seed: Option<u64>,
}

/// What passes the proxy: some faults take a protocol that it can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// tus by HTTP/1.1 without TLS: all faults.
    Tus,
    /// PUT by HTTP/1.1 without TLS: there is no offset to lie about, and nothing to forget.
    Put,
    /// Anything inside TLS: nothing can be read, and no answer made up.
    Tls,
}

impl<const N: usize> From<[Fault; N]> for Schedule {
    fn from(faults: [Fault; N]) -> Self {
        Vec::from(faults).into()
    }
}

impl From<Vec<Fault>> for Schedule {
    fn from(faults: Vec<Fault>) -> Self {
        Self { faults, ..Self::default() }
    }
}

impl Schedule {
    /// The same faults again and again, instead of none when they are used up.
    #[must_use]
    pub fn repeated(self) -> Self {
        Self { repeats: true, ..self }
    }

    /// One to six faults, the same for the same arguments, at places within `bytes`: half of them anywhere in it, half
    /// nearer to its lower end the likelier, where heads are. None lasts longer than a client that gives up after a
    /// while: only a stall can be for ever.
    ///
    /// A lie may be one that no client can see through: where it says that the last byte is there.
    ///
    /// # Panics
    ///
    /// Where the range is empty.
    #[must_use]
    pub fn random(seed: u64, protocol: Protocol, bytes: &RangeInclusive<u64>) -> Self {
        let mut random = Rng::with_seed(seed);
        let count = random.usize(1..=6);
        let faults = (0..count).map(|_| fault(&mut random, protocol, bytes)).collect();
        Self { faults, repeats: false, seed: Some(seed) }
    }

    /// The faults, in order.
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// That of a connection, counted from 0.
    pub(super) fn of(&self, connection: u64) -> Fault {
        let count = self.faults.len() as u64;
        let index = if self.repeats && count > 0 { connection % count } else { connection };
        usize::try_from(index).ok().and_then(|index| self.faults.get(index)).cloned().unwrap_or(Fault::None)
    }
}

impl Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(seed) = self.seed {
            write!(f, "seed {seed}: ")?;
        }
        for (index, fault) in self.faults.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            fault.fmt(f)?;
        }
        f.write_str(match (self.faults.is_empty(), self.repeats) {
            (true, _) => "no faults",
            (false, true) => "; and again",
            (false, false) => "; then none",
        })
    }
}

/// Bytes of answers: few have more.
const ANSWER_BYTES: u64 = 400;
/// What a slow connection takes for all of the range, at most.
const SLOW_FOR_S: u64 = 10;
/// The slowest that one is.
const SLOWEST: u64 = 1 << 10;

fn fault(random: &mut Rng, protocol: Protocol, bytes: &RangeInclusive<u64>) -> Fault {
    // Those that take more understanding come last.
    let kinds = match protocol {
        Protocol::Tus => 11,
        Protocol::Put => 9,
        Protocol::Tls => 8,
    };
    match random.u8(..kinds) {
        0 | 1 => Fault::Cut { at: At::Up(place(random, bytes)), end: end(random) },
        2 => Fault::Cut { at: At::Down(random.u64(..ANSWER_BYTES)), end: end(random) },
        3 => {
            let at = if random.bool() { At::Up(place(random, bytes)) } else { At::Down(random.u64(..ANSWER_BYTES)) };
            let lasts = random.bool().then(|| Duration::from_millis(random.u64(100..2000)));
            Fault::Stall { at, lasts }
        }
        4 => Fault::Slow { bytes_per_s: (bytes.end() / SLOW_FOR_S).max(SLOWEST) },
        5 => {
            let mut garbage = vec![0; random.usize(1..2000)];
            random.fill(&mut garbage);
            Fault::Garbage { after: random.u64(..ANSWER_BYTES), bytes: garbage }
        }
        6 => {
            let at = if random.bool() { At::Up(place(random, bytes)) } else { At::Down(random.u64(..ANSWER_BYTES)) };
            Fault::HalfClose { at }
        }
        7 => Fault::Refuse,
        8 => {
            let status = *random.choice(&[408, 409, 423, 429, 500, 502, 503, 504]).unwrap_or(&503);
            let headers = match status {
                429 | 503 if random.bool() => vec![("Retry-After".to_owned(), random.u8(..3).to_string())],
                _ => Vec::new(),
            };
            Fault::Answer { after: place(random, bytes), status, headers, reads_on: random.bool() }
        }
        9 => {
            let by = i64::try_from(random.u64(1..=(*bytes.end()).clamp(1, 1 << 20))).unwrap_or(1);
            Fault::Lie { delta: if random.bool() { by } else { -by } }
        }
        _ => Fault::Forget { status: if random.bool() { 404 } else { 410 } },
    }
}

fn end(random: &mut Rng) -> End {
    if random.bool() { End::Orderly } else { End::Reset }
}

fn place(random: &mut Rng, bytes: &RangeInclusive<u64>) -> u64 {
    if random.bool() {
        return random.u64(bytes.clone());
    }
    // Each power of two within the range's width is as likely as another.
    let width = bytes.end() - bytes.start();
    let bits = random.u32(0..=u64::BITS - width.leading_zeros());
    let within = random.u64(..1_u64.checked_shl(bits).unwrap_or(u64::MAX)).min(width);
    bytes.start() + within
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_schedule_and_says_so() {
        let random = |seed| Schedule::random(seed, Protocol::Tus, &(0..=1_000_000));
        assert_eq!(random(7), random(7));
        assert_ne!(random(7), random(8));
        assert!(random(7).to_string().starts_with("seed 7: "), "{}", random(7));
    }

    #[test]
    fn random_schedules_have_every_fault_of_their_protocol_and_no_other() {
        let names = |protocol| {
            let schedules = (0..2000).map(|seed| Schedule::random(seed, protocol, &(100..=50_000)));
            let mut names: Vec<&str> = Vec::new();
            for schedule in schedules {
                assert!((1..=6).contains(&schedule.faults().len()), "{schedule}");
                for fault in schedule.faults() {
                    names.push(fault.name());
                    if let Some(At::Up(bytes)) = fault.at() {
                        assert!((100..=50_000).contains(&bytes), "{schedule}");
                    }
                }
            }
            names.sort_unstable();
            names.dedup();
            names
        };
        let tls = ["cut", "garbage", "half-close", "refuse", "slow", "stall"];
        assert_eq!(names(Protocol::Tls), tls);
        let put: Vec<&str> = ["answer"].into_iter().chain(tls).collect();
        assert_eq!(names(Protocol::Put), put);
        let tus = ["answer", "cut", "forget", "garbage", "half-close", "lie", "refuse", "slow", "stall"];
        assert_eq!(names(Protocol::Tus), tus);
    }

    #[test]
    fn faults_come_in_order_then_none_or_again() {
        let once = Schedule::from([Fault::Refuse, Fault::cut_up(5, End::Reset)]);
        let of = |schedule: &Schedule| (0..4).map(|it| schedule.of(it).name()).collect::<Vec<_>>().join(" ");
        assert_eq!(of(&once), "refuse cut none none");
        assert_eq!(once.to_string(), "refuse; cut after 5 up, Reset; then none");
        let again = once.repeated();
        assert_eq!(of(&again), "refuse cut refuse cut");
        assert_eq!(of(&Schedule::default().repeated()), "none none none none");
    }
}
