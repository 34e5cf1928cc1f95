//! Which code answers which method, and the methods that are short.

use std::sync::Arc;
use std::time::Duration;

use vsphere::xml::{Element, Moref};

use super::collector::{Found, Spec};
use super::events::Happening;
use super::inventory::{self, Inventory};
use super::session::Session;
use super::soap::{Call, Fault, Returned};
use super::updates::{self, Idle};
use super::value::{Object, Value};
use super::{Service, search, vm_methods};
use crate::world::DatastorePath;

/// Id of the only property collector.
pub(super) const COLLECTOR: &str = "propertyCollector";

/// A call and where it came from.
pub(super) struct Context<'a> {
    pub(super) service: &'a Arc<Service>,
    /// The session's cookie, empty if there is none.
    pub(super) cookie: &'a str,
    pub(super) call: &'a Call,
}

/// What a method answers.
pub(super) struct Answer {
    pub(super) returned: Option<Value>,
    /// A new session's cookie.
    pub(super) login: Option<String>,
}

impl Context<'_> {
    /// Works with the session of the call.
    pub(super) fn session<T>(&self, work: impl FnOnce(&mut Session) -> T) -> Result<T, Fault> {
        self.service.sessions.with(self.cookie, work).ok_or_else(Fault::not_authenticated)
    }

    /// The inventory as the caller sees it.
    pub(super) fn inventory(&self) -> Inventory<'_> {
        Inventory::load(self.service, self.cookie)
    }

    /// Who calls.
    pub(super) fn user(&self) -> Result<String, Fault> {
        self.session(|session| session.user.clone())
    }

    fn changes_something(&self) {
        let (method, object) = (self.call.method.clone(), self.call.this.value.clone());
        self.service.events.add(Happening::Call { method, object });
    }
}

/// Calls that need no login.
fn is_open(call: &Call) -> bool {
    match call.method.as_str() {
        "RetrieveServiceContent" | "Login" => true,
        "Fetch" => call.this.kind == "ServiceInstance",
        _ => false,
    }
}

/// Answers a call.
pub(super) fn answer(context: &Context<'_>) -> Result<Answer, Fault> {
    if !context.service.sessions.touch(context.cookie) && !is_open(context.call) {
        return Err(Fault::not_authenticated());
    }
    if context.call.method == "Login" {
        return login(context);
    }
    Ok(Answer { returned: dispatch(context)?, login: None })
}

fn dispatch(context: &Context<'_>) -> Returned {
    let method = context.call.method.as_str();
    match method {
        "RetrieveServiceContent" => Ok(Some(service_content(context.service))),
        "CurrentTime" => Ok(Some(Value::time(jiff::Timestamp::now()))),
        "Logout" => logout(context),
        "SessionIsActive" => session_is_active(context),
        "Fetch" => fetch(context),
        "RetrieveProperties" => Ok(Some(objects(&evaluate(context)?))),
        "RetrievePropertiesEx" => retrieve_ex(context),
        "ContinueRetrievePropertiesEx" => continue_ex(context),
        "CancelRetrievePropertiesEx" => cancel_ex(context),
        "CreateContainerView" => create_view(context),
        "DestroyView" => destroy_view(context),
        "CreateFilter" => updates::create(context),
        "DestroyPropertyFilter" => updates::destroy(context),
        "WaitForUpdates" => updates::wait(context, None, Idle::SameVersion),
        "WaitForUpdatesEx" => updates::wait(context, longest_wait(context), Idle::Empty),
        "CheckForUpdates" => updates::wait(context, Some(Duration::ZERO), Idle::Empty),
        "MakeDirectory" => make_directory(context),
        _ if method.starts_with("Find") => search::find(context),
        _ => {
            context.changes_something();
            vm_methods::dispatch(context)
        }
    }
}

/// `ServiceInstance.content`. Managers that are not there are features that are not there.
pub(super) fn service_content(service: &Service) -> Value {
    let about = Object::new("AboutInfo")
        .with("name", "stillframe lab")
        .with("fullName", "stillframe lab 8.0.1 build-0 (simulated)")
        .with("vendor", "stillframe")
        .with("version", "8.0.1")
        .with("build", "0")
        .with("osType", "linux-x64")
        .with("productLineId", "vpx")
        .with("apiType", "VirtualCenter")
        .with("apiVersion", super::soap::VERSIONS[0])
        .with("instanceUuid", service.identity.instance_uuid.to_string());
    let manager = |kind: &str| Moref::new(kind, kind);
    Object::new("ServiceContent")
        .with("rootFolder", Moref::new("Folder", inventory::ROOT))
        .with("propertyCollector", Moref::new("PropertyCollector", COLLECTOR))
        .with("viewManager", manager("ViewManager"))
        .with("about", about)
        .with("sessionManager", manager("SessionManager"))
        .with("searchIndex", manager("SearchIndex"))
        .with("fileManager", manager("FileManager"))
        .into()
}

