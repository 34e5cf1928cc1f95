use super::args::{VmArgs, VmCommand};
use super::output;
use crate::error::{Error, Family, Result};
use crate::hypervisor::{Spec, VmInfo};
use crate::job::Cancel;

pub(super) async fn run(args: VmArgs) -> Result<()> {
    let VmCommand::List { spec, connect, json } = args.command;
    let spec: Spec = spec.parse()?;
    let cancel = Cancel::on_signals()?;
    let connected = connect.open(&cancel).await?;
    let found = cancel.or_stop(connected.hypervisor.find(&spec)).await;
    let place = connected.uri.place();
    connected.close().await;
    let vms = found?;
    if vms.is_empty() && !spec.is_group() {
        return Err(Error::new(Family::NoVm, format!("no VM matches {spec} at {place}")));
    }
    if json {
        return output::json(&vms);
    }
    output::table(&["MOREF", "NAME", "POWER", "ADDRESS", "UUID"], &vms.iter().map(row).collect::<Vec<_>>());
    Ok(())
}

fn row(vm: &VmInfo) -> Vec<String> {
    let power = match (vm.template, vm.power) {
        (true, _) => "template".to_owned(),
        (_, Some(power)) => power.to_string(),
        _ => "?".to_owned(),
    };
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
    vec![vm.moref.to_string(), vm.name.clone(), power, text(&vm.ip), text(&vm.uuid)]
}
