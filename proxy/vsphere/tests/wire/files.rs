//! Datastore files: ranges that are right and wrong in every way, uploads, encodings.

use bytes::Bytes;
use futures_util::stream;
use std::io;
use vsphere::{DatastoreFile, DatastorePath, Error, RangeBody};

use crate::server::{Reply, Request, Server, nothing};

/// A server with `reply` for each request under `/folder`.
async fn folder(mut reply: impl FnMut(&Request) -> Option<Reply> + Send + 'static) -> Server {
    Server::start(move |request| if request.target.starts_with("/folder") { reply(request) } else { None }).await
}

async fn file(server: &Server) -> DatastoreFile {
    server.client().await.datastore_file("North/DC 1", &DatastorePath::new("ds 1", "a b/c+d%.vmdk"))
}

const URL: &str = "/folder/a%20b/c%2Bd%25.vmdk?dcPath=North%2FDC%201&dsName=ds%201";

fn partial(range: &str, body: &[u8]) -> Reply {
    Reply::Http(206, vec![("Content-Range", range.to_owned())], body.to_vec())
}

async fn all(mut body: RangeBody) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![];
    while let Some(piece) = body.next().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

#[tokio::test]
async fn a_range_is_exactly_the_bytes_that_were_asked_for() {
    let server = folder(|_| Some(partial("bytes 5-9/100", b"56789"))).await;
    let body = file(&server).await.get_range(5, 5).await.unwrap();
    assert_eq!(body.total(), Some(100));
    assert_eq!(all(body).await.unwrap(), b"56789");
    let request = &server.requests("GET")[1];
    assert_eq!((request.target.as_str(), request.header("range")), (URL, Some("bytes=5-9")));
    assert!(request.header("cookie").is_some());
    assert_eq!(request.header("accept-encoding"), Some("identity"));
}

#[tokio::test]
async fn connections_are_used_again_after_a_range() {
    let server = folder(|_| Some(partial("bytes 0-2/3", b"abc"))).await;
    let file = file(&server).await;
    for _ in 0..3 {
        assert_eq!(all(file.get_range(0, 3).await.unwrap()).await.unwrap(), b"abc");
    }
    assert_eq!(all(file.get_range(7, 0).await.unwrap()).await.unwrap(), b"");
    assert_eq!(server.requests("GET").iter().filter(|r| r.target == URL).count(), 3);
}

#[tokio::test]
async fn a_whole_file_for_a_range_is_refused() {
    let server = folder(|_| Some(Reply::Http(200, vec![], vec![0; 100]))).await;
    let error = file(&server).await.get_range(5, 5).await.unwrap_err();
    assert!(matches!(error, Error::RangeIgnored { .. }), "{error:?}");
}

#[tokio::test]
async fn another_range_than_asked_for_is_refused() {
    let ranges = ["bytes 0-4/100", "bytes 5-8/100", "bytes 5-9/*", "bytes 5-9", "bytes 5-9/7", "bytes 5-90/100", ""];
    for range in ranges {
        let server = folder(|_| Some(partial(range, b"56789"))).await;
        let error = file(&server).await.get_range(5, 5).await.unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{range}: {error:?}");
    }
}

#[tokio::test]
async fn bodies_of_another_length_are_errors() {
    let head = "HTTP/1.1 206 X\r\nContent-Range: bytes 5-9/100\r\n";
    let short = folder(move |_| Some(Reply::Raw(format!("{head}Connection: close\r\n\r\n567").into()))).await;
    let error = all(file(&short).await.get_range(5, 5).await.unwrap()).await.unwrap_err();
    assert!(matches!(error, Error::Protocol { .. } | Error::Dropped { .. }), "{error:?}");

    let cut = folder(move |_| Some(Reply::Raw(format!("{head}Content-Length: 5\r\n\r\n567").into()))).await;
    let error = all(file(&cut).await.get_range(5, 5).await.unwrap()).await.unwrap_err();
    assert!(matches!(error, Error::Dropped { .. }) && error.is_transient(), "{error:?}");

    let chunks = "Transfer-Encoding: chunked\r\n\r\n5\r\n56789\r\n2\r\nab\r\n0\r\n\r\n";
    let long = folder(move |_| Some(Reply::Raw(format!("{head}{chunks}").into()))).await;
    let error = all(file(&long).await.get_range(5, 5).await.unwrap()).await.unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
}

#[tokio::test]
async fn a_body_that_stands_still_times_out() {
    let head = "HTTP/1.1 206 X\r\nContent-Range: bytes 5-9/100\r\nContent-Length: 5\r\n\r\n567";
    let server = folder(move |_| Some(Reply::Stall(head.into()))).await;
    let error = all(file(&server).await.get_range(5, 5).await.unwrap()).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
}

#[tokio::test]
async fn refusals_are_named_with_status_and_address() {
    for status in [403, 404, 500, 503] {
        let server = folder(move |_| Some(Reply::status(status))).await;
        let error = file(&server).await.get_range(0, 5).await.unwrap_err();
        let Error::Http { status: seen, url } = &error else { panic!("{error:?}") };
        assert_eq!(*seen, status);
        assert!(url.ends_with("c%2Bd%25.vmdk?dcPath=North%2FDC%201&dsName=ds%201"), "{url}");
        assert_eq!(error.is_transient(), status == 503);
    }
}