fn login(context: &Context<'_>) -> Result<Answer, Fault> {
    let user = context.call.text("userName")?.to_owned();
    let password = context.call.text("password")?;
    let identity = &context.service.identity;
    if user != identity.user || password != identity.password {
        context.service.events.add(Happening::LoginRefused { user });
        let message = "Cannot complete login due to an incorrect user name or password.";
        return Err(Fault::new("InvalidLogin", message));
    }
    let (cookie, value) = context.service.sessions.open(&user);
    context.service.events.add(Happening::Login { user });
    Ok(Answer { returned: Some(value), login: Some(cookie) })
}

fn logout(context: &Context<'_>) -> Returned {
    if context.service.sessions.close(context.cookie) {
        context.service.events.add(Happening::Logout);
    }
    Ok(None)
}

fn session_is_active(context: &Context<'_>) -> Returned {
    let (key, user) = (context.call.text("sessionID")?, context.call.text("userName")?);
    Ok(Some(context.service.sessions.is_active(key, user).into()))
}

/// Reads one property. No method of the published API, but what clients of this kind call for it.
fn fetch(context: &Context<'_>) -> Returned {
    let call = context.call;
    let inventory = context.inventory();
    if !inventory.exists(&call.this) {
        return Err(Fault::not_found(&call.this));
    }
    let path = call.text("prop")?;
    inventory.property(&call.this, path).map_err(|_| Fault::invalid_property(path))
}

fn evaluate(context: &Context<'_>) -> Result<Vec<Found>, Fault> {
    let inventory = context.inventory();
    let mut found = Vec::new();
    for spec in context.call.arguments.children_named("specSet") {
        found.extend(Spec::parse(spec)?.evaluate(&inventory)?);
    }
    Ok(found)
}

fn objects(found: &[Found]) -> Value {
    Value::List("ObjectContent", found.iter().map(Found::value).collect())
}

fn retrieve_ex(context: &Context<'_>) -> Returned {
    let wanted = match context.call.arguments.at(&["options", "maxObjects"]) {
        Some(number) => number.text.trim().parse().ok().filter(|n| *n > 0),
        None => Some(usize::MAX),
    };
    let wanted = wanted.ok_or_else(|| Fault::invalid_argument("options.maxObjects"))?;
    page(context, evaluate(context)?, wanted)
}

/// Hands out the first of `found` and keeps the others for the next call.
fn page(context: &Context<'_>, mut found: Vec<Found>, wanted: usize) -> Returned {
    if found.is_empty() {
        return Ok(None);
    }
    let size = wanted.min(context.service.options.page);
    let rest = found.split_off(size.min(found.len()));
    let token = if rest.is_empty() {
        None
    } else {
        Some(context.session(|session| {
            let token = session.new_id("page-");
            session.pages.insert(token.clone(), rest);
            token
        })?)
    };
    Ok(Some(Object::new("RetrieveResult").maybe("token", token).with("objects", objects(&found)).into()))
}

fn kept_page(context: &Context<'_>) -> Result<Vec<Found>, Fault> {
    let token = context.call.text("token")?;
    context.session(|session| session.pages.remove(token))?.ok_or_else(|| Fault::invalid_argument("token"))
}

fn continue_ex(context: &Context<'_>) -> Returned {
    page(context, kept_page(context)?, usize::MAX)
}

fn cancel_ex(context: &Context<'_>) -> Returned {
    kept_page(context).map(|_| None)
}

fn create_view(context: &Context<'_>) -> Returned {
    let view = inventory::view_of(context.call)?;
    if !context.inventory().exists(&view.container) {
        return Err(Fault::not_found(&view.container));
    }
    let id = context.session(|session| {
        let id = session.new_id("session-view-");
        session.views.insert(id.clone(), view);
        id
    })?;
    Ok(Some(Moref::new("ContainerView", id).into()))
}

fn destroy_view(context: &Context<'_>) -> Returned {
    let this = &context.call.this;
    let removed = context.session(|session| session.views.remove(&this.value))?;
    removed.map(|_| None).ok_or_else(|| Fault::not_found(this))
}

fn longest_wait(context: &Context<'_>) -> Option<Duration> {
    let seconds = context.call.arguments.at(&["options", "maxWaitSeconds"]).map(|e: &Element| e.text.trim().parse());
    seconds.and_then(Result::ok).map(Duration::from_secs)
}

/// The `[datastore] path` in an argument.
pub(super) fn path_argument(call: &Call, name: &'static str) -> Result<DatastorePath, Fault> {
    let text = call.text(name)?;
    DatastorePath::parse(text).ok_or_else(|| {
        Fault::new("InvalidDatastorePath", format!("{text:?} is no datastore path")).field("datastorePath", text)
    })
}

fn make_directory(context: &Context<'_>) -> Returned {
    context.changes_something();
    let path = path_argument(context.call, "name")?;
    let with_parents = context.call.flag("createParentDirectories");
    let made = context.service.world.make_directory(&path.datastore, &path.path, with_parents);
    made.map(|()| None).map_err(|error| super::errors::file_fault(&path, &error))
}
