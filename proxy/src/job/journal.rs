//! One file of JSON lines per run, each on disk before the act it speaks of. A live run holds a lock on its file, so nobody else
//! takes it for dead; a finished run removes it.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::RunId;
use crate::config::StateDir;
use crate::error::{Context, Error, Family, Result};
use crate::hypervisor::VmId;
use crate::sync_folder;

/// A journal holds a few lines for each VM of a run; a longer file is not ours.
const MAX_JOURNAL: u64 = 16 << 20;

/// Something that has to be undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "kebab-case")]
pub enum Act {
    /// A snapshot of a VM. The fact learned later is its id.
    Snapshot {
        /// The VM.
        vm: VmId,
        /// Its display name, for messages.
        vm_name: String,
        /// Its BIOS UUID: ids may change when a server restarts.
        vm_uuid: Option<String>,
        /// When the call was about to be made, seconds of Unix time.
        at: i64,
        /// Whether delta files without a snapshot were there before: then they are not this run's.
        unconsolidated: bool,
    },
    /// A guest that is made to stand still by a call of its own. Nothing may be left of it unless the guest is known to have thawed.
    Freeze {
        /// The VM.
        vm: VmId,
        /// Its display name, for messages.
        vm_name: String,
        /// Which start of the machine it was, if the hypervisor tells: what a guest had frozen ends with it.
        boot: Option<String>,
    },
    /// A point in the change log of a VM, of which nothing may be left unless the backup that stands for it is complete.
    Point {
        /// The VM.
        vm: VmId,
        /// Its display name, for messages.
        vm_name: String,
        /// The hypervisor's name of the point.
        point: String,
    },
    /// A local directory that is not complete.
    Directory {
        /// Absolute path.
        path: PathBuf,
    },
    /// A directory on a datastore that was made for a restore.
    DatastoreDirectory {
        /// Inventory path of the datacenter.
        datacenter: String,
        /// `[datastore] folder`.
        path: String,
    },
    /// A mount of ours on a local directory.
    Mount {
        /// Absolute path.
        path: PathBuf,
        /// Whether the run made the directory too.
        made_directory: bool,
    },
    /// A file or folder that a restore gave its final name.
    Placed {
        /// Absolute path.
        path: PathBuf,
        /// The device and number of what was placed there: anything else under that name is not ours.
        device: u64,
        /// See `device`.
        inode: u64,
    },
    /// A domain that was defined for a restore. It bears the mark of the run.
    Domain {
        /// Its UUID.
        vm: VmId,
        /// Its name, for messages.
        vm_name: String,
        /// When the call was about to be made, seconds of Unix time.
        at: i64,
    },
    /// A VM that was registered for a restore.
    Registration {
        /// Its configuration file, `[datastore] folder/name.vmx`.
        config_path: String,
        /// Inventory path of the datacenter.
        datacenter: String,
    },
}

impl Act {
    /// Whether it is undone on this machine, without a hypervisor.
    #[must_use]
    pub const fn is_local(&self) -> bool {
        matches!(self, Self::Directory { .. } | Self::Mount { .. } | Self::Placed { .. })
    }
}

/// The head of a journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// The run.
    pub run: RunId,
    /// The program version that wrote the journal.
    pub version: String,
    /// The command, for people.
    pub command: String,
    /// The connection, without secrets.
    pub uri: String,
    /// When, RFC 3339.
    pub started: String,
    /// The process, for people.
    pub pid: u32,
}

impl Begin {
    /// The head of the journal at `path`, whether its run is alive or dead.
    #[must_use]
    pub fn peek(path: &Path) -> Option<Self> {
        let mut text = Vec::new();
        File::open(path).ok()?.take(MAX_JOURNAL).read_to_end(&mut text).ok()?;
        match serde_json::from_slice(text.split(|byte| *byte == b'\n').next()?).ok()? {
            Record::Begin(begin) => Some(begin),
            _ => None,
        }
    }

