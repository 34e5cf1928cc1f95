//! The port by which a test speaks to what runs in the guest, past the agent and while the guest is frozen.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::kvm::DEADLINE;

/// Asks one thing, and gives the answer. Answers to others, who did not wait for them, are passed over.
pub(super) fn ask(socket: &Path, command: &str) -> std::io::Result<String> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let id = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    writeln!(stream, "{id} {command}")?;
    let mut answers = BufReader::new(stream);
    let end = Instant::now() + DEADLINE;
    let mut line = String::new();
    while Instant::now() < end {
        line.clear();
        if answers.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if let Some(answer) = line.trim_end().strip_prefix(&format!("{id} ")) {
            return Ok(answer.to_owned());
        }
    }
    Err(ErrorKind::TimedOut.into())
}
