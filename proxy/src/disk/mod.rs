//! What is in a disk image, is it whole, and how do I get it in another form? No hypervisor, no virtual machine: files alone.
//!
//! The form of a file is never guessed from bytes that a guest may have written: it is said, or told by the file's name.

mod check;
mod compare;
mod convert;
mod create;
mod info;
mod map;
mod network;
mod overlay;
mod serve;
mod source;
pub(crate) mod staged;

pub use self::check::{CheckReport, check, read_all, repair};
pub use self::compare::{Compared, compare};
pub use self::convert::{ConvertOptions, Converted, Target, convert};
pub use self::create::{CreateRequest, create};
pub use self::info::{DiskInfo, info};
pub use self::map::{MapEntry, map};
pub(crate) use self::network::uri_of;
pub use self::overlay::Overlay;
pub use self::serve::{Place, ServeOptions, Serving, Shown};
pub use self::source::{Source, SourceFormat, SourceSpec};

use std::ops::ControlFlow;
use std::sync::Mutex;

use vmdk_rs::CopyError;

use crate::error::{Error, Family, Result};
use crate::job::{Cancel, Meter};

/// Shows how far a copy is, and ends it on a cancel.
pub(crate) struct Watch<'a> {
    meter: Meter,
    cancel: &'a Cancel,
    shown: Mutex<u64>,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(meter: Meter, cancel: &'a Cancel) -> Self {
        Self { meter, cancel, shown: Mutex::new(0) }
    }

    /// The copy has come to byte `at`.
    pub(crate) fn at(&self, at: u64) -> ControlFlow<()> {
        let mut shown = self.shown.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.meter.add(at.saturating_sub(*shown));
        *shown = (*shown).max(at);
        if self.cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// The copy is complete, and so is what is shown of it.
    pub(crate) fn finish(self, total: u64) {
        let _ = self.at(total);
        self.meter.finish();
    }
}

/// What a copy ended with, in the product's families.
pub(crate) fn copy_error(error: CopyError, source: &str, target: &str) -> Error {
    match error {
        CopyError::Source(error) => crate::transport::from_read(error, &format!("cannot read {source}")),
        CopyError::Target(error) => {
            crate::export::with_space_hint(crate::image_error(error, format!("cannot write {target}")))
        }
        _ => Error::new(Family::Cancelled, "cancelled"),
    }
}

/// Runs what reads and computes on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    use crate::error::Context;
    tokio::task::spawn_blocking(work).await.failed(|| "the work broke off".into())?
}
