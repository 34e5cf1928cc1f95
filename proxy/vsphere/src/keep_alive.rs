use std::time::Duration;

use tokio::task::JoinHandle;

use crate::client::{Client, method};
use crate::error::Error;
use crate::xml::Moref;

/// A timer that keeps a session from going idle. It ends when this is dropped.
#[derive(Debug)]
#[must_use = "the timer ends when this is dropped"]
pub struct KeepAlive {
    task: JoinHandle<()>,
}

impl Drop for KeepAlive {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Client {
    /// Asks the server for its time every `every`, also while data is copied on other connections. Sessions expire after
    /// 30 minutes by default and an administrator may shorten that: 5 minutes are usual. Needs a tokio runtime.
    pub fn spawn_keep_alive(&self, every: Duration) -> KeepAlive {
        let client = self.clone();
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                if let Err(error) = client.check_session().await {
                    tracing::warn!(%error, "keeping the session alive failed");
                }
            }
        });
        KeepAlive { task }
    }

    /// Makes sure that we are logged in: the server answers `CurrentTime` only to those who are.
    ///
    /// # Errors
    /// What the server says, or how the connection failed.
    pub async fn check_session(&self) -> Result<(), Error> {
        let instance = Moref::new("ServiceInstance", "ServiceInstance");
        self.read(&method("CurrentTime", &instance)).await.map(drop)
    }
}
