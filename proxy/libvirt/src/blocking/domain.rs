use std::ffi::{c_char, c_int};
use std::ptr;

use virt_sys as sys;

use super::{c_text, check, flags, handle, list, owned_text, text};
use crate::types::{
    AddressSource, BackupStart, BlockCommit, BlockInfo, BlockJob, BlockJobEnd, Interface, Job, JobKind, Reason, State,
    Undefine, XmlKind,
};
use crate::{Code, Error, Result};

handle! {
    /// A domain: a virtual machine as libvirt knows it.
    pub Domain, sys::_virDomain, sys::virDomainFree
}

/// Room for 36 characters and a zero.
const UUID_ROOM: usize = 37;

impl Domain {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> String {
        // SAFETY: the pointer is valid while self lives; the text is the object's own.
        unsafe { text(sys::virDomainGetName(self.ptr.as_ptr())) }.unwrap_or_default()
    }

    /// Its UUID, with dashes.
    ///
    /// # Errors
    /// libvirt's.
    pub fn uuid(&self) -> Result<String> {
        let mut room = [0 as c_char; UUID_ROOM];
        // SAFETY: there is room for what the call writes, and it ends with a zero.
        unsafe {
            let answer = sys::virDomainGetUUIDString(self.ptr.as_ptr(), room.as_mut_ptr());
            check("virDomainGetUUIDString", answer)?;
            room[UUID_ROOM - 1] = 0;
            Ok(text(room.as_ptr()).unwrap_or_default())
        }
    }

