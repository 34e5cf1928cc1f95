#!/usr/bin/env python3
"""Holds the lab's server to pyvmomi, a client that fails on every wrong type.

    lab_check.py DIR

DIR is a lab that is being served and has a running VM with tools. Each check is a line; the first failure ends it with 1.
"""

import hashlib
import http.client
import json
import pathlib
import ssl
import sys
import time
import urllib.parse
import uuid
import xml.etree.ElementTree

from pyVim import connect, task as tasks
from pyVmomi import VmomiSupport, vim, vmodl


def ok(text):
    print("ok  ", text, flush=True)


def require(condition, text):
    if not condition:
        print("FAIL", text, flush=True)
        sys.exit(1)
    ok(text)


def raises(kind, text, action):
    try:
        action()
    except kind:
        ok(text)
        return
    except Exception as other:  # any other kind is what we look for
        require(False, f"{text}: {type(other).__name__} instead of {kind.__name__}: {other}")
    require(False, f"{text}: nothing raised")


def incomplete(value, path):
    """Fields that the schema requires and that did not come, all the way down."""
    if isinstance(value, list):
        return [name for i, item in enumerate(value) for name in incomplete(item, f"{path}[{i}]")]
    if not isinstance(value, vmodl.DynamicData) or isinstance(value, vmodl.MethodFault):
        return []
    missing = []
    for field in value._GetPropertyList():
        inner = getattr(value, field.name)
        if inner is None and not field.flags & VmomiSupport.F_OPTIONAL:
            missing.append(f"{path}.{field.name}")
        elif inner is not None:
            missing.extend(incomplete(inner, f"{path}.{field.name}"))
    return missing


def disordered(element, kind, path):
    """Elements that stand before one that the schema puts first. pyvmomi does not mind; stricter bindings do."""
    named = element.get("{http://www.w3.org/2001/XMLSchema-instance}type", "")
    if named and ":" not in named and named != "ManagedObjectReference":
        kind = VmomiSupport.GetWsdlType("urn:vim25", named)
    if issubclass(kind, list):
        kind = kind.Item
    if not issubclass(kind, vmodl.DynamicData) or issubclass(kind, vmodl.MethodFault):
        return []
    order = [field.name for field in kind._GetPropertyList()]
    names = [child.tag.partition("}")[2] for child in element]
    wrong = [f"{path}.{b}" for a, b in zip(names, names[1:]) if order.index(b) < order.index(a)]
    for name, child in zip(names, element):
        wrong += disordered(child, kind._GetPropertyInfo(name).type, f"{path}.{name}")
    return wrong


class Lab:
    def __init__(self, directory):
        folder = pathlib.Path(directory)
        endpoint = json.loads((folder / "endpoint.json").read_text())
        state = json.loads((folder / "lab.json").read_text())
        self.user, self.password = state["user"], state["password"]
        host, _, port = endpoint["address"].rpartition(":")
        self.host, self.port = host.strip("[]"), int(port)
        self.tls = ssl.create_default_context(cafile=str(folder / "tls" / "cert.pem"))

    def connect(self, password):
        return connect.SmartConnect(
            host=self.host, port=self.port, user=self.user, pwd=password, sslContext=self.tls
        )

    def request(self, method, url, headers, body=None):
        connection = http.client.HTTPSConnection(self.host, self.port, context=self.tls, timeout=60)
        connection.request(method, url, body, headers)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        return response, body


def check_order(lab, thing, paths):
    """Reads properties as XML and compares the order of all elements with the schema's."""
    stub = thing._stub
    for path in paths:
        arguments = (VmomiSupport.Object(name="prop", type=str, version=stub.version, flags=0),)
        fetch = VmomiSupport.Object(name=path, wsdlName="Fetch", version=stub.version, params=arguments)
        body = stub.SerializeRequest(thing, fetch, (path,))
        _, answer = lab.request("POST", "/sdk", {"Cookie": stub.cookie, "Content-Type": "text/xml"}, body)
        returned = xml.etree.ElementTree.fromstring(answer)[0][0]
        kind = type(thing)._GetPropertyInfo(path).type
        wrong = [text for value in returned for text in disordered(value, kind, path)]
        require(len(returned) and not wrong, f"{thing._GetMoId()}: {path} is in order {wrong}")


