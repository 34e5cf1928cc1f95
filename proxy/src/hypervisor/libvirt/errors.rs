//! libvirt's errors in the product's families.

use libvirt::Code;

use super::super::fault::{Fault, with_fault};
use crate::error::{Error, Family};

/// What libvirt says, in the product's families.
pub(super) fn from_libvirt(error: libvirt::Error) -> Error {
    let text = error.to_string();
    let (family, fault) = sort(&error);
    let ours = Error::new(family, text.clone());
    let ours = match fault {
        Some(fault) => with_fault(ours, fault, text),
        None => ours,
    };
    match hint(&error) {
        Some(hint) => ours.hint(hint),
        None => ours,
    }
}

fn sort(error: &libvirt::Error) -> (Family, Option<Fault>) {
    if error.is_lost() {
        return (Family::Failed, Some(Fault::MayPass));
    }
    let Some(code) = error.code() else { return (Family::Failed, None) };
    let family = match code {
        Code::NO_DOMAIN => Family::NoVm,
        Code::NO_SUPPORT | Code::CONFIG_UNSUPPORTED | Code::ARGUMENT_UNSUPPORTED | Code::OPERATION_UNSUPPORTED => {
            Family::Unsupported
        }
        // The lock of the domain's state: somebody else is at work on it.
        Code::OPERATION_TIMEOUT => Family::Exists,
        _ => Family::Failed,
    };
    (family, Some(Fault::Refused))
}

fn hint(error: &libvirt::Error) -> Option<&'static str> {
    Some(match error.code() {
        Some(Code::OPERATION_TIMEOUT) => {
            "another job is at work on the machine: `virsh domjobinfo` shows it; wait until it is done"
        }
        Some(Code::AUTH_FAILED | Code::AUTH_CANCELLED | Code::AUTH_UNAVAILABLE) => {
            "libvirt wants a login that cannot be asked for: use qemu+ssh:// with a key, or qemu+tls:// with a certificate"
        }
        Some(Code::OPERATION_DENIED | Code::ACCESS_DENIED) => "run as root, or as a member of the group libvirt",
        None if error.is_lost() => "look whether libvirtd runs and answers: `virsh list`",
        _ if error.is_lost() => "look whether libvirtd runs",
        _ => return None,
    })
}

/// A failure to connect.
pub(super) fn from_connecting(error: libvirt::Error, place: &str) -> Error {
    let hint = match error.code() {
        Some(Code::AUTH_FAILED | Code::AUTH_CANCELLED | Code::AUTH_UNAVAILABLE) | None => None,
        _ => Some("look whether libvirtd runs there, and whether `virsh -c URI list` works"),
    };
    let ours = from_libvirt(error).within(format!("cannot connect to {place}"));
    match hint {
        Some(hint) => ours.hint(hint),
        None => ours,
    }
}
