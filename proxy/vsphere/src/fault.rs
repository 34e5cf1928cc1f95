//! What a server says when it refuses.

use crate::xml::Element;

/// A fault as the server sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Its type; a text of our own if the server named none.
    pub(crate) kind: String,
    /// The server's text.
    pub(crate) message: String,
    /// The fault's own element with its fields; empty if there is none.
    pub(crate) detail: Element,
}

/// Fault types that our callers act on. A name outside the list is kept as it came.
const KNOWN: &[&str] = &[
    "NotAuthenticated",
    "InvalidLogin",
    "InvalidLocale",
    "NoPermission",
    "RestrictedVersion",
    "ManagedObjectNotFound",
    "MethodNotFound",
    "NotSupported",
    "NotImplemented",
    "InvalidArgument",
    "InvalidProperty",
    "InvalidRequest",
    "InvalidType",
    "TaskInProgress",
    "ResourceInUse",
    "ConcurrentAccess",
    "InvalidState",
    "InvalidPowerState",
    "InvalidDatastore",
    "InvalidDatastorePath",
    "InvalidName",
    "AlreadyExists",
    "DuplicateName",
    "NotFound",
    "OutOfBounds",
    "InsufficientResources",
    "FileFault",
    "FileLocked",
    "FileNotFound",
    "FileAlreadyExists",
    "CannotAccessFile",
    "CannotDeleteFile",
    "NoDiskSpace",
    "SnapshotFault",
    "ApplicationQuiesceFault",
    "FilesystemQuiesceFault",
    "TooManySnapshotLevels",
    "SnapshotIncompatibleDeviceInVm",
    "MemorySnapshotOnIndependentDisk",
    "SnapshotDisabled",
    "SnapshotLocked",
    "MultipleSnapshotsNotSupported",
    "VmConfigFault",
    "HostNotConnected",
    "HostNotReachable",
    "HostCommunication",
    "Timedout",
    "RequestCanceled",
    "SystemError",
    "VimFault",
    "RuntimeFault",
    "MethodFault",
];

impl Fault {
    /// Reads a `soapenv:Fault`. The version mismatch has a name only in its fault code.
    pub(crate) fn from_soap(fault: &Element) -> Self {
        let code = fault.text_of("faultcode").unwrap_or_default();
        let code = code.rsplit(':').next().unwrap_or_default();
        let message = fault.text_of("faultstring").unwrap_or_default().to_owned();
        let detail = fault.child("detail").and_then(|d| d.children.first());
        let kind = match detail {
            Some(detail) => detail.xsi_type.clone().unwrap_or_else(|| detail.name.clone()),
            None if code.starts_with("VersionMismatch") => "VersionMismatch".to_owned(),
            None if code.is_empty() => "unnamed fault".to_owned(),
            None => code.to_owned(),
        };
        Self { kind: real_name(&kind), message, detail: detail.cloned().unwrap_or_default() }
    }

    /// Reads a `LocalizedMethodFault`: `{fault, localizedMessage}`, as tasks and missing properties carry.
    pub(crate) fn from_localized(element: &Element) -> Self {
        let message = element.text_of("localizedMessage").unwrap_or_default().to_owned();
        // Old servers leave the type to the element's name; "fault" itself says nothing.
        let detail = element.child("fault").cloned().unwrap_or_default();
        let kind = detail
            .xsi_type
            .clone()
            .or_else(|| detail.children.first().and_then(|c| c.xsi_type.clone()))
            .unwrap_or_else(|| "unnamed fault".to_owned());
        Self { kind: real_name(&kind), message, detail }
    }
}

/// Some servers append `Fault` to a type's name, once or twice; but `FileFault` is a real name.
fn real_name(sent: &str) -> String {
    let mut name = sent;
    loop {
        if KNOWN.contains(&name) {
            return name.to_owned();
        }
        match name.strip_suffix("Fault") {
            Some(shorter) if !shorter.is_empty() => name = shorter,
            _ => return sent.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soap(detail: &str) -> Fault {
        let xml = format!(
            r#"<Fault><faultcode>ServerFaultCode</faultcode><faultstring>said the server</faultstring>{detail}</Fault>"#
        );
        Fault::from_soap(&Element::parse(&xml).unwrap())
    }

    #[test]
    fn the_type_is_read_from_the_attribute_or_else_from_the_element() {
        let typed = soap(
            r#"<detail><NoPermissionFault xmlns:q="http://www.w3.org/2001/XMLSchema-instance" q:type="ns0:NoPermission">
               <privilegeId>System.View</privilegeId></NoPermissionFault></detail>"#,
        );
        assert_eq!((typed.kind.as_str(), typed.message.as_str()), ("NoPermission", "said the server"));
        assert_eq!(typed.detail.text_of("privilegeId"), Some("System.View"));
        assert_eq!(soap("<detail><NotAuthenticatedFault/></detail>").kind, "NotAuthenticated");
        assert_eq!(soap("<detail><FileFault/></detail>").kind, "FileFault");
        assert_eq!(soap("<detail><InvalidPropertyFaultFault/></detail>").kind, "InvalidProperty");
        assert_eq!(soap("<detail><SomethingNewFault/></detail>").kind, "SomethingNewFault");
    }

    #[test]
    fn a_fault_without_detail_keeps_its_code() {
        assert_eq!(soap("").kind, "ServerFaultCode");
        let xml = "<Fault><faultcode>soapenv:VersionMismatchFaultCode</faultcode></Fault>";
        assert_eq!(Fault::from_soap(&Element::parse(xml).unwrap()).kind, "VersionMismatch");
        assert_eq!(Fault::from_soap(&Element::new("Fault")).kind, "unnamed fault");
    }

    #[test]
    fn a_task_error_is_a_fault_too() {
        let xml = r#"<error xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><fault xsi:type="FileLocked">
            <file>[a] b</file></fault><localizedMessage>locked</localizedMessage></error>"#;
        let fault = Fault::from_localized(&Element::parse(xml).unwrap());
        assert_eq!((fault.kind.as_str(), fault.message.as_str()), ("FileLocked", "locked"));
        assert_eq!(fault.detail.text_of("file"), Some("[a] b"));
    }
}
