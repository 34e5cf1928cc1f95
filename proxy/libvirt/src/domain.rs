use std::sync::Arc;
use std::time::Duration;

use crate::connection::Connection;
use crate::types::{
    AddressSource, BackupStart, BlockCommit, BlockInfo, BlockJob, BlockJobEnd, CheckpointDelete, Interface, Job,
    Reason, SnapshotCreate, Undefine, XmlKind,
};
use crate::{Result, blocking};

/// A domain on a [`Connection`]. Clones share it.
#[derive(Clone, Debug)]
pub struct Domain {
    // Dropped before the connection, whose last reference says goodbye to the daemon.
    blocking: Arc<blocking::Domain>,
    connection: Connection,
    name: String,
    uuid: String,
}

impl Domain {
    pub(crate) fn new(connection: Connection, domain: blocking::Domain) -> Self {
        // Both are known on this side already: no call is made.
        let (name, uuid) = (domain.name(), domain.uuid().unwrap_or_default());
        Self { blocking: Arc::new(domain), connection, name, uuid }
    }

    /// Its name when it was looked up.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its UUID, with dashes.
    #[must_use]
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// The connection it was found on.
    #[must_use]
    pub const fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Runs any blocking calls on a thread of their own, with a limit of their own.
    ///
    /// # Errors
    /// Those of `work`, [`Error::Timeout`](crate::Error::Timeout), [`Error::Dead`](crate::Error::Dead).
    pub async fn run<T: Send + 'static>(
        &self,
        call: &'static str,
        limit: Duration,
        work: impl FnOnce(&blocking::Domain) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let domain = self.blocking.clone();
        self.connection.run(call, limit, move |_| work(&domain)).await
    }

    async fn call<T: Send + 'static>(
        &self,
        call: &'static str,
        work: impl FnOnce(&blocking::Domain) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.run(call, self.connection.limit(), work).await
    }

    /// Whether it runs, and why or why not.
    ///
    /// # Errors
    /// libvirt's, or those of the limit; the same for all below.
    pub async fn state(&self) -> Result<Reason> {
        self.call("virDomainGetState", blocking::Domain::state).await
    }

    /// Its number while it runs. No call is made: this is as it was when it was looked up.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.blocking.id()
    }

    /// Whether it stays known after it stopped.
    ///
    /// # Errors
    /// As above.
    pub async fn is_persistent(&self) -> Result<bool> {
        self.call("virDomainIsPersistent", blocking::Domain::is_persistent).await
    }

    /// Whether libvirt keeps its memory for the next start.
    ///
    /// # Errors
    /// As above.
    pub async fn has_managed_save(&self) -> Result<bool> {
        self.call("virDomainHasManagedSaveImage", blocking::Domain::has_managed_save).await
    }

    /// Its description.
    ///
    /// # Errors
    /// As above.
    pub async fn xml(&self, kind: XmlKind) -> Result<String> {
        self.call("virDomainGetXMLDesc", move |d| d.xml(kind)).await
    }

    /// Has the agent freeze all file systems; answers how many.
    ///
    /// # Errors
    /// As above, and the agent's.
    pub async fn freeze(&self, limit: Duration) -> Result<u32> {
        self.run("virDomainFSFreeze", limit, blocking::Domain::freeze).await
    }

    /// Has the agent thaw all file systems; answers how many, 0 if none was frozen.
    ///
    /// # Errors
    /// As above, and the agent's.
    pub async fn thaw(&self, limit: Duration) -> Result<u32> {
        self.run("virDomainFSThaw", limit, blocking::Domain::thaw).await
    }

    /// Sends a command of the agent's protocol as it is, and waits at most `seconds` for the agent's answer.
    ///
    /// # Errors
    /// As above, and the agent's.
    pub async fn agent_command(&self, json: &str, seconds: u32) -> Result<String> {
        let json = json.to_owned();
        // libvirt asks the agent twice: whether it listens, and then the question.
        let limit = self.connection.limit() + Duration::from_secs(u64::from(seconds) * 2);
        self.run("virDomainQemuAgentCommand", limit, move |d| d.agent_command(&json, seconds)).await
    }

    /// How long libvirt waits for the agent's answers, for everybody; `None` is libvirt's default, without a limit for freezing.
    ///
    /// # Errors
    /// As above.
    pub async fn agent_response_timeout(&self, seconds: Option<u32>) -> Result<()> {
        self.call("virDomainAgentSetResponseTimeout", move |d| d.agent_response_timeout(seconds)).await
    }

    /// The guest's own name: asked from the agent, or else looked up in the leases.
    ///
    /// # Errors
    /// As above, and the agent's.
    pub async fn guest_host_name(&self, source: AddressSource) -> Result<String> {
        self.call("virDomainGetHostname", move |d| d.guest_host_name(source)).await
    }

    /// Its network cards with their addresses.
    ///
    /// # Errors
    /// As above, and the agent's.
    pub async fn interface_addresses(&self, source: AddressSource) -> Result<Vec<Interface>> {
        self.call("virDomainInterfaceAddresses", move |d| d.interface_addresses(source)).await
    }

    /// Begins a backup, and makes a checkpoint with it.
    ///
    /// # Errors
    /// As above.
    pub async fn backup_begin(
        &self,
        backup: &str,
        checkpoint: Option<&str>,
        how: BackupStart,
        limit: Duration,
    ) -> Result<()> {
        let (backup, checkpoint) = (backup.to_owned(), checkpoint.map(str::to_owned));
        let work = move |d: &blocking::Domain| d.backup_begin(&backup, checkpoint.as_deref(), how);
        self.run("virDomainBackupBegin", limit, work).await
    }

    /// The description of the backup that is at work.
    ///
    /// # Errors
    /// [`Code::NO_DOMAIN_BACKUP`](crate::Code::NO_DOMAIN_BACKUP) if there is none.
    pub async fn backup_xml(&self) -> Result<String> {
        self.call("virDomainBackupGetXMLDesc", blocking::Domain::backup_xml).await
    }

    /// Ends the work that keeps the domain.
    ///
    /// # Errors
    /// [`Code::OPERATION_INVALID`](crate::Code::OPERATION_INVALID) if there is none.
    pub async fn abort_job(&self) -> Result<()> {
        self.call("virDomainAbortJob", blocking::Domain::abort_job).await
    }

    /// The work that keeps the domain now.
    ///
    /// # Errors
    /// As above.
    pub async fn job_info(&self) -> Result<Job> {
        self.call("virDomainGetJobStats", blocking::Domain::job_info).await
    }

    /// Name and description of each checkpoint, parents before children.
    ///
    /// # Errors
    /// As above.
    pub async fn checkpoints(&self) -> Result<Vec<(String, String)>> {
        let work = |d: &blocking::Domain| {
            let all = d.checkpoints()?;
            all.iter().map(|checkpoint| Ok((checkpoint.name(), checkpoint.xml()?))).collect()
        };
        self.call("virDomainListAllCheckpoints", work).await
    }

    /// The description of a checkpoint with the size of what changed since: a disk whose bitmap is missing or broken has none.
    ///
    /// # Errors
    /// [`Code::NO_DOMAIN_CHECKPOINT`](crate::Code::NO_DOMAIN_CHECKPOINT) if there is none.
    pub async fn checkpoint_with_sizes(&self, name: &str) -> Result<String> {
        let name = name.to_owned();
        self.call("virDomainCheckpointGetXMLDesc", move |d| d.checkpoint(&name)?.xml_with_sizes()).await
    }

    /// Deletes a checkpoint. What it noted goes into the one before it.
    ///
    /// # Errors
    /// [`Code::NO_DOMAIN_CHECKPOINT`](crate::Code::NO_DOMAIN_CHECKPOINT) if there is none.
    pub async fn checkpoint_delete(&self, name: &str, how: CheckpointDelete) -> Result<()> {
        let name = name.to_owned();
        self.call("virDomainCheckpointDelete", move |d| d.checkpoint(&name)?.delete(how)).await
    }

    /// Name and description of each snapshot, parents before children.
    ///
    /// # Errors
    /// As above.
    pub async fn snapshots(&self) -> Result<Vec<(String, String)>> {
        let work = |d: &blocking::Domain| {
            let all = d.snapshots()?;
            all.iter().map(|snapshot| Ok((snapshot.name(), snapshot.xml()?))).collect()
        };
        self.call("virDomainListAllSnapshots", work).await
    }

    /// Makes a snapshot.
    ///
    /// # Errors
    /// As above.
    pub async fn snapshot_create(&self, xml: &str, how: SnapshotCreate, limit: Duration) -> Result<()> {
        let xml = xml.to_owned();
        self.run("virDomainSnapshotCreateXML", limit, move |d| d.snapshot_create(&xml, how).map(drop)).await
    }

    /// Has libvirt forget a snapshot; images are left as they are.
    ///
    /// # Errors
    /// [`Code::NO_DOMAIN_SNAPSHOT`](crate::Code::NO_DOMAIN_SNAPSHOT) if there is none.
    pub async fn snapshot_delete_metadata(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.call("virDomainSnapshotDelete", move |d| d.snapshot(&name)?.delete_metadata()).await
    }

    /// Begins to bring what is in `top` into `base` (each `None`: the active image, the deepest one).
    ///
    /// # Errors
    /// As above.
    pub async fn block_commit(
        &self,
        disk: &str,
        base: Option<&str>,
        top: Option<&str>,
        how: BlockCommit,
    ) -> Result<()> {
        let (disk, base, top) = (disk.to_owned(), base.map(str::to_owned), top.map(str::to_owned));
        let work = move |d: &blocking::Domain| d.block_commit(&disk, base.as_deref(), top.as_deref(), how);
        self.call("virDomainBlockCommit", work).await
    }

    /// How far the block job of a disk is; `None` if it has none.
    ///
    /// # Errors
    /// As above.
    pub async fn block_job_info(&self, disk: &str) -> Result<Option<BlockJob>> {
        let disk = disk.to_owned();
        self.call("virDomainGetBlockJobInfo", move |d| d.block_job_info(&disk)).await
    }

    /// Ends the block job of a disk, and waits for that.
    ///
    /// # Errors
    /// As above.
    pub async fn block_job_end(&self, disk: &str, how: BlockJobEnd) -> Result<()> {
        let disk = disk.to_owned();
        self.call("virDomainBlockJobAbort", move |d| d.block_job_end(&disk, how)).await
    }

    /// Sizes of a disk, by its target name or the path of its image.
    ///
    /// # Errors
    /// As above.
    pub async fn block_info(&self, disk: &str) -> Result<BlockInfo> {
        let disk = disk.to_owned();
        self.call("virDomainGetBlockInfo", move |d| d.block_info(&disk)).await
    }

    /// Starts it.
    ///
    /// # Errors
    /// As above.
    pub async fn create(&self) -> Result<()> {
        self.call("virDomainCreateWithFlags", blocking::Domain::create).await
    }

    /// Stops it without asking the guest.
    ///
    /// # Errors
    /// As above.
    pub async fn destroy(&self) -> Result<()> {
        self.call("virDomainDestroyFlags", blocking::Domain::destroy).await
    }

    /// Has the host forget it.
    ///
    /// # Errors
    /// As above.
    pub async fn undefine(&self, what: Undefine) -> Result<()> {
        self.call("virDomainUndefineFlags", move |d| d.undefine(what)).await
    }
}
