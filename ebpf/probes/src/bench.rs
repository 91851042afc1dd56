//! Entry points that only `tidegate bench probes` loads: they measure what a packet costs.
//!
//! Running one packet over and over finds every table entry in the processor's cache. These draw the packet's source
//! first, from a table that the loader fills, so that the body under test meets another flow and another rule each time;
//! `bench_empty` is what that alone costs.

use aya_ebpf::{
    bindings::TC_ACT_UNSPEC,
    btf_maps::{Array, PerCpuArray},
    macros::{btf_map, classifier},
    programs::TcContext,
};
use tidegate_abi::BENCH_SOURCES;

use crate::{
    headers::Link,
    observe::{Hook, observe},
};

/// Where the IPv4 source address stands in an untagged frame.
const SOURCE: usize = 26;

#[btf_map(name = "TG_BENCH_SOURCES")]
static SOURCES: Array<[u8; 4], { BENCH_SOURCES as usize }> = Array::new();

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
    let Some(drawn) = SOURCES.get(*state % BENCH_SOURCES) else {
        return;
    };
    let source = context.data() + SOURCE;
    if source + 4 <= context.data_end() {
        // SAFETY: the four bytes lie before the packet's end, as just compared.
        unsafe { *(source as *mut [u8; 4]) = *drawn };
    }
}
