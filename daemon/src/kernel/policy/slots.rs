//! The two slots that the programs look into, and the writes by which one policy takes another's place.
//!
//! Programs ask the large slot, and where it is empty the small one; where both are, there is no policy. So each change
//! has one write that decides, and what else is needed happens where no program looks:
//!
//! ```text
//!   from      to        first                    then
//!   none      any       put it      (decides)
//!   any       none      clear it    (decides)
//!   small     small     put it      (decides)
//!   large     large     put it      (decides)
//!   small     large     put large   (decides)    clear small
//!   large     small     put small                clear large (decides)
//! ```
//!
//! A write takes effect within microseconds, and returns once no program can be running that saw what was there before
//! (`synchronize_rcu`, 6 to 50 ms). That is what makes the second write of a pair safe: a program that found the large
//! slot empty before it was put has ended before the small one is cleared. It also says when the counters of the
//! generation before stand still. Nobody waits for it but a thread that ends with it.

use std::{
    ffi::c_long,
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    ptr,
    sync::Arc,
};

use aya::maps::MapData;
use tokio::sync::oneshot;

use super::map::Size;
use crate::kernel::syscall::bpf;

/// `enum bpf_cmd`
const BPF_MAP_LOOKUP_ELEM: c_long = 1;
/// `enum bpf_cmd`
const BPF_MAP_UPDATE_ELEM: c_long = 2;
/// `enum bpf_cmd`
const BPF_MAP_DELETE_ELEM: c_long = 3;
/// Stack of the thread that writes: two system calls and their answer.
const STACK_BYTES: usize = 64 << 10;

/// The programs' two slots.
#[derive(Debug)]
pub(in crate::kernel) struct Slots {
    small: Slot,
    large: Slot,
}

/// A map of maps with one entry. Programs that are loaded later refer to it by the descriptor that this holds.
#[derive(Clone, Debug)]
struct Slot(Arc<MapData>);

/// One write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Write {
    Put(Size),
    Clear(Size),
}

/// Writes that lead from what the slots hold to what they are to hold, in order.
fn writes(now: Option<Size>, next: Option<Size>) -> Vec<Write> {
    match (now, next) {
        (None, None) => vec![],
        (Some(now), None) => vec![Write::Clear(now)],
        (Some(now), Some(next)) if now != next => vec![Write::Put(next), Write::Clear(now)],
        (_, Some(next)) => vec![Write::Put(next)],
    }
}

impl Slots {
    /// The slots of a loaded object; both are empty.
    #[must_use]
    pub(in crate::kernel) fn new(small: MapData, large: MapData) -> Self {
        Self { small: Slot(Arc::new(small)), large: Slot(Arc::new(large)) }
    }

    const fn of(&self, size: Size) -> &Slot {
        match size {
            Size::Small => &self.small,
            Size::Large => &self.large,
        }
    }

    /// The kernel's number of the map that programs judge by from now on; `None` where there is none.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(super) fn effective(&self) -> io::Result<Option<u32>> {
        // In the programs' order.
        Ok(match self.large.read()? {
            Some(id) => Some(id),
            None => self.small.read()?,
        })
    }

    /// Begins to put `map` where it belongs, or nothing, in place of a generation of size `now`. The answer comes once no
    /// program uses what was there before.
    ///
    /// # Errors
    ///
    /// Where the system gives no thread; nothing was written then.
    pub(super) fn write(
        &self,
        now: Option<Size>,
        next: Option<(Size, OwnedFd)>,
    ) -> io::Result<oneshot::Receiver<io::Result<()>>> {
        let steps: Vec<_> = writes(now, next.as_ref().map(|(size, _)| *size))
            .into_iter()
            .map(|write| match write {
                Write::Put(size) | Write::Clear(size) => (write, self.of(size).clone()),
            })
            .collect();
        let map = next.map(|(_, map)| map);
        let (answer, answered) = oneshot::channel();
        std::thread::Builder::new().name("policy switch".into()).stack_size(STACK_BYTES).spawn(move || {
            let written = steps.iter().try_for_each(|(write, slot)| match (write, &map) {
                (Write::Put(_), Some(map)) => slot.put(map),
                (Write::Put(_), None) => Err(io::ErrorKind::InvalidInput.into()),
                (Write::Clear(_), _) => slot.clear(),
            });
            // The slot holds it now. Closed before the answer, so that whoever has it knows of no other holder.
            drop(map);
            let _nobody_asks = answer.send(written);
        })?;
        Ok(answered)
    }
}

impl Slot {
    fn attr(&self, key: &u32, value: u64) -> ElementAttr {
        ElementAttr {
            map_fd: self.0.fd().as_fd().as_raw_fd().cast_unsigned(),
            pad: 0,
            key: ptr::from_ref(key) as u64,
            value,
            flags: 0,
        }
    }

    fn put(&self, map: &OwnedFd) -> io::Result<()> {
        let value = map.as_raw_fd().cast_unsigned();
        let mut attr = self.attr(&0, ptr::from_ref(&value) as u64);
        // SAFETY: laid out as the kernel's; it reads four bytes of key and four of value, which outlive the call.
        unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut attr) }.map(|_zero| ())
    }

    /// What is empty stays so.
    fn clear(&self) -> io::Result<()> {
        let mut attr = self.attr(&0, 0);
        // SAFETY: laid out as the kernel's; it reads four bytes of key, which is a constant.
        match unsafe { bpf(BPF_MAP_DELETE_ELEM, &mut attr) } {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
            _ => Ok(()),
        }
    }

    fn read(&self) -> io::Result<Option<u32>> {
        let mut id = 0_u32;
        let mut attr = self.attr(&0, ptr::from_mut(&mut id) as u64);
        // SAFETY: laid out as the kernel's; it reads four bytes of key and writes four to `id`, which outlives the call.
        match unsafe { bpf(BPF_MAP_LOOKUP_ELEM, &mut attr) } {
            Ok(_zero) => Ok(Some(id)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The element member of `union bpf_attr` (uapi/linux/bpf.h).
#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[cfg(test)]
mod tests {
    use super::{Size::*, Write::*, *};

    /// Carries writes out on slots as programs see them, and says what those saw in turn.
    fn seen(now: Option<Size>, next: Option<Size>) -> Vec<Option<&'static str>> {
        let (mut small, mut large) = (None, None);
        match now {
            Some(Small) => small = Some("old"),
            Some(Large) => large = Some("old"),
            None => {}
        }
        let mut seen = vec![large.or(small)];
        for write in writes(now, next) {
            match write {
                Put(Small) => small = Some("new"),
                Put(Large) => large = Some("new"),
                Clear(Small) => small = None,
                Clear(Large) => large = None,
            }
            seen.push(large.or(small));
        }
        seen
    }

    #[test]
    fn programs_see_the_old_policy_and_then_the_new_one_and_never_another() {
        let sizes = [None, Some(Small), Some(Large)];
        for now in sizes {
            for next in sizes {
                let mut seen = seen(now, next);
                let (first, last) = (now.map(|_| "old"), next.map(|_| "new"));
                assert_eq!((seen.first(), seen.last()), (Some(&first), Some(&last)), "{now:?} {next:?}");
                seen.dedup();
                assert!(seen.len() <= 2, "{now:?} {next:?}: {seen:?}");
            }
        }
    }
}