def collect(content, kind, paths, page=None):
    """The objects of a kind through a container view, page by page."""
    collector = content.propertyCollector
    view = content.viewManager.CreateContainerView(content.rootFolder, [kind], True)
    query = vmodl.query.PropertyCollector
    traversal = query.TraversalSpec(name="view", path="view", skip=False, type=vim.view.ContainerView)
    spec = query.FilterSpec(
        objectSet=[query.ObjectSpec(obj=view, skip=True, selectSet=[traversal])],
        propSet=[query.PropertySpec(type=kind, pathSet=paths, all=False)],
    )
    result = collector.RetrievePropertiesEx([spec], query.RetrieveOptions(maxObjects=page))
    objects, pages = [], 0
    while result is not None:
        pages += 1
        objects.extend(result.objects)
        if not result.token:
            break
        result = collector.ContinueRetrievePropertiesEx(result.token)
    view.DestroyView()
    return {item.obj: {p.name: p.val for p in item.propSet} for item in objects}, pages


def check_inventory(lab, content):
    paths = ["name", "config.uuid", "config.hardware.device", "runtime.powerState", "guest.ipAddress", "parent"]
    found, pages = collect(content, vim.VirtualMachine, paths, page=1)
    require(found and pages == len(found), f"{len(found)} VMs in {pages} pages")
    for vm, values in found.items():
        device = values["config.hardware.device"]
        require(all(isinstance(d, vim.vm.device.VirtualDevice) for d in device), f"devices of {values['name']}")
        require(isinstance(values["runtime.powerState"], str), f"power state of {values['name']}")
    for kind in (vim.Folder, vim.Datacenter, vim.ComputeResource, vim.HostSystem, vim.ResourcePool, vim.Datastore, vim.Network):
        objects, _ = collect(content, kind, ["name", "parent"])
        require(all(v.get("name") for v in objects.values()) and objects, f"{kind.__name__}: {len(objects)}")
    store = collect(content, vim.Datastore, ["summary", "info", "host", "capability"])[0]
    gaps = [gap for values in store.values() for name, value in values.items() for gap in incomplete(value, name)]
    require(not gaps, f"datastores are complete {gaps}")
    host = collect(content, vim.HostSystem, ["summary", "runtime"])[0]
    gaps = [gap for values in host.values() for name, value in values.items() for gap in incomplete(value, name)]
    require(not gaps, f"hosts are complete {gaps}")
    check_order(lab, next(iter(store)), ["summary", "info", "host", "capability"])
    check_order(lab, next(iter(host)), ["summary", "runtime"])
    pool = content.rootFolder.childEntity[0].hostFolder.childEntity[0].resourcePool
    check_order(lab, pool, ["summary", "runtime", "config"])
    return list(found)


def check_vm(lab, content, vm):
    name = vm.name
    for path in ("config", "summary", "guest", "runtime", "layoutEx", "capability"):
        value = getattr(vm, path)
        gaps = incomplete(value, path)
        require(value is not None and not gaps, f"{name}: {path} is complete {gaps}")
    check_order(lab, vm, ["config", "summary", "guest", "runtime", "layoutEx", "capability"])
    config = vm.config
    require(config.changeTrackingEnabled in (True, False) and config.firmware in ("bios", "efi"), f"{name}: flags")
    keys = [d.key for d in config.hardware.device if isinstance(d, vim.vm.device.VirtualDisk)]
    require(keys and keys[0] == 2000, f"{name}: disk keys {keys}")
    kinds = {f.type for f in vm.layoutEx.file}
    require({"config", "nvram", "diskDescriptor", "diskExtent"} <= kinds, f"{name}: files {sorted(kinds)}")
    require(vm in vm.resourcePool.vm, f"{name}: in its pool")
    require(all(isinstance(d, vim.Datastore) for d in vm.datastore), f"{name}: datastores")
    index = content.searchIndex
    datacenter = content.rootFolder.childEntity[0]
    require(index.FindByUuid(None, config.instanceUuid, True, True) == vm, f"{name}: by instance uuid")
    require(vm in index.FindAllByUuid(None, config.uuid, True, False), f"{name}: by bios uuid")
    require(index.FindByDatastorePath(datacenter, config.files.vmPathName) == vm, f"{name}: by .vmx")
    require(index.FindByInventoryPath(f"{datacenter.name}/vm/{name}") == vm, f"{name}: by inventory path")
    if vm.guest.ipAddress:
        require(index.FindByIp(None, vm.guest.ipAddress, True) == vm, f"{name}: by address")
        require(vm in index.FindAllByDnsName(None, vm.guest.hostName, True), f"{name}: by DNS name")
    require(index.FindByIp(None, "192.0.2.99", True) is None, f"{name}: nothing found is nothing")


