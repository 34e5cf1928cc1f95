//! Writes the bytes of a new guest log to standard output: `cargo run -p lab --example guestlog -- SLOTS > guest.log`.
//! Put into a file system as one contiguous file, it turns any disk image into a guest that writes.

use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let slots = std::env::args().nth(1).and_then(|arg| arg.parse().ok());
    let Some(slots @ 1..=0xf_ffff) = slots else {
        eprintln!("usage: guestlog SLOTS    (1 to 1048575, 4 KiB each)");
        return ExitCode::from(2);
    };
    match io::stdout().lock().write_all(&lab::guest::log_file(slots)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("guestlog: {error}");
            ExitCode::FAILURE
        }
    }
}
