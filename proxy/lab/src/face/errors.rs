//! The world's errors as faults of the API.

use vsphere::xml::Moref;

use super::soap::Fault;
use crate::world::{DatastorePath, FileError, LabError, Power};

/// The whole chain of causes in one line, as servers put it.
pub(super) fn text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn power(state: Power) -> super::value::Value {
    super::value::Value::constant("VirtualMachinePowerState", state.as_str())
}

/// The fault for an error of the world.
pub(super) fn fault(error: &LabError) -> Fault {
    let message = text(error);
    match error {
        LabError::NoSuchVm(vm) => Fault::not_found(&Moref::new("VirtualMachine", &vm.0)),
        LabError::NoSuchSnapshot(snapshot) => Fault::not_found(&Moref::new("VirtualMachineSnapshot", &snapshot.0)),
        LabError::NoSuchDisk { .. } => Fault::invalid_argument("deviceKey"),
        LabError::NoSuchDatastore(name) => Fault::new("InvalidDatastore", message).field("name", name.as_str()),
        LabError::BadName { name, .. } => Fault::new("InvalidName", message).field("name", name.as_str()),
        LabError::PowerState { expected, actual, .. } => Fault::new("InvalidPowerState", message)
            .field("requestedState", power(*expected))
            .field("existingState", power(*actual)),
        LabError::TaskInProgress(_) => super::tasks::in_progress(&Moref::new("Task", "task-0")),
        LabError::AlreadyExists { path, .. } => Fault::new("AlreadyExists", message).field("name", path.to_string()),
        LabError::QuiesceTimeout { .. } => Fault::new("ApplicationQuiesceFault", message),
        LabError::File { path, source } => file_fault(path, source),
        LabError::ChangeTrackingOff(_) | LabError::UnknownChangeId { .. } => {
            Fault::new("FileFault", message).field("file", "")
        }
        LabError::Unsupported { .. } => Fault::not_supported(&message),
        LabError::BadVmx { .. } | LabError::BadDisk { .. } => config_fault(&message),
        _ => Fault::new("SystemError", message.clone()).field("reason", message),
    }
}

/// GenericVmConfigFault: the configuration does not work.
pub(super) fn config_fault(message: &str) -> Fault {
    Fault::new("GenericVmConfigFault", message).field("reason", message)
}

/// The fault for an error with a datastore file.
pub(super) fn file_fault(path: &DatastorePath, error: &FileError) -> Fault {
    let kind = match error {
        FileError::NotFound => "FileNotFound",
        FileError::Locked(_) => "FileLocked",
        FileError::Exists => "FileAlreadyExists",
        _ => "CannotAccessFile",
    };
    Fault::new(kind, format!("{path}: {}", text(error))).field("file", path.to_string())
}
