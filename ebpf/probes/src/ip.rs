//! Entry points of links without a link header: packets begin with the IP header (tun, wwan, ppp, wg).

use aya_ebpf::{macros::classifier, programs::TcContext};

use crate::{
    headers::Link,
    observe::{Hook, observe},
};

/// Packets that the interface received.
#[classifier]
fn tidegate_ip_ingress(context: TcContext) -> i32 {
    observe(&context, Link::Ip, Hook::Ingress)
}

/// Packets that the interface is about to send.
#[classifier]
fn tidegate_ip_egress(context: TcContext) -> i32 {
    observe(&context, Link::Ip, Hook::Egress)
}