    /// Its number while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        // SAFETY: the pointer is valid while self lives. "Not running" is the largest number.
        let id = unsafe { sys::virDomainGetID(self.ptr.as_ptr()) };
        (id != u32::MAX).then_some(id)
    }

    /// Whether it runs, and why or why not.
    ///
    /// # Errors
    /// [`Code::NO_DOMAIN`] if it is gone.
    pub fn state(&self) -> Result<Reason> {
        let (mut state, mut reason): (c_int, c_int) = (0, 0);
        // SAFETY: the pointer is valid while self lives, the numbers are written in the call.
        let answer = unsafe { sys::virDomainGetState(self.ptr.as_ptr(), &raw mut state, &raw mut reason, 0) };
        check("virDomainGetState", answer)?;
        let number = u32::try_from(state).unwrap_or(u32::MAX);
        let state = match number {
            sys::VIR_DOMAIN_RUNNING | sys::VIR_DOMAIN_BLOCKED => State::Running,
            sys::VIR_DOMAIN_PAUSED => State::Paused,
            sys::VIR_DOMAIN_SHUTDOWN => State::ShuttingDown,
            sys::VIR_DOMAIN_SHUTOFF => State::ShutOff,
            sys::VIR_DOMAIN_CRASHED => State::Crashed,
            sys::VIR_DOMAIN_PMSUSPENDED => State::Asleep,
            _ => State::Other(state),
        };
        Ok(Reason { state, reason })
    }

    /// Whether it stays known after it stopped.
    ///
    /// # Errors
    /// libvirt's.
    pub fn is_persistent(&self) -> Result<bool> {
        // SAFETY: the pointer is valid while self lives.
        check("virDomainIsPersistent", unsafe { sys::virDomainIsPersistent(self.ptr.as_ptr()) })
            .map(|answer| answer == 1)
    }

    /// Whether libvirt keeps its memory for the next start.
    ///
    /// # Errors
    /// libvirt's.
    pub fn has_managed_save(&self) -> Result<bool> {
        // SAFETY: the pointer is valid while self lives.
        let answer = unsafe { sys::virDomainHasManagedSaveImage(self.ptr.as_ptr(), 0) };
        check("virDomainHasManagedSaveImage", answer).map(|answer| answer == 1)
    }

    /// Its description.
    ///
    /// # Errors
    /// libvirt's.
    pub fn xml(&self, kind: XmlKind) -> Result<String> {
        let flags = flags(&[
            (kind.inactive, sys::VIR_DOMAIN_XML_INACTIVE),
            (kind.migratable, sys::VIR_DOMAIN_XML_MIGRATABLE),
            (kind.secure, sys::VIR_DOMAIN_XML_SECURE),
        ]);
        // SAFETY: the pointer is valid while self lives; the answer is ours to free.
        unsafe { owned_text("virDomainGetXMLDesc", sys::virDomainGetXMLDesc(self.ptr.as_ptr(), flags)) }
    }

    /// Has the agent freeze all file systems; answers how many.
    ///
    /// # Errors
    /// libvirt's, also those of the agent.
    pub fn freeze(&self) -> Result<u32> {
        // SAFETY: the pointer is valid while self lives; no list means all.
        let answer = unsafe { sys::virDomainFSFreeze(self.ptr.as_ptr(), ptr::null_mut(), 0, 0) };
        check("virDomainFSFreeze", answer).map(c_int::unsigned_abs)
    }

    /// Has the agent thaw all file systems; answers how many, 0 if none was frozen.
    ///
    /// # Errors
    /// libvirt's, also those of the agent.
    pub fn thaw(&self) -> Result<u32> {
        // SAFETY: as above.
        let answer = unsafe { sys::virDomainFSThaw(self.ptr.as_ptr(), ptr::null_mut(), 0, 0) };
        check("virDomainFSThaw", answer).map(c_int::unsigned_abs)
    }

    /// Sends a command of the agent's protocol as it is, and waits at most `seconds` for the answer.
    ///
    /// # Errors
    /// libvirt's, also those of the agent.
    pub fn agent_command(&self, json: &str, seconds: u32) -> Result<String> {
        let json = c_text("the agent's command", json)?;
        let seconds = c_int::try_from(seconds).unwrap_or(c_int::MAX);
        // SAFETY: pointer and text live through the call; the answer is ours to free.
        unsafe {
            let answer = sys::virDomainQemuAgentCommand(self.ptr.as_ptr(), json.as_ptr(), seconds, 0);
            owned_text("virDomainQemuAgentCommand", answer)
        }
    }

    /// How long libvirt waits for the agent's answers, for everybody; `None` is libvirt's default, without a limit for freezing.
    ///
    /// # Errors
    /// libvirt's.
    pub fn agent_response_timeout(&self, seconds: Option<u32>) -> Result<()> {
        let seconds = match seconds {
            Some(seconds) => c_int::try_from(seconds).unwrap_or(c_int::MAX),
            None => sys::VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK,
        };
        // SAFETY: the pointer is valid while self lives.
        let answer = unsafe { sys::virDomainAgentSetResponseTimeout(self.ptr.as_ptr(), seconds, 0) };
        check("virDomainAgentSetResponseTimeout", answer).map(drop)
    }

    /// The guest's own name: asked from the agent, or else looked up in the leases.
    ///
    /// # Errors
    /// libvirt's, also those of the agent.
    pub fn guest_host_name(&self, source: AddressSource) -> Result<String> {
        let flags = match source {
            AddressSource::Agent => sys::VIR_DOMAIN_GET_HOSTNAME_AGENT,
            _ => sys::VIR_DOMAIN_GET_HOSTNAME_LEASE,
        };
        // SAFETY: the pointer is valid while self lives; the answer is ours to free.
        unsafe { owned_text("virDomainGetHostname", sys::virDomainGetHostname(self.ptr.as_ptr(), flags)) }
    }

    /// Its network cards with their addresses.
    ///
    /// # Errors
    /// libvirt's, also those of the agent.
    pub fn interface_addresses(&self, source: AddressSource) -> Result<Vec<Interface>> {
        let source = match source {
            AddressSource::Lease => sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE,
            AddressSource::Agent => sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT,
            AddressSource::Arp => sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP,
        };
        let mut array = ptr::null_mut();
        // SAFETY: the pointer is valid while self lives; the array is taken over with all in it, each is freed after it was copied.
        unsafe {
            let count = sys::virDomainInterfaceAddresses(self.ptr.as_ptr(), &raw mut array, source, 0);
            list("virDomainInterfaceAddresses", count, array, |theirs| {
                let copy = interface(theirs.as_ref());
                sys::virDomainInterfaceFree(theirs.as_ptr());
                copy
            })
        }
    }

    /// Begins a backup, and makes a checkpoint with it.
    ///
    /// # Errors
    /// libvirt's.
    pub fn backup_begin(&self, backup: &str, checkpoint: Option<&str>, how: BackupStart) -> Result<()> {
        let backup = c_text("the backup's description", backup)?;
        let checkpoint = checkpoint.map(|xml| c_text("the checkpoint's description", xml)).transpose()?;
        let checkpoint = checkpoint.as_ref().map_or(ptr::null(), |xml| xml.as_ptr());
        let flags = flags(&[(how.reuse_external, sys::VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL)]);
        // SAFETY: pointer and texts live through the call.
        let answer = unsafe { sys::virDomainBackupBegin(self.ptr.as_ptr(), backup.as_ptr(), checkpoint, flags) };
        check("virDomainBackupBegin", answer).map(drop)
    }

    /// The description of the backup that is at work.
    ///
    /// # Errors
    /// [`Code::NO_DOMAIN_BACKUP`] if there is none.
    pub fn backup_xml(&self) -> Result<String> {
        // SAFETY: the pointer is valid while self lives; the answer is ours to free.
        unsafe { owned_text("virDomainBackupGetXMLDesc", sys::virDomainBackupGetXMLDesc(self.ptr.as_ptr(), 0)) }
    }

    /// Ends the work that keeps the domain.
    ///
    /// # Errors
    /// [`Code::OPERATION_INVALID`] if there is none.
    pub fn abort_job(&self) -> Result<()> {
        // SAFETY: the pointer is valid while self lives.
        check("virDomainAbortJob", unsafe { sys::virDomainAbortJob(self.ptr.as_ptr()) }).map(drop)
    }

    /// The work that keeps the domain now.
    ///
    /// # Errors
    /// libvirt's.
    pub fn job_info(&self) -> Result<Job> {
        let (mut kind, mut params, mut count): (c_int, sys::virTypedParameterPtr, c_int) = (0, ptr::null_mut(), 0);
        // SAFETY: the pointer is valid while self lives; the list is read in bounds and freed here.
        unsafe {
            let answer =
                sys::virDomainGetJobStats(self.ptr.as_ptr(), &raw mut kind, &raw mut params, &raw mut count, 0);
            check("virDomainGetJobStats", answer)?;
            let theirs = if params.is_null() {
                &[]
            } else {
                std::slice::from_raw_parts(params, usize::try_from(count).unwrap_or_default())
            };
            let job = job(u32::try_from(kind).unwrap_or_default(), theirs);
            sys::virTypedParamsFree(params, count);
            Ok(job)
        }
    }

    /// Sizes of a disk, by its target name or the path of its image.
    ///
    /// # Errors
    /// libvirt's.
    pub fn block_info(&self, disk: &str) -> Result<BlockInfo> {
        let disk = c_text("the disk", disk)?;
        let mut theirs = sys::virDomainBlockInfo { capacity: 0, allocation: 0, physical: 0 };
        // SAFETY: pointer and text live through the call, the numbers are written in it.
        let answer = unsafe { sys::virDomainGetBlockInfo(self.ptr.as_ptr(), disk.as_ptr(), &raw mut theirs, 0) };
        check("virDomainGetBlockInfo", answer)?;
        Ok(BlockInfo { capacity: theirs.capacity, allocation: theirs.allocation, physical: theirs.physical })
    }

    /// Begins to bring what is in `top` into `base` (each `None`: the active image, the deepest one).
    ///
    /// # Errors
    /// libvirt's.
    pub fn block_commit(&self, disk: &str, base: Option<&str>, top: Option<&str>, how: BlockCommit) -> Result<()> {
        let disk = c_text("the disk", disk)?;
        let base = base.map(|base| c_text("the base", base)).transpose()?;
        let top = top.map(|top| c_text("the top", top)).transpose()?;
        let of = |text: &Option<std::ffi::CString>| text.as_ref().map_or(ptr::null(), |text| text.as_ptr());
        let flags = flags(&[
            (how.active, sys::VIR_DOMAIN_BLOCK_COMMIT_ACTIVE),
            (how.shallow, sys::VIR_DOMAIN_BLOCK_COMMIT_SHALLOW),
            (how.delete, sys::VIR_DOMAIN_BLOCK_COMMIT_DELETE),
        ]);
        // SAFETY: pointer and texts live through the call.
        let answer =
            unsafe { sys::virDomainBlockCommit(self.ptr.as_ptr(), disk.as_ptr(), of(&base), of(&top), 0, flags) };
        check("virDomainBlockCommit", answer).map(drop)
    }

    /// How far the block job of a disk is; `None` if it has none.
    ///
    /// # Errors
    /// libvirt's.
    pub fn block_job_info(&self, disk: &str) -> Result<Option<BlockJob>> {
        let disk = c_text("the disk", disk)?;
        let mut theirs = sys::virDomainBlockJobInfo { type_: 0, bandwidth: 0, cur: 0, end: 0 };
        // SAFETY: pointer and text live through the call, the numbers are written in it.
        let answer = unsafe { sys::virDomainGetBlockJobInfo(self.ptr.as_ptr(), disk.as_ptr(), &raw mut theirs, 0) };
        let found = check("virDomainGetBlockJobInfo", answer)? == 1;
        Ok(found.then_some(BlockJob { kind: theirs.type_, done: theirs.cur, total: theirs.end }))
    }

    /// Ends the block job of a disk, and waits for that.
    ///
    /// # Errors
    /// libvirt's.
    pub fn block_job_end(&self, disk: &str, how: BlockJobEnd) -> Result<()> {
        let disk = c_text("the disk", disk)?;
        let flags = match how {
            BlockJobEnd::Cancel => 0,
            BlockJobEnd::Pivot => sys::VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT,
        };
        // SAFETY: pointer and text live through the call.
        let answer = unsafe { sys::virDomainBlockJobAbort(self.ptr.as_ptr(), disk.as_ptr(), flags) };
        check("virDomainBlockJobAbort", answer).map(drop)
    }

    /// Starts it.
    ///
    /// # Errors
    /// libvirt's.
    pub fn create(&self) -> Result<()> {
        // SAFETY: the pointer is valid while self lives.
        check("virDomainCreateWithFlags", unsafe { sys::virDomainCreateWithFlags(self.ptr.as_ptr(), 0) }).map(drop)
    }

    /// Stops it without asking the guest.
    ///
    /// # Errors
    /// libvirt's.
    pub fn destroy(&self) -> Result<()> {
        // SAFETY: the pointer is valid while self lives.
        check("virDomainDestroyFlags", unsafe { sys::virDomainDestroyFlags(self.ptr.as_ptr(), 0) }).map(drop)
    }

    /// Has the host forget it.
    ///
    /// # Errors
    /// libvirt's.
    pub fn undefine(&self, what: Undefine) -> Result<()> {
        let flags = flags(&[
            (what.snapshots_metadata, sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA),
            (what.checkpoints_metadata, sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA),
            (what.managed_save, sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE),
            (what.nvram == Some(true), sys::VIR_DOMAIN_UNDEFINE_NVRAM),
            (what.nvram == Some(false), sys::VIR_DOMAIN_UNDEFINE_KEEP_NVRAM),
            (what.tpm == Some(true), sys::VIR_DOMAIN_UNDEFINE_TPM),
            (what.tpm == Some(false), sys::VIR_DOMAIN_UNDEFINE_KEEP_TPM),
        ]);
        // SAFETY: the pointer is valid while self lives.
        check("virDomainUndefineFlags", unsafe { sys::virDomainUndefineFlags(self.ptr.as_ptr(), flags) }).map(drop)
    }

    /// Whether the error says that the domain is gone.
    #[must_use]
    pub fn is_gone(error: &Error) -> bool {
        error.is(Code::NO_DOMAIN)
    }
}

