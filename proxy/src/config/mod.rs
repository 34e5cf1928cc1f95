//! Which settings hold: the connection, the secret that goes with it, and where the product keeps its state.

mod connection;
mod libvirt;
mod secret;
mod state;

pub use connection::{ConnectionUri, Scheme, TlsChoice};
pub use libvirt::LibvirtUri;
pub use secret::{Password, PasswordSources, forget_password, keyring_available, store_password};
pub use state::StateDir;
