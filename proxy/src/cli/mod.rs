//! What did the user type, what do we print, which exit code?

mod args;
mod backup;
mod cleanup;
mod disk;
mod disk_args;
mod fs;
mod lab;
mod log;
mod login;
mod mount;
mod mount_args;
mod nbd;
pub(crate) mod output;
mod restore;
mod restore_args;
mod snapshot;
pub mod vcb;
mod vm;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use self::args::{Cli, Command};
use crate::error::{Context, Error, Family, Result};

/// Runs the program: dispatches by the name it was called under, then by the first word.
#[must_use]
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let called = args.first().cloned().unwrap_or_default();
    if let Some(tool) = vcb::tool_of(&called) {
        return vcb::main(tool, &args[1..]);
    }
    if let Some(tool) = args.get(1).and_then(|word| vcb::tool_of(word)) {
        return vcb::main(tool, &args[2..]);
    }
    if args.get(1).is_some_and(|word| word == crate::mount::SERVER_COMMAND) {
        // A server that lives for days and locks itself in: no runtime, no signals of its own.
        close_inherited();
        allow_many_files();
        return crate::mount::server_main();
    }
    if args.get(1).is_some_and(|word| word == crate::mount::KEEPER_COMMAND) {
        return keep();
    }
    if args.get(1).is_some_and(|word| word == crate::mount::IMAGE_KEEPER_COMMAND) {
        close_inherited();
        log::start(log::Style::Plain, 0);
        return finish(run(crate::mount::run_image_keeper()));
    }
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { Family::Usage.exit_code() } else { 0 };
            let _ = error.print(); // nowhere left to say it
            return ExitCode::from(code);
        }
    };
    log::start(log::Style::Plain, cli.verbose);
    allow_many_files();
    finish(run(dispatch(cli.command)).and_then(|()| output::finish()))
}

/// The process that keeps a VM's disks for a mount.
fn keep() -> ExitCode {
    close_inherited();
    let Some(told) = crate::mount::told() else { return ExitCode::from(Family::Usage.exit_code()) };
    let (vcb, more) = told.request.log;
    log::start(if vcb { log::Style::Vcb } else { log::Style::Plain }, more);
    finish(run(crate::mount::run_keeper(told)))
}

/// A process that outlives its caller must not hold what the caller left open: locks, pipes that somebody reads to their end, and for one
/// that reads what a guest wrote, files of the machine.
fn close_inherited() {
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else { return };
    let numbers: Vec<i32> = open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        let _ = nix::unistd::close(number); // the one that listed them is closed already
    }
}

/// A split disk of 8 TiB is 4100 open files, and many systems let a process have 1024 unless it asks for more.
fn allow_many_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    const WANTED: u64 = 16_384;
    let mut limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(WANTED).min(WANTED);
    if limit.current.is_some_and(|current| current < most) {
        limit.current = Some(most);
        let _ = setrlimit(Resource::Nofile, limit); // what then cannot be opened says so
    }
}

/// The exit code of a result; an error is told once, on the last line.
fn finish(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            crate::tell(&format!("Error: {}", error.line()));
            ExitCode::from(error.family().exit_code())
        }
    }
}

/// Runs a command to its end.
fn run<T>(command: impl Future<Output = Result<T>>) -> Result<T> {
    crate::install_crypto();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .failed(|| "cannot start the runtime".into())?;
    let result = runtime.block_on(command);
    // A thread that waits for a terminal or a dead disk must not keep the process.
    runtime.shutdown_background();
    result
}

async fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::Vm(args) => vm::run(args).await,
        Command::Backup(args) => backup::run(args).await,
        Command::Restore(args) => restore::run(args).await,
        Command::Verify(args) => restore::run_verify(args).await,
        Command::Snapshot(args) => snapshot::run(args).await,
        Command::Cleanup(args) => cleanup::run(args).await,
        Command::Disk(args) => disk::run(args).await,
        Command::Nbd(args) => nbd::run(args).await,
        Command::Mount(args) => mount::run(args).await,
        Command::Unmount(args) => mount::run_unmount(args).await,
        Command::Mounts(args) => mount::run_mounts(&args),
        Command::Fs(args) => fs::run(args).await,
        Command::Demo(args) => crate::demo::run(args.dir, args.json).await,
        Command::Lab(args) => lab::run(args).await,
        Command::Login(args) => login::login(&args),
        Command::Logout(args) => login::logout(&args),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "stillframe", &mut std::io::stdout());
            Ok(())
        }
        Command::Man { directory } => match directory {
            Some(directory) => clap_mangen::generate_to(Cli::command(), &directory).map_err(|e| {
                Error::new(Family::Failed, format!("cannot write to {}", directory.display())).caused_by(e)
            }),
            None => match clap_mangen::Man::new(Cli::command()).render(&mut std::io::stdout()) {
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
                rendered => rendered.failed(|| "cannot write the manual page".into()),
            },
        },
    }
}