def traverse(content):
    """The recursive walk that older scripts do: folders within folders."""
    query = vmodl.query.PropertyCollector
    again = [query.SelectionSpec(name=n) for n in ("folder", "vmFolder")]
    folder = query.TraversalSpec(name="folder", type=vim.Folder, path="childEntity", skip=False, selectSet=again)
    vm_folder = query.TraversalSpec(name="vmFolder", type=vim.Datacenter, path="vmFolder", skip=False, selectSet=again)
    start = query.ObjectSpec(obj=content.rootFolder, skip=False, selectSet=[folder, vm_folder])
    wanted = query.PropertySpec(type=vim.ManagedEntity, pathSet=["name"])
    spec = query.FilterSpec(objectSet=[start], propSet=[wanted])
    found = content.propertyCollector.RetrieveContents([spec])
    return [item.obj for item in found if isinstance(item.obj, vim.VirtualMachine)]


def folder_url(path, datacenter):
    store, _, name = path.partition("] ")
    query = urllib.parse.urlencode({"dcPath": datacenter, "dsName": store[1:]}, quote_via=urllib.parse.quote)
    return f"/folder/{urllib.parse.quote(name)}?{query}"


def check_files(lab, content, vm, snapshot):
    datacenter = content.rootFolder.childEntity[0].name
    cookie = {"Cookie": vm._stub.cookie}
    disks = [d for d in snapshot.config.hardware.device if isinstance(d, vim.vm.device.VirtualDisk)]
    leaves = {d.key: d.backing for d in vm.config.hardware.device if isinstance(d, vim.vm.device.VirtualDisk)}
    for disk in disks:
        frozen, leaf = disk.backing, leaves[disk.key]
        require(leaf.fileName != frozen.fileName, f"{disk.deviceInfo.label}: {frozen.fileName} is frozen")
        require(leaf.parent.fileName == frozen.fileName, f"{disk.deviceInfo.label}: and the parent of the leaf")
        extent = frozen.fileName.replace(".vmdk", "-flat.vmdk")
        url = folder_url(extent, datacenter)
        length = min(1 << 20, disk.capacityInBytes)
        response, body = lab.request("GET", url, cookie | {"Range": f"bytes=0-{length - 1}"})
        require(response.status == 206 and len(body) == length, f"{extent}: first {length} bytes by Range")
        wanted = f"bytes 0-{length - 1}/{disk.capacityInBytes}"
        require(response.getheader("Content-Range") == wanted, f"{extent}: {wanted}")
        again, same = lab.request("GET", url, cookie | {"Range": f"bytes=0-{length - 1}"})
        require(hashlib.sha256(body).digest() == hashlib.sha256(same).digest(), f"{extent}: does not change")
        require(lab.request("GET", url, {})[0].status == 401, f"{extent}: not without a session")
        delta = leaf.fileName.replace(".vmdk", "-delta.vmdk")
        require(lab.request("GET", folder_url(delta, datacenter), cookie)[0].status == 500, f"{delta}: is locked")
    vmx = folder_url(vm.config.files.vmPathName, datacenter)
    response, body = lab.request("GET", vmx, cookie)
    require(response.status == 200 and b"displayName" in body, "the .vmx file")
    head, nothing = lab.request("HEAD", vmx, cookie)
    require(int(head.getheader("Content-Length")) == len(body) and not nothing, "HEAD tells its size")
    require(lab.request("GET", folder_url("[datastore1] no/such", datacenter), cookie)[0].status == 404, "404")


def check_areas(vm, snapshot):
    disk = next(d for d in snapshot.config.hardware.device if isinstance(d, vim.vm.device.VirtualDisk))
    if not vm.config.changeTrackingEnabled:
        raises(vim.fault.FileFault, "areas: tracking is off", lambda: vm.QueryChangedDiskAreas(snapshot, disk.key, 0, "*"))
        return
    start = total = 0
    while start < disk.capacityInBytes:
        info = vm.QueryChangedDiskAreas(snapshot, disk.key, start, "*")
        require(info.startOffset == start and info.length > 0, f"areas: [{start}, +{info.length})")
        total += sum(area.length for area in info.changedArea)
        start += info.length
    require(0 < total <= disk.capacityInBytes, f"areas: {total} bytes are in use")
    # Since its own snapshot at most what was written after it; points of other disks are not known.
    changed, start = [], 0
    while start < disk.capacityInBytes:
        info = vm.QueryChangedDiskAreas(snapshot, disk.key, start, disk.backing.changeId)
        require(info.startOffset == start and info.length > 0, f"changes: [{start}, +{info.length})")
        changed += [(area.start, area.length) for area in info.changedArea]
        start += info.length
    require(sum(length for _, length in changed) < disk.capacityInBytes, f"changes: {changed}")
    other = str(uuid.uuid4()) + "/1"
    raises(vim.fault.FileFault, "changes: an unknown point", lambda: vm.QueryChangedDiskAreas(snapshot, disk.key, 0, other))
    beyond = lambda: vm.QueryChangedDiskAreas(snapshot, disk.key, disk.capacityInBytes, "*")
    raises(vmodl.fault.InvalidArgument, "areas: nothing behind the end", beyond)


