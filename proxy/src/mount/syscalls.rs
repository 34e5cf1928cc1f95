//! The system calls that serving a mount takes. All others are refused with EPERM.

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// Those whose arguments do not matter.
#[rustfmt::skip]
const ALLOWED: &[i64] = &[
    // the kernel's requests, the disk's bytes, the log, the link to a keeper
    libc::SYS_read, libc::SYS_readv, libc::SYS_pread64, libc::SYS_preadv, libc::SYS_write, libc::SYS_writev,
    libc::SYS_lseek, libc::SYS_fadvise64, libc::SYS_close, libc::SYS_recvfrom, libc::SYS_sendto, libc::SYS_shutdown, libc::SYS_ppoll,
    // standard input, output and error are exchanged once the mount is ready
    libc::SYS_dup3,
    // memory
    libc::SYS_brk, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_madvise,
    // threads
    libc::SYS_futex, libc::SYS_set_robust_list, libc::SYS_rseq, libc::SYS_sched_yield, libc::SYS_sched_getaffinity,
    libc::SYS_gettid, libc::SYS_getpid, libc::SYS_exit, libc::SYS_exit_group,
    // signals
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn, libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    // clocks and random seeds of hash tables
    libc::SYS_clock_gettime, libc::SYS_clock_nanosleep, libc::SYS_nanosleep, libc::SYS_getrandom,
];
/// Older forms that only some machines have.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[i64] = &[libc::SYS_poll, libc::SYS_dup2];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[i64] = &[];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Restricts this thread and those that it starts.
pub(super) fn restrict() -> Result<(), String> {
    for program in programs(&[])? {
        seccompiler::apply_filter(&program).map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// The filters, which allow `more` than they should: tests need some to get at the rest.
pub(super) fn programs(more: &[i64]) -> Result<[BpfProgram; 2], String> {
    let mut rules: Rules = [ALLOWED, ALLOWED_HERE, more].concat().into_iter().map(|call| (call, Vec::new())).collect();
    let int = |value: libc::c_int| u64::from(value.unsigned_abs());
    // No memory is ever executable but what is so already.
    let exec = int(libc::PROT_EXEC);
    rules.insert(libc::SYS_mmap, masked(2, exec, 0)?);
    rules.insert(libc::SYS_mprotect, masked(2, exec, 0)?);
    // New threads, but no new processes. clone3 hides its flags from filters.
    let thread = int(libc::CLONE_THREAD);
    rules.insert(libc::SYS_clone, masked(0, thread, thread)?);
    rules.insert(libc::SYS_clone3, Vec::new());
    rules.insert(libc::SYS_prctl, masked(0, u64::MAX, int(libc::PR_SET_NAME))?);
    // An abort is a signal to oneself.
    rules.insert(libc::SYS_tgkill, masked(0, u64::MAX, std::process::id().into())?);
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let list = compiled(rules, refused, SeccompAction::Allow)?;
    // Told that there is none, the C library uses clone. This filter comes first: the list does not allow to add one.
    let unknown = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let no_clone3 = compiled([(libc::SYS_clone3, Vec::new())].into(), SeccompAction::Allow, unknown)?;
    Ok([no_clone3, list])
}

fn compiled(rules: Rules, otherwise: SeccompAction, matching: SeccompAction) -> Result<BpfProgram, String> {
    let machine = TargetArch::try_from(std::env::consts::ARCH).map_err(|e| e.to_string())?;
    let filter = SeccompFilter::new(rules, otherwise, matching, machine).map_err(|e| e.to_string())?;
    filter.try_into().map_err(|e: seccompiler::BackendError| e.to_string())
}

/// The call is allowed if its argument, under the mask, is `value`.
fn masked(argument: u8, mask: u64, value: u64) -> Result<Vec<SeccompRule>, String> {
    let compare = SeccompCmpOp::MaskedEq(mask);
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Qword, compare, value);
    let rule = condition.and_then(|condition| SeccompRule::new(vec![condition]));
    rule.map(|rule| vec![rule]).map_err(|e| e.to_string())
}
