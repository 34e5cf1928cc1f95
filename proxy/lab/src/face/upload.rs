//! PUT of a datastore file: whole files only, with their length announced.

use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::mpsc;

use super::Service;
use super::events::Happening;
use super::faults::FaultKind;
use super::folder::refusal;
use super::server::{Body, blocking, reply};
use crate::world::{DatastorePath, FileError};

/// Pieces that may wait for the disk. hyper hands them out at up to 400 KiB each.
const AHEAD: usize = 8;

/// Takes the body of a request as the new content of a file.
pub(super) async fn put(service: &Arc<Service>, file: DatastorePath, request: Request<Incoming>) -> Response<Body> {
    let length = request.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    let Some(length) = length else {
        return reply(StatusCode::LENGTH_REQUIRED, "text/plain", "Content-Length is needed\n");
    };
    let (sender, receiver) = mpsc::channel(AHEAD);
    let worker = Arc::clone(service);
    let writing = tokio::task::spawn(blocking(move || write(&worker, &file, length, receiver)));
    let mut body = request.into_body();
    let mut wanted = true;
    while let Some(frame) = body.frame().await {
        // A body that breaks off ends the channel early, and the writer finds that bytes are missing.
        let Ok(frame) = frame else { break };
        if let Ok(data) = frame.into_data()
            && wanted
        {
            // The writer failed and will say why; the rest is read all the same, or the client would meet a broken
            // connection instead of the answer.
            wanted = sender.send(data).await.is_ok();
        }
    }
    drop(sender);
    match writing.await.ok().flatten() {
        Some(Ok(())) => reply(StatusCode::CREATED, "text/plain", "201 Created\n"),
        Some(Err(error)) => refusal(&error),
        None => reply(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", "500\n"),
    }
}

fn write(
    service: &Service,
    file: &DatastorePath,
    length: u64,
    mut pieces: mpsc::Receiver<Bytes>,
) -> Result<(), FileError> {
    let full = service.faults.strikes(&FaultKind::NoSpace);
    let mut upload = service.world.begin_upload(&file.datastore, &file.path, length)?;
    let mut written: u64 = 0;
    while let Some(piece) = pieces.blocking_recv() {
        written = written.saturating_add(piece.len() as u64);
        if full && written >= length / 2 {
            return Err(FileError::Io(std::io::ErrorKind::StorageFull.into()));
        }
        upload.write(&piece)?;
    }
    upload.finish()?;
    service.events.add(Happening::Written { file: file.to_string(), len: length });
    Ok(())
}
