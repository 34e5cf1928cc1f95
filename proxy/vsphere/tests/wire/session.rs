//! Logins, expiry, versions.

use std::time::Duration;

use vsphere::{Client, Error};

use crate::server::{COOKIE, Reply, Request, Server, nothing, vm};

/// Answers `times` calls of `method` with NotAuthenticated.
fn expired(method: &'static str, mut times: usize) -> impl FnMut(&Request) -> Option<Reply> {
    move |request| {
        if request.call() != method || times == 0 {
            return None;
        }
        times -= 1;
        Some(Reply::fault("NotAuthenticated", ""))
    }
}

#[tokio::test]
async fn the_cookie_goes_back_byte_for_byte_and_logout_ends_it() {
    let server = Server::start(nothing).await;
    let client = server.client().await;
    client.check_session().await.unwrap();
    client.logout().await;
    assert_eq!(server.requests("Login")[0].header("cookie"), None);
    for call in ["CurrentTime", "Logout"] {
        assert_eq!(server.requests(call)[0].header("cookie"), Some(COOKIE));
    }
    client.check_session().await.unwrap();
    assert_eq!(server.requests("CurrentTime")[1].header("cookie"), None);
}

#[tokio::test]
async fn passwords_are_escaped_and_a_bad_one_is_sent_once() {
    let server = Server::start(|r| (r.call() == "Login").then(|| Reply::fault("InvalidLogin", ""))).await;
    let client = Client::connect(server.endpoint()).await.unwrap();
    let error = client.login("dom\\u", "a<&>\"").await.unwrap_err();
    assert!(matches!(error, Error::InvalidLogin { .. }) && !error.is_transient(), "{error}");
    assert_eq!(server.requests("Login").len(), 1);
    assert!(server.requests("Login")[0].body.contains("<password>a&lt;&amp;&gt;"), "{:?}", server.requests("Login"));
}

#[tokio::test]
async fn an_expired_session_is_renewed_once_and_the_call_repeated() {
    let server = Server::start(expired("CurrentTime", 1)).await;
    let client = server.client().await;
    client.check_session().await.unwrap();
    assert_eq!((server.count("Login"), server.count("CurrentTime")), (2, 2));
}

#[tokio::test]
async fn a_session_that_does_not_hold_is_renewed_at_most_once_a_minute() {
    let server = Server::start(expired("CurrentTime", usize::MAX)).await;
    let client = server.client().await;
    for _ in 0..3 {
        assert_eq!(client.check_session().await.unwrap_err().fault_kind(), Some("NotAuthenticated"));
    }
    assert_eq!(server.count("Login"), 2);
}

#[tokio::test]
async fn many_calls_that_find_the_session_gone_log_in_once() {
    let mut logins = 0;
    let server = Server::start(move |request| match request.call() {
        "Login" => {
            logins += 1;
            let reply = Reply::soap("Login", "<returnval/>");
            Some(reply.with_header("Set-Cookie", format!("vmware_soap_session={logins}")))
        }
        "CurrentTime" if request.header("cookie") == Some("vmware_soap_session=1") => {
            Some(Reply::fault("NotAuthenticated", ""))
        }
        _ => None,
    })
    .await;
    let client = server.client().await;
    let calls = [(); 4].map(|()| client.check_session());
    let [a, b, c, d] = calls;
    let (a, b, c, d) = tokio::join!(a, b, c, d);
    for done in [a, b, c, d] {
        done.unwrap();
    }
    assert_eq!(server.count("Login"), 2);
}

#[tokio::test]
async fn without_a_login_nothing_is_renewed() {
    let server = Server::start(expired("CurrentTime", usize::MAX)).await;
    let client = Client::connect(server.endpoint()).await.unwrap();
    assert!(client.check_session().await.is_err());
    assert_eq!(server.count("Login"), 0);
}

#[tokio::test]
async fn a_view_that_died_with_its_session_is_made_again() {
    let mut expire = expired("RetrievePropertiesEx", 1);
    let server = Server::start(move |request| match request.call() {
        "CreateContainerView" => {
            Some(Reply::soap("CreateContainerView", "<returnval type='ContainerView'>view</returnval>"))
        }
        "RetrievePropertiesEx" => expire(request).or_else(|| Some(Reply::soap("RetrievePropertiesEx", ""))),
        "DestroyView" => Some(Reply::soap("DestroyView", "")),
        _ => None,
    })
    .await;
    let client = server.client().await;
    assert_eq!(client.virtual_machines().await.unwrap(), []);
    assert_eq!((server.count("CreateContainerView"), server.count("Login")), (2, 2));
}

#[tokio::test]
async fn the_timer_keeps_asking_until_it_is_dropped() {
    let server = Server::start(nothing).await;
    let client = server.client().await;
    let alive = client.spawn_keep_alive(Duration::from_millis(20));
    while server.count("CurrentTime") < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(alive);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let count = server.count("CurrentTime");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(server.count("CurrentTime"), count);
}

#[tokio::test]
async fn the_newest_common_version_is_announced() {
    let server = Server::start(nothing).await;
    let client = server.client().await;
    assert_eq!(client.api_version(), "6.7.1");
    assert!(client.is_vcenter());
    assert_eq!(server.requests("Login")[0].header("soapaction"), Some("\"urn:vim25/6.7.1\""));
    assert_eq!(server.requests("Login")[0].header("expect"), None);
}

#[tokio::test]
async fn an_unknown_version_is_stepped_down() {
    let server = Server::start(|request| {
        let action = request.header("soapaction")?;
        let code = "<s:Fault><faultcode>s:VersionMismatchFaultCode</faultcode>\
                    <faultstring>Unsupported version URI</faultstring></s:Fault>";
        (!action.contains("/6.5")).then(|| Reply::xml(500, code))
    })
    .await;
    assert_eq!(Client::connect(server.endpoint()).await.unwrap().api_version(), "6.5");
    let mut endpoint = server.endpoint();
    endpoint.api_version = Some("8.0.3.0".to_owned());
    let error = Client::connect(endpoint).await.unwrap_err();
    assert_eq!(error.fault_kind(), Some("VersionMismatch"));
}

#[tokio::test]
async fn a_server_without_a_list_of_versions_is_asked_in_the_oldest() {
    let server = Server::start(|r| r.target.ends_with("Versions.xml").then(|| Reply::status(404))).await;
    let client = Client::connect(server.endpoint()).await.unwrap();
    assert_eq!(client.api_version(), "6.7.1");
    let actions: Vec<_> = server.requests("RetrieveServiceContent");
    let actions: Vec<_> = actions.iter().map(|r| r.header("soapaction").unwrap()).collect();
    assert_eq!(actions, ["\"urn:vim25/2.5\"", "\"urn:vim25/6.7.1\""]);
}

#[tokio::test]
async fn only_reads_are_repeated_on_a_broken_connection() {
    let mut broken = 0;
    let server = Server::start(move |request| {
        if broken < 1 && matches!(request.call(), "CurrentTime") {
            broken += 1;
            return Some(Reply::Raw(vec![]));
        }
        (request.call() == "CreateSnapshot_Task").then(|| Reply::Raw(vec![]))
    })
    .await;
    let client = server.client().await;
    client.check_session().await.unwrap();
    assert_eq!(server.count("CurrentTime"), 2);
    let error = client.create_snapshot(&vm(), "n", "d", false).await.unwrap_err();
    assert!(matches!(error, Error::Dropped { .. }) && error.is_transient(), "{error:?}");
    assert_eq!(server.count("CreateSnapshot_Task"), 1);
}
