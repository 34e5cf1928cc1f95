//! Filters of the property collector: what changed since the last answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use vsphere::xml::Moref;

use super::collector::{Found, Spec};
use super::methods::Context;
use super::soap::{Fault, Returned};
use super::value::{Object, Value};

/// Between two looks at the filtered objects. The states that clients wait for last longer.
const LOOK_EVERY: Duration = Duration::from_millis(30);
/// A waiting call ends after this time without news at the latest, so that a client that went away holds no thread for ever.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A filter and what its owner knows already.
pub(super) struct Filter {
    spec: Arc<Spec>,
    sent: Vec<Found>,
}

/// How a wait that brought nothing ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Idle {
    /// With nothing: WaitForUpdatesEx and CheckForUpdates.
    Empty,
    /// With a set that says the version and nothing else: WaitForUpdates has no empty answer.
    SameVersion,
}

/// CreateFilter.
pub(super) fn create(context: &Context<'_>) -> Returned {
    let spec = context.call.arguments.child("spec").ok_or_else(|| Fault::invalid_argument("spec"))?;
    let spec = Arc::new(Spec::parse(spec)?);
    spec.evaluate(&context.inventory())?;
    let id = context.session(|session| {
        let id = session.new_id("filter-");
        session.filters.insert(id.clone(), Filter { spec, sent: Vec::new() });
        id
    })?;
    Ok(Some(Moref::new("PropertyFilter", id).into()))
}

/// DestroyPropertyFilter.
pub(super) fn destroy(context: &Context<'_>) -> Returned {
    let id = &context.call.this.value;
    let removed = context.session(|session| session.filters.remove(id))?;
    removed.map(|_| None).ok_or_else(|| Fault::not_found(&context.call.this))
}

/// WaitForUpdates, WaitForUpdatesEx and CheckForUpdates: what changed since `version`, or all if there is none.
pub(super) fn wait(context: &Context<'_>, longest: Option<Duration>, idle: Idle) -> Returned {
    let version = context.call.arguments.text_of("version").map(str::to_owned);
    let last = context.session(|session| session.version)?;
    match &version {
        None => context.session(|session| session.filters.values_mut().for_each(|filter| filter.sent.clear()))?,
        Some(version) if *version != last.to_string() => {
            return Err(Fault::new("InvalidCollectorVersion", "The version is not the last one"));
        }
        Some(_) => {}
    }
    let end = Instant::now() + longest.unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT);
    loop {
        let updates = look(context)?;
        let first = version.is_none() && idle == Idle::SameVersion;
        if !updates.is_empty() || first {
            let version = context.session(|session| {
                session.version = session.version.saturating_add(1);
                session.version
            })?;
            return Ok(Some(update_set(version, updates)));
        }
        if Instant::now() >= end || context.service.stopping() {
            return Ok((idle == Idle::SameVersion).then(|| update_set(last, Vec::new())));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn update_set(version: u64, updates: Vec<Value>) -> Value {
    Object::new("UpdateSet")
        .with("version", version.to_string())
        .with("filterSet", Value::List("PropertyFilterUpdate", updates))
        .into()
}

/// Compares each filter's objects with what was sent, and remembers them as sent.
fn look(context: &Context<'_>) -> Result<Vec<Value>, Fault> {
    let specs = context.session(|session| {
        let of = |(id, filter): (&String, &Filter)| (id.clone(), Arc::clone(&filter.spec));
        session.filters.iter().map(of).collect::<Vec<_>>()
    })?;
    let mut updates = Vec::new();
    for (id, spec) in specs {
        // The walk asks the session for its views, so it cannot be done inside of it.
        let now = gone_is_empty(spec.evaluate(&context.inventory()))?;
        let changes = context.session(|session| {
            let Some(filter) = session.filters.get_mut(&id) else { return Vec::new() };
            let changes = differences(&filter.sent, &now);
            filter.sent = now;
            changes
        })?;
        if !changes.is_empty() {
            let update = Object::new("PropertyFilterUpdate").with("filter", Moref::new("PropertyFilter", id));
            updates.push(update.with("objectSet", Value::List("ObjectUpdate", changes)).into());
        }
    }
    Ok(updates)
}

/// An object that vanished while it was watched is an update, no fault.
fn gone_is_empty(found: Result<Vec<Found>, Fault>) -> Result<Vec<Found>, Fault> {
    match found {
        Err(fault) if fault.kind() == "ManagedObjectNotFound" => Ok(Vec::new()),
        other => other,
    }
}

fn differences(before: &[Found], now: &[Found]) -> Vec<Value> {
    let of = |list: &'_ [Found], object: &Moref| list.iter().position(|found| found.object == *object);
    let mut updates = Vec::new();
    for found in now {
        let old = of(before, &found.object).and_then(|index| before.get(index));
        let changed = |(name, value): &&(String, Value)| {
            !old.is_some_and(|old| old.properties.iter().any(|(n, v)| n == name && v == value))
        };
        let changes: Vec<Value> = found
            .properties
            .iter()
            .filter(changed)
            .map(|(name, value)| {
                Object::new("PropertyChange")
                    .with("name", name.as_str())
                    .with("op", Value::constant("PropertyChangeOp", "assign"))
                    .with("val", Value::any(value.clone()))
                    .into()
            })
            .collect();
        if old.is_none() || !changes.is_empty() {
            updates.push(update(if old.is_none() { "enter" } else { "modify" }, &found.object, changes));
        }
    }
    for gone in before.iter().filter(|found| of(now, &found.object).is_none()) {
        updates.push(update("leave", &gone.object, Vec::new()));
    }
    updates
}

fn update(kind: &str, object: &Moref, changes: Vec<Value>) -> Value {
    Object::new("ObjectUpdate")
        .with("kind", Value::constant("ObjectUpdateKind", kind))
        .with("obj", object)
        .with("changeSet", Value::List("PropertyChange", changes))
        .into()
}