#[tokio::test]
async fn an_expired_session_is_renewed_for_files_too() {
    let mut expired = true;
    let server = folder(move |_| {
        let reply = if expired { Reply::status(401) } else { partial("bytes 0-0/1", b"x") };
        expired = false;
        Some(reply)
    })
    .await;
    assert_eq!(all(file(&server).await.get_range(0, 1).await.unwrap()).await.unwrap(), b"x");
    assert_eq!(server.count("Login"), 2);
}

#[tokio::test]
async fn a_server_that_wants_double_encoding_is_found_out_once() {
    let server =
        folder(|r| Some(if r.target.contains("ds%25201") { partial("bytes 0-0/1", b"x") } else { Reply::status(404) }))
            .await;
    let file = file(&server).await;
    for _ in 0..2 {
        file.get_range(0, 1).await.unwrap();
    }
    let targets: Vec<_> = server.requests("GET").into_iter().skip(1).map(|r| r.target).collect();
    let doubled = "/folder/a%20b/c%2Bd%25.vmdk?dcPath=North%252FDC%25201&dsName=ds%25201";
    assert_eq!(targets, [URL, doubled, doubled]);
}

#[tokio::test]
async fn uploads_find_out_about_double_encoding_by_their_folder() {
    let server = folder(|r| Some(Reply::status(if r.target.contains("ds%25201") { 200 } else { 404 }))).await;
    file(&server).await.put(1, stream::iter([Ok(Bytes::from_static(b"x"))])).await.unwrap();
    assert_eq!((server.count("HEAD"), server.count("PUT")), (2, 1));
}

#[tokio::test]
async fn sizes_come_from_head_or_else_from_a_range() {
    let head = folder(|_| Some(Reply::Http(200, vec![("Content-Length", "5000000000".to_owned())], vec![]))).await;
    assert_eq!(file(&head).await.size().await.unwrap(), 5_000_000_000);

    let refused = |r: &Request| r.method == "HEAD";
    let ranged =
        folder(move |r| Some(if refused(r) { Reply::status(405) } else { partial("bytes 0-0/5000000000", b"x") }));
    assert_eq!(file(&ranged.await).await.size().await.unwrap(), 5_000_000_000);

    let empty = folder(move |r| {
        let range = vec![("Content-Range", "bytes */0".to_owned())];
        Some(if refused(r) { Reply::status(403) } else { Reply::Http(416, range, vec![]) })
    });
    assert_eq!(file(&empty.await).await.size().await.unwrap(), 0);

    let gone = folder(|_| None).await;
    assert!(matches!(file(&gone).await.size().await, Err(Error::Http { status: 404, .. })));
}

#[tokio::test]
async fn whole_files_are_read_up_to_a_limit() {
    let server = folder(|_| Some(Reply::Http(200, vec![], b"descriptor".to_vec()))).await;
    let file = file(&server).await;
    assert_eq!(file.read_all(10).await.unwrap(), "descriptor");
    assert!(matches!(file.read_all(9).await, Err(Error::Protocol { .. })));
}

#[tokio::test]
async fn uploads_send_the_length_and_check_the_session_first() {
    let server = folder(|_| Some(Reply::status(201))).await;
    let pieces = ["abc", "", "defg"].map(|p| Ok(Bytes::from_static(p.as_bytes())));
    file(&server).await.put(7, stream::iter(pieces)).await.unwrap();
    let put = &server.requests("PUT")[0];
    assert_eq!((put.body.as_str(), put.header("content-length")), ("abcdefg", Some("7")));
    assert_eq!((put.header("expect"), put.header("transfer-encoding")), (None, None));
    assert_eq!(server.count("CurrentTime"), 1);
}

#[tokio::test]
async fn uploads_whose_source_fails_or_has_another_length_fail() {
    let server = folder(|_| Some(Reply::status(201))).await;
    let file = file(&server).await;
    let piece = || Ok(Bytes::from_static(b"abc"));
    let broken = || Err(io::Error::other("the disk is gone"));
    for (len, pieces) in [(7, vec![piece()]), (5, vec![piece(), piece()]), (6, vec![piece(), broken()])] {
        let error = file.put(len, stream::iter(pieces)).await.unwrap_err();
        assert!(matches!(error, Error::Upload { .. }), "{len}: {error:?}");
    }
}

#[tokio::test]
async fn uploads_that_stand_still_time_out_and_refusals_are_errors() {
    let server = folder(|_| Some(Reply::Stall(vec![]))).await;
    let error = file(&server).await.put(1, stream::iter([Ok(Bytes::from_static(b"x"))])).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
    let server = folder(|_| Some(Reply::status(403))).await;
    let error = file(&server).await.put(1, stream::iter([Ok(Bytes::from_static(b"x"))])).await.unwrap_err();
    assert!(matches!(error, Error::Http { status: 403, .. }), "{error:?}");
}

#[tokio::test]
async fn paths_that_could_mean_something_else_are_not_sent() {
    let server = Server::start(nothing).await;
    let client = server.client().await;
    for (datastore, path) in [("", "a"), ("ds", ""), ("ds", "../x"), ("ds", "a/./b"), ("ds", "a//b"), ("ds", "/a")] {
        let file = client.datastore_file("DC", &DatastorePath::new(datastore, path));
        assert!(matches!(file.get_range(0, 1).await, Err(Error::Argument { .. })), "{datastore} {path}");
    }
    assert_eq!(server.count("GET"), 1);
}