/// # Safety
/// What `theirs` points to is what libvirt filled in.
unsafe fn interface(theirs: &sys::virDomainInterface) -> Interface {
    let addresses = if theirs.addrs.is_null() {
        &[]
    } else {
        // SAFETY: by the promise of the caller there are `naddrs` addresses.
        unsafe { std::slice::from_raw_parts(theirs.addrs, usize::try_from(theirs.naddrs).unwrap_or_default()) }
    };
    // SAFETY: texts of libvirt's, null or ended by zero.
    let copy = |theirs| unsafe { text(theirs) };
    Interface {
        name: copy(theirs.name).unwrap_or_default(),
        mac: copy(theirs.hwaddr),
        addresses: addresses.iter().filter_map(|address| copy(address.addr)).collect(),
    }
}

/// # Safety
/// `params` are what libvirt filled in.
unsafe fn job(kind: u32, params: &[sys::virTypedParameter]) -> Job {
    let (mut operation, mut job) = (None, Job { kind: JobKind::None, error: None, scratch_used: None });
    for param in params {
        // SAFETY: names end with zero inside their field; the member that the type names is the one that was filled in.
        unsafe {
            let name = text(param.field.as_ptr()).unwrap_or_default();
            match (name.as_str(), u32::try_from(param.type_).unwrap_or_default()) {
                ("operation", sys::VIR_TYPED_PARAM_INT) => operation = Some(param.value.i),
                ("errmsg", sys::VIR_TYPED_PARAM_STRING) => job.error = text(param.value.s),
                ("disk_temp_used", sys::VIR_TYPED_PARAM_ULLONG) => job.scratch_used = Some(param.value.ul),
                _ => {}
            }
        }
    }
    let backup = i32::try_from(sys::VIR_DOMAIN_JOB_OPERATION_BACKUP).unwrap_or_default();
    job.kind = match (kind, operation) {
        (sys::VIR_DOMAIN_JOB_NONE, _) => JobKind::None,
        (_, Some(operation)) if operation == backup => JobKind::Backup,
        (_, operation) => JobKind::Other(operation.unwrap_or_default()),
    };
    job
}
