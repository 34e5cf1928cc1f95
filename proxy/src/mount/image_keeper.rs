//! Images behind a network, for a mount: the server of the mount is locked in without network, so a process beside it keeps the
//! connections and hands out bytes over socket pairs. It has nothing to undo, and ends when the server does.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use blockdev::ReadAt;
use serde::{Deserialize, Serialize};

use super::keeper::{leave_the_session, leave_the_terminal, serve_links};
use super::link::{receive_streams, send_streams};
use super::spec::{ImageSpec, receive, send};
use super::start::Program;
use crate::disk::Source;
use crate::error::{Context, Error, Family, Result};
use crate::job::Cancel;

/// The hidden command that makes a process the keeper of a mount's network disks.
pub const IMAGE_KEEPER_COMMAND: &str = "mount-image-keeper";

/// What the keeper says before it hands its connections over.
#[derive(Serialize, Deserialize)]
enum Opened {
    Ready,
    Failed { exit_code: u8, line: String },
}

/// Starts a keeper for those of the images that are behind a network, and waits until it has opened them. Answers connections to it; none
/// where all images are files.
///
/// # Errors
/// What the keeper says.
pub async fn keep_images(images: &[ImageSpec], cancel: &Cancel) -> Result<Vec<UnixStream>> {
    let remote = images.iter().filter_map(|image| match image.is_remote() {
        Ok(false) => None,
        Ok(true) => Some(Ok(image.clone())),
        Err(error) => Some(Err(error)),
    });
    let remote: Vec<ImageSpec> = remote.collect::<Result<_>>()?;
    if remote.is_empty() {
        return Ok(Vec::new());
    }
    let (mut control, theirs) = UnixStream::pair().failed(|| "cannot make a socket pair".into())?;
    let program = Program::this()?;
    let keeper = Command::new(&program.path)
        .arg(IMAGE_KEEPER_COMMAND)
        .env_remove("STILLFRAME_PASSWORD")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .spawn()
        .failed(|| format!("cannot start {}", program.path.display()))?;
    let mut keeper = EndOnDrop(Some(keeper));
    send(&mut control, &remote)?;
    let answer = crate::disk::blocking(move || {
        let ended = || Error::new(Family::Failed, "the keeper of the network disks ended before it was ready");
        match receive::<Opened>(&control)?.ok_or_else(ended)? {
            Opened::Failed { exit_code, line } => Err(Error::new(Family::of_exit_code(exit_code), line)),
            Opened::Ready => receive_streams(&control).failed(|| "the network disks were not handed over".into()),
        }
    });
    let streams = cancel.or_stop(answer).await?;
    keeper.0 = None; // from here on it ends with its connections
    Ok(streams)
}

/// A keeper that is of no use any more is ended.
struct EndOnDrop(Option<Child>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        if let Some(mut keeper) = self.0.take() {
            let _ = keeper.kill(); // it may have ended by itself
            let _ = keeper.wait();
        }
    }
}

/// Keeps network disks until nobody reads them any more. Standard input is the socket to the process that started this one.
///
/// # Errors
/// What went wrong, which the other process was told.
pub async fn run_image_keeper() -> Result<()> {
    let what = || "cannot talk to the process that mounts".to_owned();
    let mut control = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().failed(what)?);
    leave_the_session()?;
    let Some(images) = receive::<Vec<ImageSpec>>(&control)? else { return Ok(()) };
    let opened = crate::disk::blocking(move || {
        let open = |image: &ImageSpec| Ok(Source::open(&image.source())?.into_disk());
        let disks: Vec<Arc<dyn ReadAt>> = images.iter().map(open).collect::<Result<_>>()?;
        serve_links(disks)
    });
    let (streams, serving) = match opened.await {
        Ok(opened) => opened,
        Err(error) => {
            return send(&mut control, &Opened::Failed { exit_code: error.family().exit_code(), line: error.line() });
        }
    };
    send(&mut control, &Opened::Ready)?;
    send_streams(&control, &streams).failed(what)?;
    drop((streams, control));
    leave_the_terminal(None)?; // its input is the socket, and errors would go where nobody waits for their end
    let wait = move || {
        serving.into_iter().for_each(|thread| drop(thread.join())); // one that panicked serves no more either
        Ok(())
    };
    crate::disk::blocking(wait).await
}
