//! VCB's search specifications (vcb.md section 3): `name:vm1`, `ipaddr:10.0.0.5`, `uuid:…`, `moref:vm-62`, `powerstate:on`, `any:`, `none:`.

use std::fmt;
use std::str::FromStr;

use super::{Power, VmInfo};
use crate::error::{Error, Family, Result};

/// Which VMs are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// Guest address or DNS name.
    IpAddr(String),
    /// Exact display name.
    Name(String),
    /// BIOS or instance UUID.
    Uuid(String),
    /// The server's id.
    Moref(String),
    /// All VMs in a state.
    PowerState(Power),
    /// All VMs.
    Any,
    /// No VM, for trying scripts out.
    None,
}

const KEYS: &str = "use ipaddr:, name:, uuid:, moref:, powerstate:, any: or none:";

impl Spec {
    /// Whether the specification asks for a group, so that matching nothing is no error.
    #[must_use]
    pub const fn is_group(&self) -> bool {
        matches!(self, Self::PowerState(_) | Self::Any | Self::None)
    }

    /// Whether `vm` is meant, as far as its listed properties tell.
    #[must_use]
    pub fn matches(&self, vm: &VmInfo) -> bool {
        match self {
            Self::IpAddr(address) => {
                let is = |own: &Option<String>| own.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(address));
                is(&vm.ip) || is(&vm.host_name)
            }
            Self::Name(name) => vm.name == *name,
            Self::Uuid(uuid) => {
                let is = |own: &Option<String>| own.as_deref().is_some_and(|own| same_uuid(own, uuid));
                is(&vm.uuid) || is(&vm.instance_uuid)
            }
            Self::Moref(id) => vm.moref.0 == *id,
            Self::PowerState(state) => vm.power == Some(*state),
            Self::Any => true,
            Self::None => false,
        }
    }
}

/// UUIDs are compared by their hex digits: `.vmx` files write them with blanks, everybody else with dashes.
fn same_uuid(a: &str, b: &str) -> bool {
    let digits = |text: &str| -> Vec<u8> {
        text.bytes().filter(u8::is_ascii_hexdigit).map(|b| b.to_ascii_lowercase()).collect()
    };
    let a = digits(a);
    a.len() == 32 && a == digits(b)
}

impl FromStr for Spec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let usage = |what: String| Error::new(Family::Usage, what).hint(KEYS);
        let text = text.trim();
        let (key, value) = match text.split_once(':') {
            Some((key, value)) => (key.trim(), value.trim()),
            None => (text, ""),
        };
        let key = key.to_ascii_lowercase();
        match key.as_str() {
            "any" => return Ok(Self::Any),
            "none" => return Ok(Self::None),
            _ if !text.contains(':') => return Err(usage(format!("\"{text}\" is no search specification"))),
            "ipaddr" | "name" | "uuid" | "moref" | "powerstate" if value.is_empty() => {
                return Err(usage(format!("the search specification {key}: lacks a value")));
            }
            _ => {}
        }
        let value = value.to_owned();
        match key.as_str() {
            "ipaddr" => Ok(Self::IpAddr(value)),
            "name" => Ok(Self::Name(value)),
            "uuid" => Ok(Self::Uuid(value)),
            "moref" => Ok(Self::Moref(value)),
            "powerstate" => match value.to_ascii_lowercase().as_str() {
                "on" => Ok(Self::PowerState(Power::On)),
                "off" => Ok(Self::PowerState(Power::Off)),
                "suspended" => Ok(Self::PowerState(Power::Suspended)),
                _ => Err(usage(format!("powerstate:{value} is not on, off or suspended"))),
            },
            _ => Err(usage(format!("\"{key}:\" is no key of a search specification"))),
        }
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IpAddr(value) => write!(f, "ipaddr:{value}"),
            Self::Name(value) => write!(f, "name:{value}"),
            Self::Uuid(value) => write!(f, "uuid:{value}"),
            Self::Moref(value) => write!(f, "moref:{value}"),
            Self::PowerState(state) => write!(f, "powerstate:{state}"),
            Self::Any => f.write_str("any:"),
            Self::None => f.write_str("none:"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_ignore_case_values_keep_it_and_blanks_around_are_cut() {
        assert_eq!(" Name: Virtual Machine 37 ".parse::<Spec>().unwrap(), Spec::Name("Virtual Machine 37".into()));
        assert_eq!("name:a:b".parse::<Spec>().unwrap(), Spec::Name("a:b".into()));
        for any in ["any", "Any", "any:", "Any:*"] {
            assert_eq!(any.parse::<Spec>().unwrap(), Spec::Any);
        }
    }

    #[test]
    fn unknown_keys_missing_values_and_states_are_usage_errors() {
        for bad in ["vm1", "dns:x", "name:", "uuid: ", "powerstate:running", ""] {
            assert_eq!(bad.parse::<Spec>().unwrap_err().family(), Family::Usage, "{bad}");
        }
    }

    #[test]
    fn uuids_match_however_they_are_spelled() {
        assert!(same_uuid("56 4d 78 a1 8c 1c 59 b4-fa 02 be 14 13 87 97 be", "564D78A1-8c1c-59b4-fa02-be14138797be"));
        assert!(!same_uuid("", ""));
    }
}
