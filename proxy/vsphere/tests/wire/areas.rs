//! Changed block queries that take several answers.

use vsphere::{Client, DatastorePath, DiskConfig, Error, Moref};

use crate::server::{Reply, Server, vm};

fn disk(capacity: u64) -> DiskConfig {
    DiskConfig {
        key: 2000,
        label: "Hard disk 1".to_owned(),
        capacity,
        file: DatastorePath::new("ds", "a/a.vmdk"),
        controller_kind: vsphere::ControllerKind::Scsi,
        controller_class: "ParaVirtualSCSIController".to_owned(),
        bus: 0,
        unit: 0,
        mode: "persistent".to_owned(),
        change_id: None,
        uuid: None,
        thin: Some(true),
        backing_class: "VirtualDiskFlatVer2BackingInfo".to_owned(),
        parents: vec![],
        raw_device: false,
        compatibility_mode: None,
    }
}

async fn areas(client: &Client, capacity: u64) -> Result<Vec<(u64, u64)>, Error> {
    client.allocated_areas(&vm(), &Moref::new("VirtualMachineSnapshot", "s-1"), &disk(capacity)).await
}

/// A server that tells of `span` bytes at a time, each with one area in its first ten bytes.
async fn telling(span: u64) -> Server {
    Server::start(move |request| {
        if request.call() != "QueryChangedDiskAreas" {
            return None;
        }
        let start: u64 = request.argument("startOffset")?.parse().unwrap();
        Some(Reply::soap(
            "QueryChangedDiskAreas",
            &format!(
                "<returnval><startOffset>{start}</startOffset><length>{span}</length>\
                 <changedArea><start>{start}</start><length>10</length></changedArea></returnval>"
            ),
        ))
    })
    .await
}

#[tokio::test]
async fn the_query_goes_on_to_the_end_and_never_asks_there() {
    let server = telling(100).await;
    let client = server.client().await;
    assert_eq!(areas(&client, 205).await.unwrap(), [(0, 10), (100, 10), (200, 5)]);
    let requests = server.requests("QueryChangedDiskAreas");
    let starts: Vec<_> = requests.iter().map(|r| r.argument("startOffset").unwrap()).collect();
    assert_eq!(starts, ["0", "100", "200"]);
    assert!(requests.iter().all(|r| r.argument("changeId") == Some("*")));
    assert_eq!(areas(&client, 0).await.unwrap(), []);
    assert_eq!(server.count("QueryChangedDiskAreas"), 3);
}

#[tokio::test]
async fn an_answer_about_nothing_is_an_error() {
    let server = telling(0).await;
    assert!(matches!(areas(&server.client().await, 100).await, Err(Error::Protocol { .. })));
}

#[tokio::test]
async fn changes_are_asked_since_a_point_of_the_disks_own_series() {
    let server = telling(100).await;
    let client = server.client().await;
    let disk = DiskConfig { change_id: Some("52 0e/9".to_owned()), ..disk(150) };
    let snapshot = Moref::new("VirtualMachineSnapshot", "s-1");
    let changed = client.changed_areas(&vm(), &snapshot, &disk, "52 0e/7").await.unwrap();
    assert_eq!(changed, [(0, 10), (100, 10)]);
    assert!(server.requests("QueryChangedDiskAreas").iter().all(|r| r.argument("changeId") == Some("52 0e/7")));
    for point in ["52 0f/7", "52 0e/10", "*"] {
        let refused = client.changed_areas(&vm(), &snapshot, &disk, point).await;
        assert!(matches!(refused, Err(Error::Protocol { .. })), "{point}");
    }
    assert_eq!(server.count("QueryChangedDiskAreas"), 2);
}

#[tokio::test]
async fn a_changed_area_that_nobody_asked_about_spoils_the_answer() {
    let server = Server::start(|request| {
        (request.call() == "QueryChangedDiskAreas").then(|| {
            let area = "<changedArea><start>300</start><length>10</length></changedArea>";
            let answer = format!("<returnval><startOffset>0</startOffset><length>200</length>{area}</returnval>");
            Reply::soap("QueryChangedDiskAreas", &answer)
        })
    })
    .await;
    let disk = DiskConfig { change_id: Some("a/9".to_owned()), ..disk(1000) };
    let client = server.client().await;
    let changed = client.changed_areas(&vm(), &Moref::new("VirtualMachineSnapshot", "s-1"), &disk, "a/7").await;
    assert!(matches!(changed, Err(Error::Protocol { .. })), "{changed:?}");
}
