//! Who is trusted, and what connection failures say.

use tokio::net::TcpListener;
use vsphere::{Client, ConnectFailure, Endpoint, Error, Family, Presented, Thumbprint, TlsPolicy};

use crate::server::{Server, nothing};

async fn connect(server: &Server, host: &str, tls: TlsPolicy) -> Result<(), Error> {
    let mut endpoint = server.endpoint();
    endpoint.host = host.to_owned();
    endpoint.tls = tls;
    Client::connect(endpoint).await.map(drop)
}

fn found_by(error: &Error) -> &Presented {
    match error {
        Error::Tls { found, .. } => found,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_pin_is_enough_and_another_one_is_refused_with_what_was_found() {
    let server = Server::start(nothing).await;
    for pin in [server.presented.sha1, server.presented.sha256] {
        connect(&server, "127.0.0.1", TlsPolicy::Pins(vec![Thumbprint::Sha1([7; 20]), pin])).await.unwrap();
    }
    let error = connect(&server, "127.0.0.1", TlsPolicy::Pins(vec![Thumbprint::Sha256([7; 32])])).await.unwrap_err();
    assert_eq!(found_by(&error), &server.presented);
    let text = error.to_string();
    for part in [format!("127.0.0.1:{}", server.port), "07:07:07".into(), server.presented.sha256.to_string()] {
        assert!(text.contains(&part), "{text}");
    }
    assert!(!error.is_transient());
    assert!(connect(&server, "127.0.0.1", TlsPolicy::Pins(vec![])).await.is_err());
}

#[tokio::test]
async fn an_authority_is_checked_with_the_name() {
    let server = Server::start(nothing).await;
    let folder = tempfile::tempdir().unwrap();
    let ca = server.pem_file(folder.path());
    connect(&server, "localhost", TlsPolicy::CaFile(ca.clone())).await.unwrap();
    let error = connect(&server, "127.0.0.1", TlsPolicy::CaFile(ca)).await.unwrap_err();
    assert_eq!(found_by(&error), &server.presented);
    let other = Server::start(nothing).await;
    let error = connect(&other, "localhost", TlsPolicy::CaFile(server.pem_file(folder.path()))).await.unwrap_err();
    assert!(error.to_string().contains("ca.pem"), "{error}");
}

#[tokio::test]
async fn authority_and_pin_must_both_hold() {
    let server = Server::start(nothing).await;
    let folder = tempfile::tempdir().unwrap();
    let ca = server.pem_file(folder.path());
    let both = |pin| TlsPolicy::CaFileAndPins(ca.clone(), vec![pin]);
    connect(&server, "localhost", both(server.presented.sha1)).await.unwrap();
    assert!(connect(&server, "localhost", both(Thumbprint::Sha1([0; 20]))).await.is_err());
    assert!(connect(&server, "127.0.0.1", both(server.presented.sha1)).await.is_err());
}

#[tokio::test]
async fn nothing_is_checked_only_when_that_is_said() {
    let server = Server::start(nothing).await;
    connect(&server, "127.0.0.1", TlsPolicy::Insecure).await.unwrap();
    let error = connect(&server, "localhost", TlsPolicy::SystemRoots).await.unwrap_err();
    assert!(matches!(error, Error::Tls { .. } | Error::TrustAnchors { .. }), "{error:?}");
}

#[tokio::test]
async fn files_without_certificates_are_named() {
    let server = Server::start(nothing).await;
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "nothing").unwrap();
    for path in [empty, folder.path().join("absent.pem")] {
        let error = connect(&server, "localhost", TlsPolicy::CaFile(path.clone())).await.unwrap_err();
        assert!(matches!(error, Error::TrustAnchors { .. }), "{error:?}");
        assert!(error.to_string().contains(&*path.to_string_lossy()), "{error}");
    }
}

#[tokio::test]
async fn connection_failures_say_where_and_why() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut endpoint = Endpoint::new("127.0.0.1");
    (endpoint.port, endpoint.tls) = (port, TlsPolicy::Insecure);
    endpoint.timeouts.connect = std::time::Duration::from_millis(300);
    // Nobody answers the handshake.
    let error = Client::connect(endpoint.clone()).await.unwrap_err();
    assert!(matches!(error, Error::Connect { reason: ConnectFailure::TimedOut, .. }), "{error:?}");
    drop(listener);
    let error = Client::connect(endpoint.clone()).await.unwrap_err();
    assert!(matches!(error, Error::Connect { reason: ConnectFailure::Refused, .. }), "{error:?}");
    assert_eq!(error.to_string(), format!("cannot connect to 127.0.0.1:{port}: connection refused"));
    assert_eq!((error.is_transient(), error.family()), (true, Family::Io));
    endpoint.host = "no-such-host.invalid".to_owned();
    let error = Client::connect(endpoint.clone()).await.unwrap_err();
    assert!(matches!(error, Error::Connect { reason: ConnectFailure::Dns, .. }), "{error:?}");
    endpoint.host = "user@host/path".to_owned();
    assert!(matches!(Client::connect(endpoint).await, Err(Error::Argument { .. })));
}

#[tokio::test]
async fn a_server_without_tls_is_a_handshake_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut endpoint = Endpoint::new("127.0.0.1");
    (endpoint.port, endpoint.tls) = (listener.local_addr().unwrap().port(), TlsPolicy::Insecure);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let error = Client::connect(endpoint).await.unwrap_err();
    assert!(matches!(error, Error::Handshake { .. }), "{error:?}");
}