    /// The same, if its run mounted something at `mounted`, whether that is undone or not.
    #[must_use]
    pub fn of_mount(path: &Path, mounted: &Path) -> Option<Self> {
        let mut text = Vec::new();
        File::open(path).ok()?.take(MAX_JOURNAL).read_to_end(&mut text).ok()?;
        let records = text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
        let is_it =
            |record: Record| matches!(record, Record::Intent { what: Act::Mount { path, .. }, .. } if path == mounted);
        records.into_iter().any(is_it).then(|| Self::peek(path))?
    }
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "kebab-case")]
pub enum Record {
    /// The first line.
    Begin(Begin),
    /// The act numbered `n` is about to happen.
    Intent {
        /// Number of the act in this run.
        n: u32,
        /// What.
        #[serde(flatten)]
        what: Act,
    },
    /// The act numbered `n` gave this id.
    Fact {
        /// Number of the act.
        n: u32,
        /// What the hypervisor called it.
        id: String,
    },
    /// Nothing remains to be undone of the act numbered `n`.
    Settled {
        /// Number of the act.
        n: u32,
    },
    /// Everything was meant to stay: nothing of the run is to be undone.
    Done,
}

/// An act that is still to be undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenAct {
    /// Its number in the run.
    pub n: u32,
    /// What it was.
    pub what: Act,
    /// What the hypervisor called it, if that was learned.
    pub fact: Option<String>,
}

/// A journal that is being written. Dropping it without [`finish`](Self::finish) leaves it for a cleanup.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    run: RunId,
    next: u32,
    open: Vec<OpenAct>,
}

impl Journal {
    /// Begins the journal of `run`.
    ///
    /// # Errors
    /// [`Family::Failed`] if the state directory cannot be written.
    pub fn begin(state: &StateDir, run: RunId, command: &str, uri: &str) -> Result<Self> {
        let folder = state.journals();
        let what = || format!("cannot begin a journal in {}", folder.display());
        // Locked before it gets its name, so that it never looks dead.
        let hidden = folder.join(format!(".{run}.new"));
        let path = folder.join(format!("{run}.jsonl"));
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&hidden).failed(what)?;
        let mut journal = Self { file, path: path.clone(), run, next: 1, open: Vec::new() };
        let begun = journal.write_head(command, uri).and_then(|()| fs::rename(&hidden, &path).failed(what));
        if begun.is_err() {
            let _ = fs::remove_file(&hidden); // it says nothing yet
        }
        begun?;
        sync_folder(&folder).failed(what)?;
        Ok(journal)
    }

    fn write_head(&mut self, command: &str, uri: &str) -> Result<()> {
        let what = || format!("cannot lock the journal of run {}", self.run);
        flock(&self.file, FlockOperation::NonBlockingLockExclusive).failed(what)?;
        self.write(&Record::Begin(Begin {
            run: self.run,
            version: env!("CARGO_PKG_VERSION").into(),
            command: command.into(),
            uri: uri.into(),
            started: jiff::Timestamp::now().to_string(),
            pid: std::process::id(),
        }))
    }

    /// The run.
    #[must_use]
    pub const fn run(&self) -> RunId {
        self.run
    }

    /// Says that `what` is about to happen; answers its number.
    ///
    /// # Errors
    /// [`Family::Failed`] if it cannot be written down; the act must then not happen.
    pub fn intend(&mut self, what: Act) -> Result<u32> {
        let n = self.next;
        self.write(&Record::Intent { n, what: what.clone() })?;
        self.next += 1;
        self.open.push(OpenAct { n, what, fact: None });
        Ok(n)
    }

    /// Says what the hypervisor called the thing that act `n` made.
    ///
    /// # Errors
    /// [`Family::Failed`] if it cannot be written down.
    pub fn learn(&mut self, n: u32, id: &str) -> Result<()> {
        if let Some(act) = self.open.iter_mut().find(|act| act.n == n) {
            act.fact = Some(id.to_owned());
        }
        self.write(&Record::Fact { n, id: id.to_owned() })
    }

    /// Says that nothing of act `n` remains to be undone.
    ///
    /// # Errors
    /// [`Family::Failed`] if it cannot be written down.
    pub fn settle(&mut self, n: u32) -> Result<()> {
        self.write(&Record::Settled { n })?;
        self.open.retain(|act| act.n != n);
        Ok(())
    }

    /// Says, in one record, that all that was made is meant to stay.
    ///
    /// # Errors
    /// [`Family::Failed`] if it cannot be written down.
    pub fn done(&mut self) -> Result<()> {
        self.write(&Record::Done)?;
        self.open.clear();
        Ok(())
    }

    /// What is still to be undone, newest first.
    #[must_use]
    pub fn open_acts(&self) -> Vec<OpenAct> {
        self.open.iter().rev().cloned().collect()
    }

    /// Ends the journal: removed if nothing is open, else kept for a cleanup.
    ///
    /// # Errors
    /// [`Family::Failed`] if it cannot be removed.
    pub fn finish(self) -> Result<()> {
        if !self.open.is_empty() {
            return Ok(());
        }
        remove_file(&self.path)
    }

    fn write(&mut self, record: &Record) -> Result<()> {
        let what = || format!("cannot write the journal {}", self.path.display());
        let mut line = serde_json::to_vec(record).failed(what)?;
        line.push(b'\n');
        self.file.write_all(&line).failed(what)?;
        self.file.sync_data().failed(what)
    }
}

