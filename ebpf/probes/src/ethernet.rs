//! Entry points of links with Ethernet headers.

use aya_ebpf::{macros::classifier, programs::TcContext};

use crate::{
    headers::Link,
    observe::{Hook, observe},
};

/// Packets that the interface received.
#[classifier]
fn tidegate_ingress(context: TcContext) -> i32 {
    observe(&context, Link::Ethernet, Hook::Ingress)
}

/// Packets that the interface is about to send.
#[classifier]
fn tidegate_egress(context: TcContext) -> i32 {
    observe(&context, Link::Ethernet, Hook::Egress)
}
