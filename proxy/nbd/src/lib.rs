//! The Network Block Device protocol, client and server, as `doc/proto.md` of the NBD project specifies it.

mod constants;
pub mod server;
