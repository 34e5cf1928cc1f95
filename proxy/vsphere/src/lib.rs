//! A client of the vSphere Web Services API: what a backup needs, and no more.
//!
//! It logs in to a vCenter or a single host (ESX 3.5 to vSphere 8), lists VMs, reads their configuration, makes and removes
//! snapshots, and moves files to and from datastores. It knows nothing of disk formats or backups.
//!
//! ```no_run
//! use std::time::Duration;
//! use vsphere::{Client, Endpoint, TlsPolicy};
//!
//! # async fn example(password: &str) -> Result<(), Box<dyn std::error::Error>> {
//! let mut endpoint = Endpoint::new("vcenter.example");
//! endpoint.tls = TlsPolicy::Pins(vec!["A9:99:3E:36:47:06:81:6A:BA:3E:25:71:78:50:C2:6C:9C:D0:D8:9D".parse()?]);
//! let client = Client::connect(endpoint).await?;
//! client.login("backup@vsphere.local", password).await?;
//! let _alive = client.spawn_keep_alive(Duration::from_secs(300));
//!
//! let vm = client.find_by_dns_name("db1.example").await?.pop().ok_or("no such VM")?;
//! let task = client.create_snapshot(&vm, "before", "", true).await?;
//! let result = client.wait_task(&task, &mut |percent| println!("{percent}%"), None).await?;
//! let snapshot = result.and_then(|r| r.moref()).ok_or("no snapshot")?;
//!
//! let config = client.vm_config(&vm).await?;
//! for disk in client.snapshot_config(&snapshot).await? {
//!     let descriptor = client.datastore_file(config.datacenter.as_deref().unwrap_or_default(), &disk.file);
//!     println!("{}: {} bytes", disk.label, descriptor.read_all(64 << 10).await?.len());
//! }
//!
//! let task = client.remove_snapshot(&snapshot).await?;
//! client.wait_task(&task, &mut |_| {}, None).await?;
//! client.logout().await;
//! # Ok(())
//! # }
//! ```
//!
//! # What holds for every call
//!
//! * When the server forgot the session, the client logs in again, at most once a minute, and repeats the call.
//! * Calls that only read are repeated once when the connection breaks. Nothing else is repeated: [`Error::is_transient`] tells
//!   the caller what is worth another try.
//! * Answers are bounded in size, connections and answers in time ([`Timeouts`]).
//! * Unknown elements, types and empty enums are no errors. What must be there and is not, is.
//!
//! **Nothing here has met a real vCenter or ESXi.** It is held to govmomi's simulator and to recorded shapes.
#![warn(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

mod areas;
mod client;
mod datastore_path;
mod disks;
mod endpoint;
mod error;
mod fault;
mod find;
mod folder;
mod http;
mod inventory;
mod keep_alive;
mod manage;
mod names;
mod places;
mod properties;
mod range;
mod session;
mod snapshots;
mod tasks;
mod thumbprint;
mod tls;
mod version;
mod vm_config;
pub mod xml;

pub use client::{About, Client};
pub use datastore_path::{DatastorePath, DatastorePathError};
pub use disks::{ControllerKind, DiskConfig};
pub use endpoint::{Endpoint, Timeouts};
pub use error::{ConnectFailure, Error, Family};
pub use folder::DatastoreFile;
pub use inventory::{DatastoreSummary, PowerState, VmSummary};
pub use keep_alive::KeepAlive;
pub use manage::Place;
pub use range::RangeBody;
pub use snapshots::SnapshotNode;
pub use tasks::Task;
pub use thumbprint::{Presented, Thumbprint, ThumbprintError};
pub use tls::TlsPolicy;
pub use vm_config::{VmConfig, VmFile};
pub use xml::{Element, Moref};
