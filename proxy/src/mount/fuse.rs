//! The tree as the kernel's FUSE asks for it. Numbers are stateless, so nothing is kept per file that was looked up.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use blockdev::{ByteLen, ByteOffset, ExtentKind, ReadAt, ReadError};
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, Notifier, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};
use guestfs::{Case, FileKind, FsError, Metadata, Timestamp};

use super::errors::ErrorLog;
use super::handles::Handles;
use super::{NodeId, Tree, listing, read_only};

/// The source is frozen, so the kernel may believe what it was told for as long as the mount lives.
pub(super) const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// What one request may read; the kernel's requests are as long at most.
pub(super) const MOST_READ: u32 = 1 << 20;
/// How many reads ahead and the like the kernel has under way.
const BACKGROUND: u16 = 64;
/// Reads ahead of this length keep a network busy; kernels of the time allow less unless root says otherwise.
const READAHEAD: u32 = 1 << 20;
/// Files up to this length are handed to the kernel whole when they are opened.
const SMALL: u64 = 64 << 10;
/// XATTR_LIST_MAX and XATTR_SIZE_MAX of Linux.
const MOST_XATTR: usize = 64 << 10;

thread_local! {
    /// One request at a time is answered by a thread.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What serves the kernel. The tree may come after the mount.
pub(super) struct Served {
    pub(super) tree: Arc<OnceLock<Tree>>,
    pub(super) errors: Arc<ErrorLog>,
    handles: Handles,
    /// Whose files they seem to be.
    owner: (u32, u32),
    /// The way to the kernel's memory of files, where there are threads enough: see [`hand_over`](Self::hand_over).
    pub(super) kernel: Arc<OnceLock<Notifier>>,
    handing_over: Mutex<()>,
}

impl Served {
    pub(super) fn new(tree: Arc<OnceLock<Tree>>, errors: Arc<ErrorLog>, owner: (u32, u32)) -> Self {
        let (kernel, handing_over) = (Arc::default(), Mutex::new(()));
        Self { tree, errors, handles: Handles::default(), owner, kernel, handing_over }
    }

    /// The tree is there before the first request is read.
    pub(super) fn tree(&self) -> Result<&Tree, Errno> {
        self.tree.get().ok_or(Errno::EAGAIN)
    }

    pub(super) fn attr(&self, node: NodeId, metadata: &Metadata) -> FileAttr {
        let (kind, perm) = match metadata.kind {
            FileKind::File => (FileType::RegularFile, 0o444),
            FileKind::Folder => (FileType::Directory, 0o555),
            FileKind::Link => (FileType::Symlink, 0o777),
        };
        let modified = time(metadata.modified);
        FileAttr {
            ino: INodeNo(node.0),
            size: metadata.size.0,
            blocks: metadata.allocated.0.div_ceil(512),
            atime: time(metadata.accessed),
            mtime: modified,
            ctime: time(metadata.changed),
            crtime: time(metadata.created),
            kind,
            perm,
            nlink: metadata.links.max(1),
            uid: self.owner.0,
            gid: self.owner.1,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    /// Attributes of an entry of which only the kind is known: good for nothing but a listing.
    pub(super) fn bare_attr(&self, node: NodeId, kind: FileKind) -> FileAttr {
        let never = Timestamp::default();
        let (size, allocated) = (ByteLen(0), ByteLen(0));
        let (created, modified, changed, accessed) = (never, never, never, never);
        let bare = Metadata { kind, size, allocated, links: 1, attributes: 0, created, modified, changed, accessed };
        self.attr(node, &bare)
    }

    fn note(&self, node: NodeId, doing: &str, error: &FsError) -> Errno {
        self.errors.note(node, doing, error)
    }

    fn look_up(&self, parent: NodeId, name: &OsStr) -> Result<FileAttr, Errno> {
        let found = self.tree()?.find(parent, name.as_bytes(), Case::Exact);
        let found = found.map_err(|e| self.note(parent, "looking a name up", &e))?.ok_or(Errno::ENOENT)?;
        let metadata = found.metadata.map_err(|e| self.note(found.node, "looking a name up", &e))?;
        Ok(self.attr(found.node, &metadata))
    }

    fn open_file(&self, node: NodeId) -> Result<u64, Errno> {
        let file = self.tree()?.open(node).map_err(|e| self.note(node, "opening", &e))?;
        if (1..=SMALL).contains(&file.size().0) {
            self.hand_over(node, &*file);
        }
        self.handles.keep(file).ok_or(Errno::ENFILE)
    }

    /// Gives the kernel a small file whole, so that it need not ask for it after it was opened: of a walk over many small files that is half
    /// of all questions. The kernel may have to wait for the answer to another thread's question before it takes the bytes, so one
    /// thread at a time does this, and there is always one that answers. What goes wrong here shows when the file is read.
    fn hand_over(&self, node: NodeId, file: &dyn ReadAt) {
        let (Some(kernel), Ok(_turn)) = (self.kernel.get(), self.handing_over.try_lock()) else { return };
        BUFFER.with_borrow_mut(|buf| {
            buf.clear();
            buf.resize(usize::try_from(file.size().0).unwrap_or(0), 0); // at most SMALL
            if file.read_exact_at(ByteOffset(0), buf).is_ok() {
                let _ = kernel.store(INodeNo(node.0), 0, buf);
            }
        });
    }

    /// The bytes at `offset`: all that were asked for, or all there are up to the end.
    fn read_file(&self, node: NodeId, handle: u64, offset: u64, size: u32, buf: &mut Vec<u8>) -> Result<(), Errno> {
        let file = self.handles.get(handle).ok_or(Errno::EBADF)?;
        let left = file.size().0.saturating_sub(offset);
        let len = left.min(size.min(MOST_READ).into());
        buf.resize(usize::try_from(len).map_err(|_| Errno::EINVAL)?, 0);
        let read = file.read_exact_at(ByteOffset(offset), buf);
        read.map_err(|e| self.errors.note_read(node, "reading", &e))
    }

    fn seek(&self, node: NodeId, handle: u64, offset: i64, whence: i32) -> Result<i64, Errno> {
        let file = self.handles.get(handle).ok_or(Errno::EBADF)?;
        let offset = u64::try_from(offset).map_err(|_| Errno::EINVAL)?;
        let found = match whence {
            nix::libc::SEEK_DATA => seek(file.as_ref(), offset, ExtentKind::Data),
            nix::libc::SEEK_HOLE => seek(file.as_ref(), offset, ExtentKind::Hole),
            _ => return Err(Errno::EINVAL),
        };
        let found = found.map_err(|e| self.errors.note_read(node, "looking for data", &e))?.ok_or(Errno::ENXIO)?;
        i64::try_from(found).map_err(|_| Errno::EOVERFLOW)
    }

    fn xattr(&self, node: NodeId, name: &OsStr) -> Result<Vec<u8>, Errno> {
        let value = self.tree()?.xattr(node, name.as_bytes(), MOST_XATTR);
        value.map_err(|e| self.note(node, "reading an attribute", &e))?.ok_or(Errno::NO_XATTR)
    }

    /// The names of all attributes, each with a NUL behind it; as many as Linux has room for.
    fn xattr_names(&self, node: NodeId) -> Result<Vec<u8>, Errno> {
        let names = self.tree()?.xattrs(node).map_err(|e| self.note(node, "listing attributes", &e))?;
        let mut list = Vec::new();
        for name in names.into_iter().filter(|name| !name.is_empty() && !name.contains(&0)) {
            if list.len() + name.len() + 1 > MOST_XATTR {
                break;
            }
            list.extend_from_slice(&name);
            list.push(0);
        }
        Ok(list)
    }
}

/// The next byte from `from` on that is of this kind. There is a hole behind the end of every file.
fn seek(file: &dyn ReadAt, from: u64, kind: ExtentKind) -> Result<Option<u64>, ReadError> {
    let end = file.size().0;
    let mut at = from;
    while at < end {
        let extent = file.extent_at(ByteOffset(at))?;
        let hole = extent.kind != ExtentKind::Data;
        if hole == (kind != ExtentKind::Data) {
            return Ok(Some(at));
        }
        at = at.saturating_add(extent.len.0.max(1));
    }
    Ok((kind != ExtentKind::Data && from < end).then_some(end))
}

fn time(time: Timestamp) -> SystemTime {
    let nanos = Duration::from_nanos(time.nanos.into());
    let seconds = Duration::from_secs(time.seconds.unsigned_abs());
    let whole = if time.seconds < 0 { UNIX_EPOCH.checked_sub(seconds) } else { UNIX_EPOCH.checked_add(seconds) };
    whole.and_then(|whole| whole.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
}

fn reply_xattr(value: Result<Vec<u8>, Errno>, room: u32, reply: ReplyXattr) {
    match value {
        Err(number) => reply.error(number),
        Ok(value) => match u32::try_from(value.len()) {
            Ok(len) if room == 0 => reply.size(len),
            Ok(len) if len <= room => reply.data(&value),
            _ => reply.error(Errno::ERANGE),
        },
    }
}

impl Filesystem for Served {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let wishes = [
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_MAX_PAGES,
            // Always, and not where the kernel guesses that it pays (FUSE_READDIRPLUS_AUTO): a listing reads the files' records anyway,
            // and who walks a tree asks for each of its files otherwise.
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_NO_OPENDIR_SUPPORT,
            InitFlags::FUSE_ASYNC_DIO,
        ];
        for wish in wishes {
            let _ = config.add_capabilities(wish); // an older kernel does without
        }
        // What cannot be had is answered by the nearest that can.
        let _ = config.set_max_readahead(READAHEAD).or_else(|most| config.set_max_readahead(most));
        let _ = config.set_max_write(MOST_READ);
        let _ = config.set_max_background(BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.look_up(NodeId(parent.0), name) {
            Ok(attr) => reply.entry(&FOREVER, &attr, Generation(0)),
            Err(number) => reply.error(number),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let node = NodeId(ino.0);
        let metadata =
            self.tree().and_then(|tree| tree.metadata(node).map_err(|e| self.note(node, "reading what is known", &e)));
        match metadata {
            Ok(metadata) => reply.attr(&FOREVER, &self.attr(node, &metadata)),
            Err(number) => reply.error(number),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        let node = NodeId(ino.0);
        let text = self.tree().and_then(|tree| tree.link_text(node).map_err(|e| self.note(node, "reading a link", &e)));
        match text {
            Ok(text) => reply.data(&text),
            Err(number) => reply.error(number),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.open_file(NodeId(ino.0)) {
            Ok(handle) => {
                reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH);
            }
            Err(number) => reply.error(number),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        BUFFER.with_borrow_mut(|buf| match self.read_file(NodeId(ino.0), fh.0, offset, size, buf) {
            Ok(()) => reply.data(buf),
            Err(number) => reply.error(number),
        });
    }

    /// Nothing is ever written, so there is nothing to flush; told once, the kernel asks no more.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.handles.release(fh.0);
        reply.ok();
    }

    /// A listing keeps nothing between two questions; told once, the kernel asks no more, and keeps what it was told.
    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        match listing::plain(self, NodeId(ino.0), offset, &mut reply) {
            Ok(()) => reply.ok(),
            Err(number) => reply.error(number),
        }
    }

    fn readdirplus(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        match listing::with_attributes(self, NodeId(ino.0), offset, &mut reply) {
            Ok(()) => reply.ok(),
            Err(number) => reply.error(number),
        }
    }

    fn statfs(&self, _: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let (blocks, block) = self.tree().map_or((0, 4096), |tree| tree.space(NodeId(ino.0)));
        // Names of Windows have at most 255 units of UTF-16, each of at most three bytes here.
        reply.statfs(blocks, 0, 0, 0, 0, block, 765, block);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        reply_xattr(self.xattr(NodeId(ino.0), name), size, reply);
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        reply_xattr(self.xattr_names(NodeId(ino.0)), size, reply);
    }

    fn lseek(&self, _: &Request, ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        match self.seek(NodeId(ino.0), fh.0, offset, whence) {
            Ok(found) => reply.offset(found),
            Err(number) => reply.error(number),
        }
    }

    read_only::refuse_writes!();
}
