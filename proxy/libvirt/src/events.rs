//! libvirt's own event loop, in one thread for the whole process. Keep-alive messages are sent and answered by it.
#![allow(unsafe_code)]

use std::sync::Once;
use std::time::Duration;

use virt_sys as sys;

static START: Once = Once::new();

/// Starts the loop if it does not run yet. Must be called before the first connection.
pub(crate) fn start() {
    START.call_once(|| {
        // SAFETY: called once, before any connection; the function pointer lives as long as the process.
        unsafe {
            sys::virInitialize();
            sys::virSetErrorFunc(std::ptr::null_mut(), Some(say_nothing));
            if sys::virEventRegisterDefaultImpl() < 0 {
                return; // no keep-alive, but calls work
            }
        }
        let turn = || loop {
            // SAFETY: the default implementation is registered, and only this thread runs it.
            if unsafe { sys::virEventRunDefaultImpl() } < 0 {
                std::thread::sleep(Duration::from_millis(100)); // never spin on a loop that fails
            }
        };
        let _ = std::thread::Builder::new().name("libvirt events".into()).spawn(turn); // without it: no keep-alive
    });
}

/// Errors are values here; libvirt would print each on standard error too.
unsafe extern "C" fn say_nothing(_: *mut std::ffi::c_void, _: sys::virErrorPtr) {}
