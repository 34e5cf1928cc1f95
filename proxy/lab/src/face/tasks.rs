//! Tasks: work that goes on after the call that started it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::runtime::Handle;
use vsphere::xml::Moref;

use super::Service;
use super::events::Happening;
use super::soap::Fault;
use super::value::{Object, Value};

/// So many ended tasks can still be read; a client asks within seconds.
const KEPT: usize = 1000;

/// What a task is about.
pub(super) struct Job {
    /// The method without `_Task`, as `VirtualMachine.createSnapshot`.
    pub(super) description: &'static str,
    /// The method's name on the wire.
    pub(super) method: String,
    /// The object it works on.
    pub(super) entity: Moref,
    /// That object's name.
    pub(super) entity_name: String,
    /// Who started it.
    pub(super) user: String,
    /// How long it stands still before it does anything.
    pub(super) hang: Option<Duration>,
}

struct Task {
    number: u64,
    job: Job,
    state: State,
    queued: Timestamp,
    started: Option<Timestamp>,
    completed: Option<Timestamp>,
}

enum State {
    Queued,
    Running(i32),
    Success(Option<Value>),
    Error(Fault),
}

/// All tasks.
pub(super) struct Tasks {
    list: Mutex<List>,
    runtime: Handle,
}

#[derive(Default)]
struct List {
    next: u64,
    tasks: BTreeMap<u64, Task>,
}

impl Task {
    /// Real servers list a task as recent for ten minutes after its end.
    fn is_recent(&self) -> bool {
        let over = self.completed.map(|end| Timestamp::now().duration_since(end));
        over.is_none_or(|over| over.as_secs() < 600)
    }
}

fn id_of(number: u64) -> String {
    format!("task-{number}")
}

fn number_of(id: &str) -> Option<u64> {
    id.strip_prefix("task-")?.parse().ok()
}

impl Tasks {
    pub(super) fn new(runtime: Handle) -> Self {
        Self { list: Mutex::default(), runtime }
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The task that works on this VM now.
    fn busy(list: &List, entity: &Moref) -> Option<u64> {
        let works = |task: &&Task| task.completed.is_none() && task.job.entity == *entity;
        list.tasks.values().find(works).map(|task| task.number)
    }

    /// Starts a task. Its work is done on a thread for blocking work.
    ///
    /// # Errors
    /// TaskInProgress if one works on the same VM.
    pub(super) fn start(
        service: &Arc<Service>,
        job: Job,
        work: impl FnOnce(&Service) -> Result<Option<Value>, Fault> + Send + 'static,
    ) -> Result<Moref, Fault> {
        let hang = job.hang;
        let number = {
            let mut list = service.tasks.list();
            if job.entity.kind == "VirtualMachine"
                && let Some(other) = Self::busy(&list, &job.entity)
            {
                return Err(in_progress(&Moref::new("Task", id_of(other))));
            }
            list.next = list.next.saturating_add(1);
            let number = list.next;
            let queued = Timestamp::now();
            let task = Task { number, job, state: State::Queued, queued, started: None, completed: None };
            list.tasks.insert(number, task);
            forget_old(&mut list);
            number
        };
        let service = Arc::clone(service);
        let runtime = service.tasks.runtime.clone();
        runtime.spawn(async move {
            service.tasks.set(number, State::Running(5));
            if let Some(hang) = hang
                && !service.pause(hang).await
            {
                return;
            }
            let _ = tokio::task::spawn_blocking(move || {
                service.tasks.set(number, State::Running(30));
                let end = match work(&service) {
                    Ok(result) => State::Success(result),
                    Err(fault) => State::Error(fault),
                };
                let fault = if let State::Error(fault) = &end { Some(fault.kind().to_owned()) } else { None };
                service.tasks.set(number, end);
                service.events.add(Happening::TaskEnded { task: id_of(number), fault });
            })
            .await;
        });
        Ok(Moref::new("Task", id_of(number)))
    }

    fn set(&self, number: u64, state: State) {
        let mut list = self.list();
        let Some(task) = list.tasks.get_mut(&number) else { return };
        match state {
            State::Queued | State::Running(_) => {
                task.started.get_or_insert_with(Timestamp::now);
            }
            State::Success(_) | State::Error(_) => task.completed = Some(Timestamp::now()),
        }
        task.state = state;
    }

    /// The tasks on this object that are not long over, oldest first.
    pub(super) fn of(&self, entity: &Moref) -> Vec<Moref> {
        let list = self.list();
        let own = list.tasks.values().filter(|task| task.job.entity == *entity && task.is_recent());
        own.map(|task| Moref::new("Task", id_of(task.number))).collect()
    }

    /// `info` of a task; `None` if there is no such task.
    pub(super) fn info(&self, id: &str) -> Option<Value> {
        let list = self.list();
        list.tasks.get(&number_of(id)?).map(Task::info)
    }
}

fn forget_old(list: &mut List) {
    let ended: Vec<u64> = list.tasks.values().filter(|t| t.completed.is_some()).map(|t| t.number).collect();
    for number in ended.iter().take(ended.len().saturating_sub(KEPT)) {
        list.tasks.remove(number);
    }
}

/// The fault of a call that has to wait for another task.
pub(super) fn in_progress(task: &Moref) -> Fault {
    Fault::new("TaskInProgress", "Another task is already in progress.").field("task", task)
}

impl Task {
    fn info(&self) -> Value {
        let (state, progress) = match &self.state {
            State::Queued => ("queued", None),
            State::Running(percent) => ("running", Some(*percent)),
            State::Success(_) => ("success", None),
            State::Error(_) => ("error", None),
        };
        let error = if let State::Error(fault) = &self.state { Some(fault.localized()) } else { None };
        let result = if let State::Success(value) = &self.state { value.clone().map(Value::any) } else { None };
        let reason = Object::subtype("TaskReasonUser").with("userName", self.job.user.as_str());
        Object::new("TaskInfo")
            .with("key", id_of(self.number))
            .with("task", Moref::new("Task", id_of(self.number)))
            .with("name", self.job.method.as_str())
            .with("descriptionId", self.job.description)
            .with("entity", &self.job.entity)
            .with("entityName", self.job.entity_name.as_str())
            .with("state", Value::constant("TaskInfoState", state))
            .with("cancelled", false)
            .with("cancelable", false)
            .maybe("error", error)
            .maybe("result", result)
            .maybe("progress", progress)
            .with("reason", reason)
            .with("queueTime", Value::time(self.queued))
            .maybe("startTime", self.started.map(Value::time))
            .maybe("completeTime", self.completed.map(Value::time))
            .with("eventChainId", i32::try_from(self.number).unwrap_or(i32::MAX))
            .into()
    }
}
