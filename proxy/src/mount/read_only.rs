//! Every attempt to write is refused with EROFS, also where root made the mount writable for the kernel.

/// The calls of FUSE that change something, by the kinds of their arguments.
macro_rules! refuse_writes {
    () => {
        read_only::refuse_writes! {
            setattr(
                fuser::INodeNo, Option<u32>, Option<u32>, Option<u32>, Option<u64>, Option<fuser::TimeOrNow>,
                Option<fuser::TimeOrNow>, Option<std::time::SystemTime>, Option<FileHandle>,
                Option<std::time::SystemTime>, Option<std::time::SystemTime>, Option<std::time::SystemTime>,
                Option<fuser::BsdFileFlags>
            ) ReplyAttr;
            mknod(INodeNo, &OsStr, u32, u32, u32) ReplyEntry;
            mkdir(INodeNo, &OsStr, u32, u32) ReplyEntry;
            unlink(INodeNo, &OsStr) ReplyEmpty;
            rmdir(INodeNo, &OsStr) ReplyEmpty;
            symlink(INodeNo, &OsStr, &std::path::Path) ReplyEntry;
            rename(INodeNo, &OsStr, INodeNo, &OsStr, fuser::RenameFlags) ReplyEmpty;
            link(INodeNo, INodeNo, &OsStr) ReplyEntry;
            write(
                INodeNo, FileHandle, u64, &[u8], fuser::WriteFlags, OpenFlags, Option<LockOwner>
            ) fuser::ReplyWrite;
            setxattr(INodeNo, &OsStr, &[u8], i32, u32) ReplyEmpty;
            removexattr(INodeNo, &OsStr) ReplyEmpty;
            create(INodeNo, &OsStr, u32, u32, i32) fuser::ReplyCreate;
            fallocate(INodeNo, FileHandle, u64, u64, i32) ReplyEmpty;
        }
    };
    ($($name:ident($($kind:ty),*) $reply:ty;)*) => {
        $(
            fn $name(&self, _: &Request, $(_: $kind,)* reply: $reply) {
                reply.error(Errno::EROFS);
            }
        )*
    };
}

pub(super) use refuse_writes;
