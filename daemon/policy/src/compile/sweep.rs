//! From nested prefixes to intervals that lie side by side.
//!
//! ```text
//!  prefixes    ├────────────── /8 ──────────────┤
//!                  ├─ /16 ─┤    ├─── /12 ───┤
//!  intervals   └───┴───────┴────┴───────────┴───┘      each belongs to the innermost prefix, which knows those around it
//! ```
//!
//! Two prefixes are nested or apart, so that those around an address are a stack. Sorted by first address, the longer
//! ones behind the shorter, each prefix is pushed once and popped once.

use crate::Prefix;

/// An address of one family, as a number.
pub(super) trait Address: Copy + Ord {
    const MIN: Self;
    const MAX: Self;
    /// Those of the family.
    fn of(prefix: Prefix) -> Option<Self>;
    /// The prefix of that length which begins here.
    fn prefix(self, length: u8) -> Prefix;
    /// Its last address.
    fn last(self, length: u8) -> Self;
    fn before(self) -> Self;
    /// `None` behind [`Address::MAX`].
    fn behind(self) -> Option<Self>;
}

/// A prefix of a rule.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry<A> {
    pub(super) first: A,
    pub(super) length: u8,
    pub(super) part: Part,
}

/// The part that a rule has in what is decided; here, so that nobody has to look it up in the order of addresses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Part {
    /// Number of the rule.
    pub(super) rule: u32,
    /// Bit n: it has a part in decision n of a row.
    pub(super) columns: u32,
    /// Number of the interface list that it is for, or `decision::ANY_INTERFACE`.
    pub(super) interfaces: u8,
    /// Whether it has conditions that the row does not settle: ports, ICMP types, interfaces.
    pub(super) is_open: bool,
}

/// What is done at each step.
pub(super) trait Visit<A> {
    type Error;
    /// A prefix with its rules, inside of those that were pushed and not popped.
    fn push(&mut self, prefix: &[Entry<A>]) -> Result<(), Self::Error>;
    /// The innermost prefix ends.
    fn pop(&mut self);
    /// All addresses up to this one, from where the last interval ended, belong to the innermost prefix, or to none.
    fn interval(&mut self, last: A) -> Result<(), Self::Error>;
}

/// Goes through all addresses. The entries are sorted.
pub(super) fn sweep<A: Address, V: Visit<A>>(entries: &[Entry<A>], visit: &mut V) -> Result<(), V::Error> {
    // Where each prefix ends that is open, the innermost last.
    let mut open: Vec<A> = Vec::new();
    // First address that belongs to no interval yet; `None`: there is no more.
    let mut next = Some(A::MIN);
    let close = |open: &mut Vec<A>, next: &mut Option<A>, visit: &mut V| {
        if let Some(last) = open.pop() {
            if next.is_some_and(|next| next <= last) {
                visit.interval(last)?;
                *next = last.behind();
            }
            visit.pop();
        }
        Ok(())
    };
    for prefix in entries.chunk_by(|a, b| (a.first, a.length) == (b.first, b.length)) {
        let first = prefix[0].first;
        while open.last().is_some_and(|last| *last < first) {
            close(&mut open, &mut next, visit)?;
        }
        if next.is_some_and(|next| next < first) {
            visit.interval(first.before())?;
            next = Some(first);
        }
        visit.push(prefix)?;
        open.push(first.last(prefix[0].length));
    }
    while !open.is_empty() {
        close(&mut open, &mut next, visit)?;
    }
    if next.is_some() { visit.interval(A::MAX) } else { Ok(()) }
}

macro_rules! address {
    ($number:ty, $family:ident, $address:ident) => {
        impl Address for $number {
            const MIN: Self = <$number>::MIN;
            const MAX: Self = <$number>::MAX;

            fn of(prefix: Prefix) -> Option<Self> {
                match prefix.address() {
                    std::net::IpAddr::$family(address) => Some(address.to_bits()),
                    _ => None,
                }
            }

            fn prefix(self, length: u8) -> Prefix {
                let address = std::net::$address::from_bits(self).into();
                Prefix::new(address, length).expect("it was made from a prefix of this length")
            }

            fn last(self, length: u8) -> Self {
                self | Self::MAX.checked_shr(length.into()).unwrap_or(0)
            }

            fn before(self) -> Self {
                self - 1
            }

            fn behind(self) -> Option<Self> {
                self.checked_add(1)
            }
        }
    };
}

address!(u32, V4, Ipv4Addr);
address!(u128, V6, Ipv6Addr);
