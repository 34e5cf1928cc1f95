//! How the failure of a hypervisor is to be taken, where the rules of jobs depend on it.

use std::fmt;

use super::vsphere::{cause, is_fault};
use crate::error::Error;

/// What an adapter knows of a failure beside its text. It stands in the chain of causes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The guest could not be quiesced, and everything else may work.
    #[cfg_attr(not(feature = "libvirt"), allow(dead_code))]
    NotQuiesced,
    /// The hypervisor answered, and said no: nothing was done.
    #[cfg_attr(not(feature = "libvirt"), allow(dead_code))]
    Refused,
    /// Trying again can help.
    MayPass,
}

/// A cause with what is known of it.
#[derive(Debug)]
struct Judged {
    fault: Fault,
    text: String,
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Judged {}

/// Hangs what is known under an error that has no cause yet; `text` is the hypervisor's own.
#[cfg_attr(not(feature = "libvirt"), allow(dead_code))]
pub(crate) fn with_fault(error: Error, fault: Fault, text: impl Into<String>) -> Error {
    error.caused_by(Judged { fault, text: text.into() })
}

fn judged(error: &Error) -> Option<Fault> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(found) = next {
        if let Some(judged) = found.downcast_ref::<Judged>() {
            return Some(judged.fault);
        }
        next = found.source();
    }
    None
}

/// Whether the guest could not be quiesced, and everything else may work.
pub(crate) fn is_quiesce_failure(error: &Error) -> bool {
    judged(error) == Some(Fault::NotQuiesced)
        || ["ApplicationQuiesceFault", "FilesystemQuiesceFault"].iter().any(|kind| is_fault(error, kind))
}

/// Whether the server answered, and said no: then nothing was done. A call whose answer never came may still be carried out.
pub(crate) fn is_refusal(error: &Error) -> bool {
    matches!(judged(error), Some(Fault::NotQuiesced | Fault::Refused))
        || cause(error).and_then(vsphere::Error::fault_kind).is_some()
}

/// Whether reading the same bytes again can help: also an answer that is not what was asked for, which proxies between us and
/// the host send now and then.
pub(crate) fn worth_rereading(error: &Error) -> bool {
    can_pass(error) || matches!(cause(error), Some(vsphere::Error::Protocol { .. }))
}

/// Whether trying again can help: a broken connection, a busy host, a wait that ran out.
pub(crate) fn can_pass(error: &Error) -> bool {
    judged(error) == Some(Fault::MayPass) || cause(error).is_some_and(vsphere::Error::is_transient)
}
