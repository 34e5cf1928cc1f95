use std::sync::Arc;

use blockdev::ReadAt;

use crate::{PlainName, VmdkError};

/// Opens the files that an image names: extents and parents. The library opens no file of its own accord.
///
/// ```text
///   descriptor --names--> "x-flat.vmdk" --checked--> PlainName --> Gate::open --> bytes
/// ```
pub trait Gate: Send + Sync {
    /// Opens the file `name`, which lies beside the image's descriptor.
    ///
    /// # Errors
    /// Whatever keeps the caller from granting it; [`VmdkError::Denied`] to refuse.
    fn open(&self, name: &PlainName) -> Result<Arc<dyn ReadAt>, VmdkError>;

    /// Opens the descriptor of a disk's parent. All names that are asked for afterwards are of that parent, until the next one.
    ///
    /// # Errors
    /// As [`open`](Self::open), which it is unless the caller makes a difference.
    fn open_parent(&self, name: &PlainName) -> Result<Arc<dyn ReadAt>, VmdkError> {
        self.open(name)
    }

    /// Opens the descriptor of a parent that lies in the folder `folder` beside the one of the disk, as `../folder/name` says.
    ///
    /// # Errors
    /// As [`open_parent`](Self::open_parent), which it is unless the caller allows other folders: then `folder` does not count.
    fn open_parent_in(&self, folder: &PlainName, name: &PlainName) -> Result<Arc<dyn ReadAt>, VmdkError> {
        let _ = folder;
        self.open_parent(name)
    }

    /// Provides the device that an extent stands for: a raw device map, or a disk or partition of the machine that wrote
    /// the image. `name` is text from the image. Compare it with names you know; never open what it says.
    ///
    /// # Errors
    /// [`VmdkError::NoDevice`], unless the caller provides devices.
    fn open_device(&self, name: &str) -> Result<Arc<dyn ReadAt>, VmdkError> {
        Err(VmdkError::NoDevice { name: name.to_owned() })
    }
}

/// Opens nothing. Enough for images that are one file.
#[derive(Clone, Copy, Debug, Default)]
pub struct DenyGate;

impl Gate for DenyGate {
    fn open(&self, name: &PlainName) -> Result<Arc<dyn ReadAt>, VmdkError> {
        Err(VmdkError::Denied { name: name.as_str().to_owned() })
    }
}

/// Opens what a function grants: for names that stand for something other than local files. It provides no devices; a
/// [`Gate`] of your own can.
#[derive(Clone, Copy, Debug)]
pub struct FnGate<F>(F);

impl<F> FnGate<F>
where
    F: Fn(&PlainName) -> Result<Arc<dyn ReadAt>, VmdkError> + Send + Sync,
{
    /// A gate that asks `grant` for each file.
    #[must_use]
    pub const fn new(grant: F) -> Self {
        Self(grant)
    }
}

impl<F> Gate for FnGate<F>
where
    F: Fn(&PlainName) -> Result<Arc<dyn ReadAt>, VmdkError> + Send + Sync,
{
    fn open(&self, name: &PlainName) -> Result<Arc<dyn ReadAt>, VmdkError> {
        (self.0)(name)
    }
}

impl<G: Gate + ?Sized> Gate for &G {
    fn open(&self, name: &PlainName) -> Result<Arc<dyn ReadAt>, VmdkError> {
        (**self).open(name)
    }
    fn open_parent(&self, name: &PlainName) -> Result<Arc<dyn ReadAt>, VmdkError> {
        (**self).open_parent(name)
    }
    fn open_parent_in(&self, folder: &PlainName, name: &PlainName) -> Result<Arc<dyn ReadAt>, VmdkError> {
        (**self).open_parent_in(folder, name)
    }
    fn open_device(&self, name: &str) -> Result<Arc<dyn ReadAt>, VmdkError> {
        (**self).open_device(name)
    }
}
