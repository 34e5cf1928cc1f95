//! What the tests share.
#![allow(dead_code, reason = "each test file uses a part of this")]
#![allow(clippy::unwrap_used, reason = "what only tests call may fail as tests do")]

pub(crate) mod chaos;
pub(crate) mod peers;
pub(crate) mod pki;
pub(crate) mod script;
