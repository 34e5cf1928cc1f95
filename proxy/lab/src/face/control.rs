//! `/lab/faults` and `/lab/events`: what no real server has. The lab's password, in a header, keeps others out.

use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::Serialize;

use super::Service;
use super::faults::Fault;
use super::server::{Body, reply, small_body};

/// A fault takes a line of JSON.
const LARGEST: usize = 64 << 10;

fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    match serde_json::to_string(value) {
        Ok(text) => reply(status, "application/json", text + "\n"),
        Err(_) => reply(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", "cannot be written as JSON\n"),
    }
}

/// Answers one request.
pub(super) async fn answer(service: &Arc<Service>, request: Request<Incoming>) -> Response<Body> {
    let password = request.headers().get("x-lab-password").map(|value| value.as_bytes());
    if password != Some(service.identity.password.as_bytes()) {
        return reply(StatusCode::UNAUTHORIZED, "text/plain", "the header X-Lab-Password is missing or wrong\n");
    }
    match (request.method().clone(), request.uri().path()) {
        (Method::GET, "/lab/events") => json(StatusCode::OK, &service.events.all()),
        (Method::GET, "/lab/faults") => json(StatusCode::OK, &service.faults.armed()),
        (Method::DELETE, "/lab/faults") => {
            service.faults.clear();
            json(StatusCode::OK, &service.faults.armed())
        }
        (Method::POST, "/lab/faults") => arm(service, request).await,
        _ => reply(StatusCode::NOT_FOUND, "text/plain", "404 Not Found\n"),
    }
}

async fn arm(service: &Service, request: Request<Incoming>) -> Response<Body> {
    let Some(body) = small_body(request, LARGEST).await else {
        return reply(StatusCode::BAD_REQUEST, "text/plain", "the request ends early or is too long\n");
    };
    match serde_json::from_slice::<Fault>(&body) {
        Ok(fault) => {
            service.faults.arm(fault);
            json(StatusCode::OK, &service.faults.armed())
        }
        Err(error) => reply(StatusCode::BAD_REQUEST, "text/plain", format!("no fault of the lab: {error}\n")),
    }
}