def poll(task):
    deadline = time.monotonic() + 60
    while task.info.state not in ("success", "error"):
        if time.monotonic() > deadline:
            require(False, "the task ends within a minute")
        time.sleep(0.05)
    return task.info


def check_snapshot(lab, content, vm):
    task = vm.CreateSnapshot_Task("_VCB-BACKUP_", "stillframe run=0 time=0 version=0", False, True)
    info = poll(task)
    gaps = incomplete(info, "info")
    require(info.state == "success" and not gaps, f"{vm.name}: snapshot {info.error} {gaps}")
    snapshot = info.result
    require(isinstance(snapshot, vim.vm.Snapshot), f"{vm.name}: {snapshot}")
    tree = vm.snapshot.rootSnapshotList[0]
    gaps = incomplete(vm.snapshot, "snapshot")
    require(tree.snapshot == snapshot and tree.name == "_VCB-BACKUP_" and not gaps, f"{vm.name}: tree {gaps}")
    require(tree.quiesced == (vm.guest.toolsRunningStatus == "guestToolsRunning"), f"{vm.name}: quiesced {tree.quiesced}")
    require(snapshot.vm == vm and not incomplete(snapshot.config, "config"), f"{vm.name}: snapshot's config")
    check_order(lab, vm, ["snapshot"])
    check_order(lab, snapshot, ["config"])
    check_order(lab, task, ["info"])
    check_files(lab, content, vm, snapshot)
    check_areas(vm, snapshot)
    state = tasks.WaitForTask(snapshot.RemoveSnapshot_Task(False, True), si=None, pc=content.propertyCollector)
    require(state == "success" and vm.snapshot is None, f"{vm.name}: removed, by WaitForTask")
    raises(vmodl.fault.ManagedObjectNotFound, f"{vm.name}: a removed snapshot is gone", lambda: snapshot.config)
    again = lambda: snapshot.RemoveSnapshot_Task(False)
    raises(vmodl.fault.ManagedObjectNotFound, f"{vm.name}: and not removed twice", again)


def check_faults(lab, content, vm):
    raises(vim.fault.InvalidLogin, "a wrong password", lambda: lab.connect("wrong"))
    query = vmodl.query.PropertyCollector
    spec = query.FilterSpec(
        objectSet=[query.ObjectSpec(obj=vm)],
        propSet=[query.PropertySpec(type=vim.VirtualMachine, pathSet=["config.nonsense"])],
    )
    raises(vmodl.query.InvalidProperty, "an unknown property", lambda: content.propertyCollector.RetrieveContents([spec]))
    raises(vim.fault.InvalidPowerState, "a running VM is not switched on", lambda: tasks.WaitForTask(vm.PowerOn()))
    missing = vim.VirtualMachine("vm-no-such", vm._stub)
    raises(vmodl.fault.ManagedObjectNotFound, "an unknown VM", lambda: missing.name)
    register = lambda: tasks.WaitForTask(
        content.rootFolder.childEntity[0].vmFolder.RegisterVM_Task(
            vm.config.files.vmPathName, None, False, vm.resourcePool, None
        )
    )
    raises(vim.fault.AlreadyExists, "a registered VM is not registered", register)


def main():
    lab = Lab(sys.argv[1])
    instance = lab.connect(lab.password)
    content = instance.RetrieveContent()
    require(not incomplete(content, "content"), f"{content.about.fullName}")
    check_order(lab, vim.ServiceInstance("ServiceInstance", instance._stub), ["content"])
    ok(f"version {instance._stub.versionId}")
    require(content.sessionManager.currentSession.userName == lab.user, "session")
    require(abs(instance.CurrentTime().timestamp() - time.time()) < 60, "clock")
    vms = check_inventory(lab, content)
    require(sorted(map(str, traverse(content))) == sorted(map(str, vms)), "the recursive walk finds the same VMs")
    for vm in vms:
        check_vm(lab, content, vm)
        check_snapshot(lab, content, vm)
    check_faults(lab, content, next(vm for vm in vms if vm.runtime.powerState == "poweredOn"))
    content.sessionManager.Logout()
    raises(vim.fault.NotAuthenticated, "after Logout", lambda: vms[0].config)
    print("all checks passed")


if __name__ == "__main__":
    main()
