//! The simulated storage: datastores with real files, VMs whose disks grow chains of layers, snapshots that really switch the
//! running disk to a new layer and really merge it back.
//!
//! Everything here is synchronous and may wait for the disk; call it from a thread that may block.

mod chain;
mod config;
mod delta;
mod descriptor;
mod disks;
mod error;
mod files;
mod hardware;
mod live;
mod lockfile;
mod merge;
mod partition;
mod snapshot;
mod sparse;
mod state;
mod template;
mod tracker;
mod tracking;
mod upload;
mod view;
mod views;
mod vm;
mod vmx;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use crate::guest::{GuestOptions, Guests};
pub(crate) use chain::LiveDisk;
pub use error::{FileError, LabError};
use live::Live;
pub(crate) use live::LiveVm;
use lockfile::LockFile;
pub use lockfile::lock_holder;
use state::{DatastoreState, State};
pub use template::Template;
pub use upload::Upload;
pub use view::*;

/// The folder of a lab that holds its datastores.
const DATASTORES: &str = "datastores";

/// A lab's datastores and VMs. Cheap to clone; all clones are one lab, which is released when the last one is dropped.
#[derive(Clone)]
pub struct World {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    core: Mutex<Core>,
    observer: Mutex<Option<Observer>>,
    _lock: LockFile,
}

type Observer = Arc<dyn Fn(&WorldEvent) + Send + Sync>;

/// What changes together: the state on disk, and the open files of the VMs in it.
struct Core {
    state: State,
    live: Live,
}

/// Locks whatever another thread did: a panic in one caller must not spoil the lab for the rest.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Who the lab in `dir` is, also while another process runs it.
///
/// # Errors
/// [`LabError::NotALab`], or its state cannot be read.
pub fn identity_of(dir: &Path) -> Result<Identity, LabError> {
    let State { instance_uuid, user, password, .. } = State::load(dir)?;
    Ok(Identity { instance_uuid, user, password })
}

impl World {
    /// Makes a new lab in `dir`, which must be empty or not exist, and opens it.
    ///
    /// # Errors
    /// [`LabError::NotEmpty`]; anything that can go wrong with files.
    pub fn create(dir: &Path, template: Template) -> Result<Self, LabError> {
        fs::create_dir_all(dir).map_err(LabError::io("create", dir))?;
        let mut entries = fs::read_dir(dir).map_err(LabError::io("list", dir))?;
        if entries.next().is_some() {
            return Err(LabError::NotEmpty { dir: dir.to_owned() });
        }
        let held = LockFile::take(dir)?;
        let mut state = State {
            version: 1,
            instance_uuid: Uuid::new_v4(),
            user: "administrator@lab.local".to_owned(),
            password: Uuid::new_v4().simple().to_string().chars().take(16).collect(),
            next_id: 10,
            datastores: Vec::new(),
            vms: Vec::new(),
        };
        for name in ["datastore1", "datastore2"] {
            let folder = dir.join(DATASTORES).join(name);
            fs::create_dir_all(&folder).map_err(LabError::io("create", folder))?;
            let id = format!("datastore-{}", state.new_id());
            state.datastores.push(DatastoreState { id, name: name.to_owned() });
        }
        state.next_id = 60;
        state.save(dir)?;
        let world = Self::with(dir, state, held);
        template.fill(&world)?;
        Ok(world)
    }

    /// Opens a lab, and finishes what was interrupted when it was last used.
    ///
    /// # Errors
    /// [`LabError::NotALab`]; [`LabError::InUse`] while another process has it; [`LabError::BadDisk`] or
    /// [`LabError::State`] if its files are damaged.
    pub fn open(dir: &Path) -> Result<Self, LabError> {
        if !dir.join(state::FILE_NAME).exists() {
            return Err(LabError::NotALab { dir: dir.to_owned() });
        }
        let held = LockFile::take(dir)?;
        let world = Self::with(dir, State::load(dir)?, held);
        let vms: Vec<VmId> = world.core().state.vms.iter().map(|vm| vm.id.clone()).collect();
        for vm in &vms {
            world.open_disks(vm)?;
        }
        for vm in &vms {
            world.finish_merges(vm)?;
        }
        Ok(world)
    }

    fn with(dir: &Path, state: State, held: LockFile) -> Self {
        let core = Mutex::new(Core { state, live: Live::default() });
        let observer = Mutex::new(None);
        Self { inner: Arc::new(Inner { dir: dir.to_owned(), core, observer, _lock: held }) }
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        lock(&self.inner.core)
    }

    /// The lab's folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// Who the lab is, and who may log in.
    #[must_use]
    pub fn identity(&self) -> Identity {
        let core = self.core();
        let State { instance_uuid, user, password, .. } = &core.state;
        Identity { instance_uuid: *instance_uuid, user: user.clone(), password: password.clone() }
    }

    /// Lets the guests of all running VMs write, about 100 transactions per second each.
    #[must_use = "the guests stop when this is dropped"]
    pub fn start_guests(&self) -> Guests {
        self.start_guests_with(GuestOptions::default())
    }

    /// Lets the guests of all running VMs write.
    #[must_use = "the guests stop when this is dropped"]
    pub fn start_guests_with(&self, options: GuestOptions) -> Guests {
        Guests::start(self.clone(), options)
    }

    /// Calls `observer` for everything that happens from now on, in place of an earlier observer. It runs in the thread that
    /// does the work, partly while a guest is held, and must be quick.
    pub fn on_event(&self, observer: impl Fn(&WorldEvent) + Send + Sync + 'static) {
        *lock(&self.inner.observer) = Some(Arc::new(observer));
    }

    fn tell(&self, event: &WorldEvent) {
        let observer = lock(&self.inner.observer).clone();
        if let Some(observer) = observer {
            observer(event);
        }
    }

    /// Where a file of a datastore lies on this machine. Only for paths that the lab made or checked itself.
    fn host_path(&self, path: &DatastorePath) -> PathBuf {
        self.inner.dir.join(DATASTORES).join(&path.datastore).join(&path.path)
    }

    fn live_vm(&self, vm: &VmId) -> Result<Arc<LiveVm>, LabError> {
        self.core().live.get(vm).cloned().ok_or_else(|| LabError::NoSuchVm(vm.clone()))
    }

    pub(crate) fn live_vms(&self) -> Vec<Arc<LiveVm>> {
        self.core().live.values().cloned().collect()
    }
}

impl Core {
    fn save(&self, dir: &Path) -> Result<(), LabError> {
        self.state.save(dir)
    }
}
