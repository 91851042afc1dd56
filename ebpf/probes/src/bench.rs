//! Entry points that only `tidegate bench probes` loads: they measure what a packet costs.
//!
//! Running one packet over and over finds every table entry in the processor's cache. These draw the packet's source
//! first, so that the body under test meets another flow each time; `bench_empty` is what that alone costs.

use aya_ebpf::{
    bindings::TC_ACT_UNSPEC,
    btf_maps::PerCpuArray,
    macros::{btf_map, classifier},
    programs::TcContext,
};

use crate::{
    headers::Link,
    observe::{Hook, observe},
};

/// Source addresses drawn from: half of what the flow table holds by default.
const SOURCES: u32 = 8192;
/// Where the last 16 bits of an IPv4 source address stand in an untagged frame.
const SOURCE: usize = 28;

/// State of the draw, Marsaglia's xorshift32.
#[btf_map(name = "TG_BENCH")]
static DRAW: PerCpuArray<u32, 1> = PerCpuArray::new();

/// Draws the source.
#[classifier]
fn bench_empty(context: TcContext) -> i32 {
    draw_source(&context);
    TC_ACT_UNSPEC
}

/// Draws the source, then does all that `tidegate_ingress` does.
#[classifier]
fn bench_ingress(context: TcContext) -> i32 {
    draw_source(&context);
    observe(&context, Link::Ethernet, Hook::Ingress)
}

#[inline(always)]
fn draw_source(context: &TcContext) {
    let Some(state) = DRAW.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: the pointer came from the map, and nothing else on this CPU holds a reference to its entry.
    let state = unsafe { &mut *state };
    // Its fixed point, and what the map holds at first.
    if *state == 0 {
        *state = 1;
    }
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    let source = context.data() + SOURCE;
    if source + 2 <= context.data_end() {
        let bytes = ((*state % SOURCES) as u16).to_be_bytes();
        // SAFETY: the two bytes lie before the packet's end, as just compared.
        unsafe { *(source as *mut [u8; 2]) = bytes };
    }
}
