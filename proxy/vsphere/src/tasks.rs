//! Waiting for what the server does in the background.

use std::time::{Duration, Instant};

use crate::client::Client;
use crate::error::Error;
use crate::fault::Fault;
use crate::properties::Object;
use crate::xml::{Element, Moref};

/// The first pause. Many tasks are over at once.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The longest pause. A removal may take hours.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A task outlives our connection, so this many failed looks in a row are forgiven: with the growing pauses and the call's
/// own time limit, between half a minute and ten minutes of a server that restarts.
const FORGIVEN_FAILURES: u32 = 8;

/// Something that the server does in the background. It goes on without us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The task.
    pub moref: Moref,
    /// The method that began it.
    pub method: String,
}

impl Task {
    pub(crate) fn new(method: String, moref: Moref) -> Self {
        Self { moref, method }
    }
}

impl Client {
    /// The tasks on `vm` that are still going on, whoever began them.
    ///
    /// # Errors
    /// What the server says, or how the connection failed.
    pub async fn active_tasks(&self, vm: &Moref) -> Result<Vec<Task>, Error> {
        let object = self.properties_of(vm, "VirtualMachine", &["recentTask"]).await?;
        let recent = object.value("recentTask").map(|list| &list.children[..]).unwrap_or_default();
        let mut active = Vec::new();
        for moref in recent.iter().filter_map(Element::moref) {
            let paths = ["info.state", "info.descriptionId"];
            let info = match self.properties_of(&moref, "Task", &paths).await {
                Err(error) if error.is_object_gone() => continue, // it ended and was forgotten meanwhile
                info => info?,
            };
            if matches!(info.text("info.state"), Some("queued" | "running")) {
                let method = info.string("info.descriptionId").unwrap_or_else(|| "a task".to_owned());
                active.push(Task::new(method, moref));
            }
        }
        Ok(active)
    }

    /// Waits for `task` to end and returns its result. `on_progress` gets percents. Without `limit` this waits as long as
    /// the task runs; the task itself is never cancelled.
    ///
    /// # Errors
    /// [`Error::Fault`] with the task's own error, [`Error::Timeout`] after `limit`, or how the connection failed.
    pub async fn wait_task(
        &self,
        task: &Task,
        on_progress: &mut (dyn FnMut(u8) + Send),
        limit: Option<Duration>,
    ) -> Result<Option<Element>, Error> {
        let begun = Instant::now();
        let mut pause = FIRST_PAUSE;
        let mut failures: u32 = 0;
        loop {
            let paths = ["info.state", "info.progress", "info.error", "info.result"];
            match self.properties_of(&task.moref, "Task", &paths).await {
                Ok(info) => {
                    failures = 0;
                    if let Some(progress) = info.parsed::<u8>("info.progress") {
                        on_progress(progress.min(100));
                    }
                    if let Some(end) = end_of(task, &info) {
                        return end;
                    }
                }
                Err(error) if error.is_transient() && failures < FORGIVEN_FAILURES => {
                    failures = failures.saturating_add(1);
                    tracing::warn!(%error, method = task.method, "looking at a task failed");
                }
                Err(error) => return Err(error),
            }
            let left = limit.map(|limit| limit.saturating_sub(begun.elapsed()));
            if left == Some(Duration::ZERO) {
                return Err(Error::Timeout { what: task.method.clone(), after: limit.unwrap_or_default() });
            }
            tokio::time::sleep(left.map_or(pause, |left| left.min(pause))).await;
            pause = next_pause(pause);
        }
    }
}

/// Doubled up to half a second, then slower.
fn next_pause(pause: Duration) -> Duration {
    let grown = if pause < Duration::from_millis(500) { pause.saturating_mul(2) } else { pause.mul_f32(1.5) };
    grown.min(LONGEST_PAUSE)
}

/// The result of a task that is over.
fn end_of(task: &Task, info: &Object) -> Option<Result<Option<Element>, Error>> {
    match info.text("info.state") {
        Some("success") => Some(Ok(info.value("info.result").cloned())),
        Some("error") => Some(Err(match info.value("info.error") {
            Some(error) => Error::fault(&task.method, Fault::from_localized(error)),
            None => Error::protocol(&task.method, "the error of a failed task", "none"),
        })),
        Some("queued" | "running") => None,
        other => Some(Err(match info.required("info.state") {
            Err(error) => error,
            Ok(_) => Error::protocol(&task.method, "a task state", other.unwrap_or("an empty one")),
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_from_fast_to_five_seconds() {
        let pauses: Vec<u128> = std::iter::successors(Some(FIRST_PAUSE), |p| Some(next_pause(*p)))
            .take(12)
            .map(|p| p.as_millis())
            .collect();
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1200, 1800, 2700, 4050, 5000, 5000, 5000]);
    }
}
