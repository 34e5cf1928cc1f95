//! Changes to images of machines that do not run, by QEMU's own program.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::error::{Context, Error, Family, Result};

/// Runs `qemu-img`. On failure answers what it said, beside the error that says `what` failed.
pub(super) async fn qemu_img(
    arguments: &[&str],
    limit: Duration,
    what: impl Fn() -> String,
) -> Result<std::result::Result<(), (String, Error)>> {
    let mut command = Command::new("qemu-img");
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(limit, command.output()).await.failed(&what)?.failed(&what)?;
    if output.status.success() {
        return Ok(Ok(()));
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = said.lines().next().unwrap_or("qemu-img failed");
    let error = Error::new(Family::Failed, format!("{}: {line}", what()));
    Ok(Err((said, error)))
}
