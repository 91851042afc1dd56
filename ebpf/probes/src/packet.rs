//! The packet at hand: what the kernel knows about it, and its bytes.

use aya_ebpf::{bindings::__sk_buff, helpers::bpf_skb_load_bytes};
use tidegate_abi::Counter;

use crate::headers::Headers;

/// A socket buffer.
pub(crate) struct Packet {
    context: *mut __sk_buff,
}

/// Reads fields of the context. The verifier turns each into a load from the socket buffer.
macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident: $field:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub(crate) fn $name(&self) -> u32 {
            // SAFETY: the kernel hands each program a valid context, which outlives the program's run.
            unsafe { (*self.context).$field }
        }
    )*};
}

impl Packet {
    #[inline(always)]
    pub(crate) fn new(context: *mut __sk_buff) -> Self {
        Self { context }
    }

    #[inline(always)]
    pub(crate) fn context(&self) -> *mut __sk_buff {
        self.context
    }

    fields! {
        /// Interface that the program sees it on.
        ifindex: ifindex,
        /// Bytes of the buffer, pages included, a VLAN tag in its metadata not.
        len: len,
        /// EtherType, network order in the low half, as the device driver or the sender named it.
        protocol: protocol,
        /// Not 0 where a VLAN tag stands in the metadata.
        tag_in_metadata: vlan_present,
        ingress_ifindex: ingress_ifindex,
        segments: gso_segs,
        segment_size: gso_size,
    }

    /// Whether it came in on some interface, so that it is forwarded where it goes out.
    #[inline(always)]
    pub(crate) fn came_in(&self) -> bool {
        self.ingress_ifindex() != 0
    }

    /// Whether it is cut into segments later, or was put together from some.
    #[inline(always)]
    pub(crate) fn is_segmented(&self) -> bool {
        self.segment_size() != 0
    }

    /// Wire segments, and the bytes of all of them.
    ///
    /// `gso_segs` is 0 in a plain packet and in one that a guest or a program handed over unsegmented (tap and tun with
    /// offloads); only the latter has a segment size.
    #[inline(always)]
    pub(crate) fn size(&self, headers: &Headers) -> Counter {
        let len = self.len();
        let repeated = headers.payload;
        let mut packets = self.segments();
        if packets == 0 {
            packets = 1;
            let segment_size = self.segment_size();
            if segment_size != 0 && len > repeated {
                packets = (len - repeated).div_ceil(segment_size);
            }
        }
        let outer_tag = headers.outer_tag;
        let first = u64::from(len - outer_tag);
        let each_other = u64::from(repeated - outer_tag);
        Counter { packets: u64::from(packets), bytes: first + u64::from(packets - 1) * each_other }
    }

    /// Copies the `N` bytes at `offset` into `bytes`; `false` where the packet ends before, and they are zero.
    ///
    /// By the helper, wherever they lie: in the linear part or in pages. Reading the linear part directly would make
    /// each offset part of what the verifier tells paths apart by: on Linux 6.1 it gave up after a million
    /// instructions. A call costs some 20 ns, so that callers ask for what lies together at once.
    #[inline(always)]
    pub(crate) fn read<const N: usize>(&self, offset: u32, bytes: &mut [u8; N]) -> bool {
        // SAFETY: the context is valid, and `bytes` holds the N bytes that the helper may write.
        unsafe { bpf_skb_load_bytes(self.context.cast(), offset, bytes.as_mut_ptr().cast(), N as u32) == 0 }
    }
}