/// The journal of a run that is over without having said so. Holding it keeps others from undoing the same things.
#[derive(Debug)]
pub struct Recorded {
    journal: Journal,
    /// Its head.
    pub begin: Begin,
}

impl Recorded {
    /// Reads the journal at `path` if no live run holds it.
    ///
    /// # Errors
    /// [`Family::Corrupt`] if it cannot be understood.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let what = || format!("cannot read the journal {}", path.display());
        let mut file = match OpenOptions::new().read(true).append(true).open(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            file => file.failed(what)?,
        };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        // Between our opening and our lock its run may have ended well and removed it.
        if file.metadata().failed(what)?.nlink() == 0 {
            return Ok(None);
        }
        let mut text = Vec::new();
        (&mut file).take(MAX_JOURNAL).read_to_end(&mut text).failed(what)?;
        // A line that was cut off while it was written speaks of something that did not happen. What we add must not hang on to it.
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        file.set_len(whole as u64).failed(what)?;
        text.truncate(whole);
        let (begin, open, next) = replay(&text).map_err(|reason| {
            Error::new(Family::Corrupt, format!("the journal {} cannot be understood: {reason}", path.display()))
                .hint("look at it and remove it; `stillframe cleanup --unjournaled --connect URI` finds our snapshots without it")
        })?;
        let journal = Journal { file, path: path.to_owned(), run: begin.run, next, open };
        Ok(Some(Self { journal, begin }))
    }

    /// The journal, to write down what was undone.
    pub const fn journal(&mut self) -> &mut Journal {
        &mut self.journal
    }

    /// Ends the journal: removed if nothing is open any more.
    ///
    /// # Errors
    /// [`Family::Failed`] if it cannot be removed.
    pub fn finish(self) -> Result<()> {
        self.journal.finish()
    }
}

