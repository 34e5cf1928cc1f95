//! Inventory, tasks and snapshots in shapes that real and odd servers send.

use std::time::Duration;

use vsphere::{Error, Family, Moref, PowerState, Task};

use crate::server::{Reply, Request, Server, vm};

/// A property answer with one object.
fn object(kind: &str, id: &str, rest: &str) -> String {
    format!("<objects><obj type='{kind}'>{id}</obj>{rest}</objects>")
}

fn value(path: &str, value: &str) -> String {
    format!("<propSet><name>{path}</name><val>{value}</val></propSet>")
}

fn page(inner: &str) -> Reply {
    Reply::soap("RetrievePropertiesEx", &format!("<returnval>{inner}</returnval>"))
}

fn views(request: &Request) -> Option<Reply> {
    match request.call() {
        "CreateContainerView" => {
            Some(Reply::soap("CreateContainerView", "<returnval type='ContainerView'>v</returnval>"))
        }
        "DestroyView" => Some(Reply::soap("DestroyView", "")),
        _ => None,
    }
}

#[tokio::test]
async fn the_list_goes_on_while_there_is_a_token_and_keeps_unreadable_vms() {
    let server = Server::start(|request| match request.call() {
        "RetrievePropertiesEx" => {
            let found =
                value("name", "a%2fb") + &value("runtime.powerState", "poweredOn") + &value("guest.ipAddress", "");
            Some(page(&format!("<token>1</token>{}", object("VirtualMachine", "vm-1", &found))))
        }
        "ContinueRetrievePropertiesEx" => {
            let hidden = "<missingSet><path>name</path><fault><fault i:type='NoPermission'/></fault></missingSet>";
            let (token, id) = if request.argument("token") == Some("1") { ("<token>2</token>", 2) } else { ("", 3) };
            let found = object("VirtualMachine", &format!("vm-{id}"), hidden);
            Some(Reply::soap("ContinueRetrievePropertiesEx", &format!("<returnval>{token}{found}</returnval>")))
        }
        _ => views(request),
    })
    .await;
    let vms = server.client().await.virtual_machines().await.unwrap();
    let ids: Vec<_> = vms.iter().map(|vm| vm.moref.value.as_str()).collect();
    assert_eq!(ids, ["vm-1", "vm-2", "vm-3"]);
    assert_eq!((vms[0].name.as_deref(), vms[0].power_state), (Some("a/b"), Some(PowerState::On)));
    assert_eq!((&vms[0].ip_address, &vms[1].name), (&None, &None));
    assert_eq!(server.count("DestroyView"), 1);
}

#[tokio::test]
async fn a_property_that_the_server_does_not_know_is_left_out() {
    let server = Server::start(|request| match request.call() {
        "RetrievePropertiesEx" if request.body.contains("runtime.connectionState") => {
            Some(Reply::fault("InvalidProperty", "<name>runtime.connectionState</name>"))
        }
        "RetrievePropertiesEx" => Some(page(&object("VirtualMachine", "vm-1", &value("name", "a")))),
        _ => views(request),
    })
    .await;
    assert_eq!(server.client().await.virtual_machines().await.unwrap().len(), 1);
    assert_eq!(server.count("RetrievePropertiesEx"), 2);
}

#[tokio::test]
async fn a_vm_whose_configuration_is_hidden_is_an_error_that_names_the_privilege() {
    let server = Server::start(|request| {
        let hidden = "<missingSet><path>config</path><fault><fault i:type='NoPermission'>\
                      <privilegeId>System.Read</privilegeId></fault></fault></missingSet>";
        (request.call() == "RetrievePropertiesEx").then(|| page(&object("VirtualMachine", "vm-1", hidden)))
    })
    .await;
    let error = server.client().await.vm_config(&vm()).await.unwrap_err();
    assert_eq!((error.fault_kind(), error.fault_field("privilegeId")), (Some("NoPermission"), Some("System.Read")));
}

/// A server whose task goes through `steps`, one per look.
async fn with_task(steps: Vec<String>) -> (Server, Task) {
    let mut steps = steps.into_iter().peekable();
    let server = Server::start(move |request| {
        if request.call() != "RetrievePropertiesEx" {
            return None;
        }
        let step = if steps.len() > 1 { steps.next() } else { steps.peek().cloned() };
        Some(page(&object("Task", "task-1", &step?)))
    })
    .await;
    (server, Task { moref: Moref::new("Task", "task-1"), method: "CreateSnapshot_Task".to_owned() })
}

#[tokio::test]
async fn a_task_is_followed_to_its_result() {
    let running = value("info.state", "running") + &value("info.progress", "40");
    let done = value("info.state", "success")
        + "<propSet><name>info.result</name><val type='VirtualMachineSnapshot'>s-1</val></propSet>";
    let (server, task) = with_task(vec![value("info.state", "queued"), running, done]).await;
    let mut seen = vec![];
    let result = server.client().await.wait_task(&task, &mut |p| seen.push(p), None).await.unwrap();
    assert_eq!(result.unwrap().moref(), Some(Moref::new("VirtualMachineSnapshot", "s-1")));
    assert_eq!(seen, [40]);
}

