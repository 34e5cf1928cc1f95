//! The search index. Nothing found is an empty answer, no fault.

use vsphere::xml::Moref;

use super::inventory::{Inventory, ROOT, escaped, vm_ref};
use super::methods::{Context, path_argument};
use super::soap::{Fault, Returned};
use super::value::Value;
use crate::world::VmView;

/// FindBy… and FindAllBy….
pub(super) fn find(context: &Context<'_>) -> Returned {
    let call = context.call;
    let inventory = context.inventory();
    let (all, by) = match call.method.strip_prefix("FindAllBy") {
        Some(by) => (true, by),
        None => (false, call.method.strip_prefix("FindBy").unwrap_or_default()),
    };
    let found: Vec<Moref> = match by {
        "Uuid" => {
            let uuid = call.text("uuid")?.to_lowercase();
            let instance = call.flag("instanceUuid");
            vms(&inventory, context, |vm| {
                if instance { vm.instance_uuid.to_string() == uuid } else { vm.uuid.to_string() == uuid }
            })
        }
        "Ip" => {
            let ip = call.text("ip")?;
            vms(&inventory, context, |vm| vm.ip.as_deref() == Some(ip))
        }
        "DnsName" => {
            let name = call.text("dnsName")?;
            vms(&inventory, context, |vm| vm.host_name.as_ref().is_some_and(|own| own.eq_ignore_ascii_case(name)))
        }
        "InventoryPath" if !all => by_path(&inventory, call.text("inventoryPath")?).into_iter().collect(),
        "DatastorePath" if !all => {
            let path = path_argument(call, "path")?;
            if inventory.store_ref(&path.datastore).is_none() {
                let message = format!("there is no datastore {:?}", path.datastore);
                return Err(Fault::new("InvalidDatastore", message).field("name", path.datastore));
            }
            inventory.vms.iter().filter(|vm| vm.vmx == path).map(vm_ref).collect()
        }
        _ => return Err(Fault::method_not_found(call)),
    };
    let first = found.first().cloned().map(Value::Ref);
    Ok(if all { Some(Value::refs(&found)) } else { first })
}

/// VMs that fit; the search for hosts finds none.
fn vms(inventory: &Inventory<'_>, context: &Context<'_>, fits: impl Fn(&VmView) -> bool) -> Vec<Moref> {
    if !context.call.flag("vmSearch") {
        return Vec::new();
    }
    inventory.vms.iter().filter(|vm| fits(vm)).map(vm_ref).collect()
}

/// `/DC/vm/name`, names as they are stored or as they are shown.
fn by_path(inventory: &Inventory<'_>, path: &str) -> Option<Moref> {
    let mut here = Moref::new("Folder", ROOT);
    for part in path.split('/').filter(|part| !part.is_empty()) {
        let children = inventory.children(&here);
        here = children.into_iter().find(|child| {
            let name = inventory.property(child, "name").ok().flatten();
            name.is_some_and(|name| name == Value::from(part) || name == Value::from(escaped(part)))
        })?;
    }
    Some(here)
}
