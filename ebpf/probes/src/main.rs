//! tidegate's eBPF programs: tc classifiers that count and sample what crosses an interface, and a pair that times
//! `tcp_sendmsg` ([`send`]).
//!
//! The classifiers have four entry points, ingress and egress of links with an Ethernet header and without, over one body
//! that is inlined into each: read the headers ([`headers`]), count the packet ([`count`]), judge it by the policy that is
//! enforced ([`policy`]), draw it ([`sample`]) and, where it was drawn, add it to its flow ([`flow`]).
//!
//! Constraints:
//! - A classifier returns `TC_ACT_SHOT` for a packet that the policy drops, else `TC_ACT_UNSPEC`: the packet goes on as if
//!   the program were not there, to the next tc program too. `TC_ACT_OK` would hide it from them.
//! - A packet is read and never written or linearised: header bytes that lie in its pages are copied out.
//! - The verifiers of Linux 6.1 to 6.18 must accept the result. What they do not take shapes the code here: no
//!   `Option` of an integer comes back from a function (its unset half is a register never written), results go
//!   through `&mut` or a plain integer. All is inlined but a few functions that exchange with their callers nothing but
//!   memory of maps, of which the verifier knows no more than that it is there: behind each it goes on once.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(internal_features, reason = "the BPF target has atomic additions, core's stable types do not offer them")]

mod atomic;
mod bench;
mod count;
mod ethernet;
mod flow;
mod headers;
mod ip;
mod maps;
mod observe;
mod packet;
mod policy;
mod sample;
mod send;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// Read by the kernel. No helper used here asks for a GPL-compatible one.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 18] = *b"Apache-2.0 OR MIT\0";
