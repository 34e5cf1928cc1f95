//! The client against a server that answers exactly what each test wants: real TLS and HTTP, no vSphere.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "all of this is test code")]

mod areas;
mod calls;
mod files;
mod security;
mod server;
mod session;
