//! One small function for each call of the C library. They wait as long as libvirt does.
//!
//! Values may be used by many threads at once, as libvirt allows.
#![allow(unsafe_code)]

mod connection;
mod domain;
mod points;
mod storage;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::NonNull;

use virt_sys as sys;

pub use self::connection::Connection;
pub use self::domain::Domain;
pub use self::points::{Checkpoint, Snapshot};
use crate::{Code, Error, Result};

/// A counted reference to something of libvirt's, given back when dropped.
macro_rules! handle {
    ($(#[$doc:meta])* $vis:vis $name:ident, $theirs:ty, $free:path) => {
        $(#[$doc])*
        #[derive(Debug)]
        $vis struct $name {
            pub(super) ptr: std::ptr::NonNull<$theirs>,
        }

        // SAFETY: libvirt's objects are counted and locked by libvirt; its documentation allows use from any thread.
        unsafe impl Send for $name {}
        // SAFETY: as above.
        unsafe impl Sync for $name {}

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: the reference is ours, and it is given back once.
                unsafe { $free(self.ptr.as_ptr()) };
            }
        }
    };
}
pub(super) use handle;

/// The error that libvirt remembers for this thread after `call` failed.
pub(super) fn last_error(call: &'static str) -> Error {
    // SAFETY: what is pointed to belongs to this thread and stays until its next call; texts are copied before that.
    unsafe {
        let error = sys::virGetLastError();
        let Some(error) = error.as_ref() else {
            let message = format!("{call} failed and says nothing");
            return Error::Libvirt { call, code: Code::INTERNAL_ERROR, domain: 0, message };
        };
        let message = match text(error.message) {
            Some(message) => message.trim_end().to_owned(),
            None => format!("{call} failed with error {}", error.code),
        };
        Error::Libvirt { call, code: Code(error.code), domain: error.domain, message }
    }
}

/// A number that is negative for a failure.
pub(super) fn check(call: &'static str, answer: c_int) -> Result<c_int> {
    if answer < 0 { Err(last_error(call)) } else { Ok(answer) }
}

/// A pointer that is null for a failure.
pub(super) fn pointer<T>(call: &'static str, answer: *mut T) -> Result<NonNull<T>> {
    NonNull::new(answer).ok_or_else(|| last_error(call))
}

/// A text for libvirt.
pub(super) fn c_text(what: &'static str, text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::Zero { what })
}

/// A copy of a text of libvirt's.
///
/// # Safety
/// `theirs` is null or a text that ends with zero.
pub(super) unsafe fn text(theirs: *const c_char) -> Option<String> {
    // SAFETY: by the promise of the caller.
    (!theirs.is_null()).then(|| unsafe { CStr::from_ptr(theirs) }.to_string_lossy().into_owned())
}

/// Takes a text that libvirt allocated for us, and frees it.
///
/// # Safety
/// `theirs` is null or a text that `free` frees.
pub(super) unsafe fn owned_text(call: &'static str, theirs: *mut c_char) -> Result<String> {
    let theirs = pointer(call, theirs)?;
    // SAFETY: by the promise of the caller; it is not used after.
    unsafe {
        let copy = text(theirs.as_ptr());
        free(theirs.as_ptr().cast());
        Ok(copy.unwrap_or_default())
    }
}

/// Gives back what libvirt allocated.
///
/// # Safety
/// `theirs` is null or what libvirt says is to be freed by `free`, once.
pub(super) unsafe fn free(theirs: *mut c_void) {
    // SAFETY: by the promise of the caller.
    unsafe { libc::free(theirs) };
}

/// Takes a list that libvirt allocated: `count` pointers, each of which `wrap` takes over, in an array that is freed here.
///
/// # Safety
/// `array` and `count` are what one call of libvirt answered.
pub(super) unsafe fn list<T, H>(
    call: &'static str,
    count: c_int,
    array: *mut *mut T,
    wrap: impl Fn(NonNull<T>) -> H,
) -> Result<Vec<H>> {
    let count = usize::try_from(check(call, count)?).unwrap_or_default();
    if array.is_null() {
        return Ok(Vec::new());
    }
    // SAFETY: by the promise of the caller there are `count` pointers.
    let pointers = unsafe { std::slice::from_raw_parts(array, count) };
    let taken = pointers.iter().filter_map(|pointer| NonNull::new(*pointer)).map(wrap).collect();
    // SAFETY: the array is ours, what it pointed to was taken over.
    unsafe { free(array.cast()) };
    Ok(taken)
}

/// The sum of those flags that are set.
pub(super) fn flags(pairs: &[(bool, u32)]) -> u32 {
    pairs.iter().filter(|(set, _)| *set).fold(0, |sum, (_, flag)| sum | flag)
}