#[tokio::test]
async fn a_failed_task_gives_its_own_fault() {
    let error = "<propSet><name>info.error</name><val><fault i:type='TaskInProgress'><task type='Task'>t-9</task></fault>\
                 <localizedMessage>busy</localizedMessage></val></propSet>";
    let (server, task) = with_task(vec![value("info.state", "error") + error]).await;
    let error = server.client().await.wait_task(&task, &mut |_| {}, None).await.unwrap_err();
    assert_eq!(error.to_string(), "CreateSnapshot_Task failed with TaskInProgress: busy");
    assert_eq!(error.fault_field("task"), Some("t-9"));
    assert!(error.is_transient());
    assert_eq!(error.family(), Family::Server);
}

#[tokio::test]
async fn waiting_ends_at_the_limit() {
    let (server, task) = with_task(vec![value("info.state", "running")]).await;
    let limit = Some(Duration::from_millis(200));
    let error = server.client().await.wait_task(&task, &mut |_| {}, limit).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
}

#[tokio::test]
async fn snapshots_are_made_without_memory_and_removed_without_children() {
    let server = Server::start(|request| match request.call() {
        call @ ("CreateSnapshot_Task" | "RemoveSnapshot_Task") => {
            Some(Reply::soap(call, "<returnval type='Task'>task-1</returnval>"))
        }
        _ => None,
    })
    .await;
    let client = server.client().await;
    let task = client.create_snapshot(&vm(), "100%", "a & b", true).await.unwrap();
    assert_eq!((task.moref.value.as_str(), task.method.as_str()), ("task-1", "CreateSnapshot_Task"));
    let body = &server.requests("CreateSnapshot_Task")[0].body;
    let arguments =
        "<name>100%25</name><description>a &amp; b</description><memory>false</memory><quiesce>true</quiesce>";
    assert!(body.contains(arguments), "{body}");

    let snapshot = Moref::new("VirtualMachineSnapshot", "s-1");
    client.remove_snapshot(&snapshot).await.unwrap();
    let body = &server.requests("RemoveSnapshot_Task")[0].body;
    assert!(body.contains("<removeChildren>false</removeChildren><consolidate>true</consolidate>"), "{body}");
}

#[tokio::test]
async fn old_servers_get_no_arguments_or_methods_that_they_do_not_know() {
    let server = Server::start(|request| match request.call() {
        call @ "RemoveSnapshot_Task" => Some(Reply::soap(call, "<returnval type='Task'>t</returnval>")),
        "RetrieveProperties" => {
            let found = object("VirtualMachine", "vm-1", "").replace("objects", "returnval");
            Some(Reply::soap("RetrieveProperties", &found))
        }
        "FindByUuid" => Some(Reply::soap("FindByUuid", "<returnval type='VirtualMachine'>vm-1</returnval>")),
        _ => None,
    })
    .await;
    let mut endpoint = server.endpoint();
    endpoint.api_version = Some("2.5".to_owned());
    let client = vsphere::Client::connect(endpoint).await.unwrap();
    client.remove_snapshot(&Moref::new("VirtualMachineSnapshot", "s")).await.unwrap();
    assert!(!server.requests("RemoveSnapshot_Task")[0].body.contains("consolidate"));
    assert_eq!(client.snapshots(&vm()).await.unwrap(), []);
    assert_eq!(client.find_by_uuid("x").await.unwrap(), [vm()]);
    assert!(!server.requests("FindByUuid")[0].body.contains("instanceUuid"));
    assert!(!client.consolidation_needed(&vm()).await.unwrap());
}

#[tokio::test]
async fn a_server_without_plural_searches_is_asked_for_one() {
    let server = Server::start(|request| match request.call() {
        "FindAllByUuid" => Some(Reply::fault("MethodNotFound", "")),
        "FindByUuid" if request.body.contains("<instanceUuid>false") => {
            Some(Reply::soap("FindByUuid", "<returnval type='VirtualMachine'>vm-7</returnval>"))
        }
        "FindByUuid" => Some(Reply::soap("FindByUuid", "")),
        "FindAllByIp" => Some(Reply::soap("FindAllByIp", "")),
        _ => None,
    })
    .await;
    let client = server.client().await;
    assert_eq!(client.find_by_uuid("x").await.unwrap(), [Moref::new("VirtualMachine", "vm-7")]);
    assert_eq!(client.find_by_ip("192.0.2.1").await.unwrap(), []);
}

#[tokio::test]
async fn answers_that_are_no_soap_are_named() {
    let mut replies = vec![
        Reply::Http(200, vec![], b"<html>".to_vec()),
        Reply::Http(503, vec![], b"busy".to_vec()),
        Reply::Http(500, vec![], b"boom".to_vec()),
        Reply::xml(200, "<LoginResponse/>"),
    ];
    let server = Server::start(move |request| (request.call() == "CurrentTime").then(|| replies.remove(0))).await;
    let client = server.client().await;
    assert!(matches!(client.check_session().await.unwrap_err(), Error::Xml { .. }));
    let busy = client.check_session().await.unwrap_err();
    assert!(matches!(busy, Error::Http { status: 503, .. }) && busy.is_transient());
    assert!(matches!(client.check_session().await.unwrap_err(), Error::Http { status: 500, .. }));
    assert!(matches!(client.check_session().await.unwrap_err(), Error::Protocol { .. }));
}
