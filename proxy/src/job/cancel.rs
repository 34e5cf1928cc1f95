use std::future::Future;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::error::{Context, Error, Family, Result};

/// Signals this close together are one wish: a service manager signals the whole group, and a wrapper script passes its own on.
const ONE_WISH: Duration = Duration::from_secs(1);

/// Whether the user wants the run to stop. Clones share the wish.
#[derive(Clone, Debug)]
pub struct Cancel {
    wish: watch::Receiver<bool>,
}

impl Cancel {
    /// Never cancelled.
    #[must_use]
    pub fn never() -> Self {
        // A dropped sender means that the value never changes again.
        Self { wish: watch::channel(false).1 }
    }

    /// Cancelled by sending `true`.
    #[cfg(test)]
    pub(crate) fn by_hand() -> (watch::Sender<bool>, Self) {
        let (sender, wish) = watch::channel(false);
        (sender, Self { wish })
    }

    /// Cancelled by the first SIGINT, SIGTERM or SIGHUP. The second one ends the process at once with exit code 130; the journal
    /// then remembers what is left.
    ///
    /// # Errors
    /// [`Family::Failed`] if the signals cannot be caught.
    pub fn on_signals() -> Result<Self> {
        let (sender, wish) = watch::channel(false);
        let catch = |kind| signal(kind).failed(|| "cannot catch signals".into());
        // A file that grows past a limit then is an error like a full disk, and no sudden death.
        drop(catch(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?);
        let (mut interrupt, mut terminate, mut hangup) =
            (catch(SignalKind::interrupt())?, catch(SignalKind::terminate())?, catch(SignalKind::hangup())?);
        tokio::spawn(async move {
            let mut first: Option<Instant> = None;
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
                match first {
                    None => {
                        first = Some(Instant::now());
                        let _ = sender.send(true); // nobody listening is nobody to stop
                        crate::tell("Cancelling, and undoing what was begun. A second signal stops at once.");
                    }
                    Some(at) if at.elapsed() < ONE_WISH => {}
                    Some(_) => {
                        crate::tell("Stopped at once; `stillframe cleanup` undoes what is left.");
                        std::process::exit(i32::from(Family::Cancelled.exit_code()));
                    }
                }
            }
        });
        Ok(Self { wish })
    }

    /// Whether the wish was spoken.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        *self.wish.borrow()
    }

    /// An error if the wish was spoken.
    ///
    /// # Errors
    /// [`Family::Cancelled`].
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(cancelled()) } else { Ok(()) }
    }

    /// Does `work` until it ends or the wish is spoken, in which case `work` is dropped where it stands.
    ///
    /// # Errors
    /// Those of `work`, or [`Family::Cancelled`].
    pub async fn or_stop<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut wish = self.wish.clone();
        let spoken = async move {
            if wish.wait_for(|wish| *wish).await.is_err() {
                std::future::pending::<()>().await; // nobody can cancel any more
            }
        };
        tokio::select! {
            result = work => result,
            () = spoken => Err(cancelled()),
        }
    }
}

fn cancelled() -> Error {
    Error::new(Family::Cancelled, "cancelled")
}
