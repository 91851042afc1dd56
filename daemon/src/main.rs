//! The one binary: arguments in, exit status out. Everything else is in the library.

use std::process::ExitCode;

use clap::Parser as _;
use tidegate::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}

/// Instead of libgcc's, which walks the stack by tables that our releases are linked without (`build.rs`), and so finds
/// nothing, either. Here the compiler sees that no frame is ever named, and leaves out what would read debugging
/// information and demangle names for a panic: 0.1 MB.
///
/// `<unwind.h>`: `_URC_END_OF_STACK` is 5.
// A static program has the symbol from a library that would bring it again, with others that are needed.
#[cfg(all(panic = "abort", not(target_feature = "crt-static")))]
// SAFETY: it has the signature of `_Unwind_Backtrace`, which may return without having called anything.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Backtrace(_trace: *const std::ffi::c_void, _argument: *mut std::ffi::c_void) -> std::ffi::c_int {
    5
}