fn replay(text: &[u8]) -> std::result::Result<(Begin, Vec<OpenAct>, u32), String> {
    let mut begin = None;
    let mut open: Vec<OpenAct> = Vec::new();
    let mut next = 1;
    for (index, line) in text.split_inclusive(|b| *b == b'\n').enumerate() {
        let record = serde_json::from_slice(line).map_err(|e| format!("line {}: {e}", index + 1))?;
        match record {
            Record::Begin(_) if index > 0 => return Err(format!("line {}: a second beginning", index + 1)),
            Record::Begin(head) => begin = Some(head),
            Record::Intent { n, what } => {
                open.push(OpenAct { n, what, fact: None });
                next = n.saturating_add(1);
            }
            Record::Fact { n, id } => {
                if let Some(act) = open.iter_mut().find(|act| act.n == n) {
                    act.fact = Some(id);
                }
            }
            Record::Settled { n } => open.retain(|act| act.n != n),
            Record::Done => open.clear(),
        }
    }
    Ok((begin.ok_or("the first line is missing")?, open, next))
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        removed => removed.failed(|| format!("cannot remove the journal {}", path.display()))?,
    }
    path.parent().map_or(Ok(()), sync_folder).failed(|| "cannot sync the journal directory".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> (tempfile::TempDir, StateDir) {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(dir.path()).unwrap();
        (dir, state)
    }

    fn act(name: &str) -> Act {
        Act::Directory { path: PathBuf::from(name) }
    }

    fn only_journal(state: &StateDir) -> PathBuf {
        fs::read_dir(state.journals()).unwrap().next().unwrap().unwrap().path()
    }

    #[test]
    fn a_dead_run_is_read_back_with_what_is_open_newest_first() {
        let (_dir, state) = state();
        let mut journal = Journal::begin(&state, RunId::new(), "backup", "lab:x").unwrap();
        let first = journal.intend(act("/a")).unwrap();
        let second = journal.intend(act("/b")).unwrap();
        journal.learn(second, "snapshot-7").unwrap();
        journal.intend(act("/c")).unwrap();
        journal.settle(first).unwrap();
        drop(journal);
        let mut dead = Recorded::open(&only_journal(&state)).unwrap().unwrap();
        let open: Vec<_> = dead.journal().open_acts().into_iter().map(|a| (a.what, a.fact)).collect();
        assert_eq!(open, [(act("/c"), None), (act("/b"), Some("snapshot-7".into()))]);
    }

    #[test]
    fn a_live_run_is_never_taken_for_dead() {
        let (_dir, state) = state();
        let journal = Journal::begin(&state, RunId::new(), "backup", "lab:x").unwrap();
        assert!(Recorded::open(&only_journal(&state)).unwrap().is_none());
        drop(journal);
        assert!(Recorded::open(&only_journal(&state)).unwrap().is_some());
    }

    #[test]
    fn a_line_cut_off_by_a_kill_counts_as_not_written() {
        let (_dir, state) = state();
        let mut journal = Journal::begin(&state, RunId::new(), "backup", "lab:x").unwrap();
        journal.intend(act("/a")).unwrap();
        drop(journal);
        let path = only_journal(&state);
        let mut text = fs::read(&path).unwrap();
        text.extend_from_slice(b"{\"entry\":\"settled\",\"n\":");
        fs::write(&path, text).unwrap();
        let mut dead = Recorded::open(&path).unwrap().unwrap();
        assert_eq!(dead.journal().open_acts().len(), 1);
        // What is added afterwards can be read again.
        dead.journal().intend(act("/b")).unwrap();
        drop(dead);
        let mut dead = Recorded::open(&path).unwrap().unwrap();
        assert_eq!(dead.journal().open_acts().len(), 2);
    }

    #[test]
    fn one_record_says_that_everything_stays() {
        let (_dir, state) = state();
        let mut journal = Journal::begin(&state, RunId::new(), "restore", "lab:x").unwrap();
        journal.intend(act("/a")).unwrap();
        journal.intend(act("/b")).unwrap();
        journal.done().unwrap();
        drop(journal);
        let mut dead = Recorded::open(&only_journal(&state)).unwrap().unwrap();
        assert!(dead.journal().open_acts().is_empty());
    }

    #[test]
    fn a_finished_run_leaves_no_file_and_an_unfinished_one_does() {
        let (_dir, state) = state();
        let mut journal = Journal::begin(&state, RunId::new(), "backup", "lab:x").unwrap();
        let n = journal.intend(act("/a")).unwrap();
        journal.settle(n).unwrap();
        journal.finish().unwrap();
        assert_eq!(fs::read_dir(state.journals()).unwrap().count(), 0);
        let mut journal = Journal::begin(&state, RunId::new(), "backup", "lab:x").unwrap();
        journal.intend(act("/a")).unwrap();
        journal.finish().unwrap();
        assert_eq!(fs::read_dir(state.journals()).unwrap().count(), 1);
    }

    #[test]
    fn a_journal_that_is_damaged_in_the_middle_is_data_gone_wrong() {
        let (_dir, state) = state();
        let path = state.journals().join("x.jsonl");
        fs::write(&path, "{\"entry\":\"what\"}\n").unwrap();
        assert_eq!(Recorded::open(&path).unwrap_err().family(), Family::Corrupt);
    }
}
