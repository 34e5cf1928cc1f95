//! What runs inside a guest of the tests: it writes numbered, checksummed records, and stands still when it is asked to.
//!
//! One file without dependencies, linked statically by `guest.sh`, started by `guest-init`. Called as `fsfreeze-hook` it
//! is the hook of the guest agent: it hands the word (freeze, thaw) to the running program, and ends with the status that
//! is answered.
//!
//! **Records.** Number N is appended to `/data/log` as a line `N CHECKSUM PAYLOAD` and synced, then written to
//! `/data/seq`, then to each ring disk in the order of their names, synced each. So in an image of all disks at one
//! moment the log is at most one record ahead of any ring, and no ring is ahead of one before it.
//!
//! **Ring disks.** A disk whose first block says `STILLFRAME-RING\n` and how many blocks follow (u64, little-endian).
//! Record N lies in block 1 + (N - 1) % blocks: `SFRECORD`, N, the checksum of the rest (u64 each), payload.
//!
//! **Checksum.** FNV-1a, 64 bit. The payload follows from the number, by xorshift: `src/kvm/judge.rs` knows it too.
//!
//! **Freeze.** The hook stops the writer between two records, writes the number to `/data/consistent`, syncs, and says
//! `HOOK freeze N` on the console; on thaw it says `HOOK thaw SECONDS`, and the writer goes on.
//!
//! **Control.** Lines `ID COMMAND` on the virtio port `stillframe.control`, each answered by one line `ID ANSWER`;
//! `control()` lists the commands.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

const SOCKET: &str = "/run/hook.sock";
const BLOCK: usize = 4096;
const RING_MAGIC: &[u8; 16] = b"STILLFRAME-RING\n";
const RECORD_MAGIC: &[u8; 8] = b"SFRECORD";
/// Characters of payload in a line of the log.
const LINE_PAYLOAD: usize = 64;

/// What everybody here may look at and change.
struct State {
    /// The last record that is complete everywhere.
    counter: u64,
    /// Records per second; 0 writes none.
    rate: u64,
    /// Records to write without a pause.
    burst: u64,
    /// The hook wants the writer to stand still.
    hush: bool,
    /// The writer stands still.
    quiet: bool,
    /// Why the writer ended, if it did.
    failed: Option<String>,
    /// What the hook does: ok, none, fail, hang, hang:SECONDS.
    hook: String,
    /// When the hook was called with freeze, until it is called with thaw.
    frozen: Option<Instant>,
    freezes: u64,
    /// How long the last freeze lasted.
    last: Duration,
    /// Whether an agent that ended is started again.
    respawn: bool,
    agent: Option<Child>,
}

#[derive(Clone)]
struct Guest {
    state: Arc<(Mutex<State>, Condvar)>,
}

fn main() -> ExitCode {
    let mut args = std::env::args();
    let called = args.next().unwrap_or_default();
    if called.ends_with("fsfreeze-hook") {
        return hook(&args.next().unwrap_or_default());
    }
    let guest = Guest::new();
    guest.start_hook_server();
    guest.start_writer();
    if option("agent").as_deref() != Some("off") {
        guest.lock().respawn = true;
    }
    guest.start_agent_keeper();
    if let Some(port) = port("stillframe.control") {
        let guest = guest.clone();
        thread::spawn(move || guest.serve_control(&port));
    }
    say(&format!("GUEST ready, record {}", guest.lock().counter));
    loop {
        thread::park();
    }
}

/// The hook of the agent: asks the program that runs.
fn hook(word: &str) -> ExitCode {
    let asked = || -> io::Result<u8> {
        let mut stream = UnixStream::connect(SOCKET)?;
        writeln!(stream, "{word}")?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        answer.trim().parse().map_err(io::Error::other)
    };
    asked().map_or(ExitCode::from(9), ExitCode::from)
}

/// A line on the serial console.
fn say(line: &str) {
    if let Ok(mut console) = OpenOptions::new().write(true).open("/dev/console") {
        let _ = console.write_all(format!("{line}\n").as_bytes());
    }
}

/// The value of an option on the kernel's command line.
fn option(name: &str) -> Option<String> {
    let line = fs::read_to_string("/proc/cmdline").ok()?;
    line.split_whitespace().find_map(|word| Some(word.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
}

/// The device of the virtio port of that name.
fn port(name: &str) -> Option<PathBuf> {
    for entry in fs::read_dir("/sys/class/virtio-ports").ok()?.flatten() {
        if fs::read_to_string(entry.path().join("name")).is_ok_and(|found| found.trim() == name) {
            return Some(Path::new("/dev").join(entry.file_name()));
        }
    }
    None
}

fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Bytes that follow from the number and look like noise.
fn noise(number: u64, bytes: &mut [u8]) {
    let mut x = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for chunk in bytes.chunks_mut(8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        chunk.copy_from_slice(&x.to_le_bytes()[..chunk.len()]);
    }
}

fn line_of(number: u64) -> String {
    let mut bytes = [0; LINE_PAYLOAD / 2];
    noise(number, &mut bytes);
    let payload: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{number} {:016x} {payload}\n", checksum(format!("{number} {payload}").as_bytes()))
}

/// A disk that keeps the newest records.
struct Ring {
    disk: File,
    blocks: u64,
}

impl Ring {
    /// Every ring disk there is, in the order of their names.
    fn all() -> Vec<Self> {
        let names = fs::read_dir("/sys/block").into_iter().flatten().flatten().map(|entry| entry.file_name());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names.iter().filter_map(|name| Self::open(&Path::new("/dev").join(name)).ok().flatten()).collect()
    }

    fn open(device: &Path) -> io::Result<Option<Self>> {
        let mut head = [0; 24];
        File::open(device)?.read_exact(&mut head)?;
        if head[..16] != RING_MAGIC[..] {
            return Ok(None);
        }
        let mut blocks = [0; 8];
        blocks.copy_from_slice(&head[16..]);
        let blocks = u64::from_le_bytes(blocks).max(1);
        Ok(Some(Self { disk: OpenOptions::new().read(true).write(true).open(device)?, blocks }))
    }

    fn write(&self, number: u64) -> io::Result<()> {
        let mut block = [0; BLOCK];
        noise(number, &mut block[24..]);
        block[..8].copy_from_slice(RECORD_MAGIC);
        block[8..16].copy_from_slice(&number.to_le_bytes());
        let sum = checksum(&block[24..]);
        block[16..24].copy_from_slice(&sum.to_le_bytes());
        let index = 1 + (number - 1) % self.blocks;
        self.disk.write_all_at(&block, index * BLOCK as u64)?;
        self.disk.sync_data()
    }
}

/// All that a record is written to.
struct Places {
    log: File,
    seq: File,
    rings: Vec<Ring>,
}

impl Places {
    /// Opens them, and finds the last whole line of the log: what is after it, a killed guest had begun.
    fn open() -> io::Result<(Self, u64)> {
        let mut log = OpenOptions::new().read(true).write(true).create(true).truncate(false).open("/data/log")?;
        let mut text = Vec::new();
        log.read_to_end(&mut text)?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        log.set_len(whole as u64)?;
        log.seek(SeekFrom::End(0))?;
        let last = String::from_utf8_lossy(&text[..whole]).lines().last().map(str::to_owned).unwrap_or_default();
        let counter = last.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0);
        let seq = OpenOptions::new().write(true).create(true).truncate(false).open("/data/seq")?;
        Ok((Self { log, seq, rings: Ring::all() }, counter))
    }

    fn write(&mut self, number: u64) -> io::Result<()> {
        self.log.write_all(line_of(number).as_bytes())?;
        self.log.sync_data()?;
        self.seq.write_all_at(format!("{number}\n").as_bytes(), 0)?;
        for ring in &self.rings {
            ring.write(number)?;
        }
        Ok(())
    }
}

impl Guest {
    fn new() -> Self {
        let state = State {
            counter: 0,
            rate: option("rate").and_then(|rate| rate.parse().ok()).unwrap_or(5),
            burst: 0,
            hush: false,
            quiet: false,
            failed: None,
            hook: option("hook").unwrap_or_else(|| "ok".to_owned()),
            frozen: None,
            freezes: 0,
            last: Duration::ZERO,
            respawn: false,
            agent: None,
        };
        Self { state: Arc::new((Mutex::new(state), Condvar::new())) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waits for a change by anybody, at most so long.
    fn wait<'a>(&self, held: MutexGuard<'a, State>, longest: Duration) -> MutexGuard<'a, State> {
        self.state.1.wait_timeout(held, longest).unwrap_or_else(|poisoned| poisoned.into_inner()).0
    }

    fn change(&self, how: impl FnOnce(&mut State)) {
        how(&mut self.lock());
        self.state.1.notify_all();
    }

    fn start_writer(&self) {
        let opened = Places::open();
        let guest = self.clone();
        match opened {
            Ok((places, counter)) => {
                self.lock().counter = counter;
                thread::spawn(move || {
                    if let Err(error) = guest.keep_writing(places) {
                        say(&format!("WRITER failed: {error}"));
                        guest.change(|state| state.failed = Some(error.to_string()));
                    }
                });
            }
            Err(error) => self.change(|state| state.failed = Some(error.to_string())),
        }
    }

    fn keep_writing(&self, mut places: Places) -> io::Result<()> {
        let mut due = Instant::now();
        loop {
            let number = {
                let mut state = self.lock();
                loop {
                    if state.hush != state.quiet {
                        state.quiet = state.hush;
                        self.state.1.notify_all();
                    }
                    let now = Instant::now();
                    if !state.quiet && (state.burst > 0 || (state.rate > 0 && now >= due)) {
                        break;
                    }
                    let longest = if state.quiet || state.rate == 0 { Duration::from_secs(1) } else { due - now };
                    state = self.wait(state, longest);
                }
                if state.burst == 0 {
                    due =
                        Instant::now() + Duration::from_secs(1) / u32::try_from(state.rate.max(1)).unwrap_or(u32::MAX);
                }
                state.counter + 1
            };
            places.write(number)?;
            self.change(|state| {
                state.counter = number;
                state.burst = state.burst.saturating_sub(1);
            });
        }
    }

    fn start_hook_server(&self) {
        let _ = fs::remove_file(SOCKET);
        let Ok(listener) = UnixListener::bind(SOCKET) else { return say("GUEST failed: no socket for the hook") };
        let guest = self.clone();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let guest = guest.clone();
                thread::spawn(move || {
                    let mut word = String::new();
                    let _ = BufReader::new(&stream).read_line(&mut word);
                    let status = match word.trim() {
                        "freeze" => guest.freeze(),
                        "thaw" => guest.thaw(),
                        _ => 2,
                    };
                    let _ = writeln!(stream, "{status}");
                });
            }
        });
    }

    /// What the hook does when the agent is about to freeze. Answers its exit status.
    fn freeze(&self) -> u8 {
        let mode = self.lock().hook.clone();
        if mode == "fail" {
            say("HOOK fails");
            return 3;
        }
        if mode.starts_with("hang") {
            say("HOOK hangs");
            self.hang(&mode);
        }
        let mut state = self.lock();
        let mut number = state.counter;
        if mode != "none" && state.failed.is_none() {
            state.hush = true;
            self.state.1.notify_all();
            let end = Instant::now() + Duration::from_secs(20);
            while !state.quiet && state.failed.is_none() && Instant::now() < end {
                state = self.wait(state, Duration::from_secs(1));
            }
            number = state.counter;
        }
        drop(state);
        if mode != "none" {
            let mark = || -> io::Result<()> {
                let mut file = File::create("/data/consistent")?;
                file.write_all(format!("{number}\n").as_bytes())?;
                file.sync_all()
            };
            if let Err(error) = mark() {
                say(&format!("HOOK failed to mark: {error}"));
            }
        }
        say(&format!("HOOK freeze {number}"));
        let mut state = self.lock();
        state.frozen = Some(Instant::now());
        state.freezes += 1;
        0
    }

    /// Stands still as long as the mode says, or until it is another.
    fn hang(&self, mode: &str) {
        let seconds = mode.strip_prefix("hang:").and_then(|seconds| seconds.parse().ok());
        let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let mut state = self.lock();
        while state.hook == mode && end.is_none_or(|end| Instant::now() < end) {
            state = self.wait(state, Duration::from_millis(100));
        }
        drop(state);
        say("HOOK hangs no more");
    }

    fn thaw(&self) -> u8 {
        let mut state = self.lock();
        let lasted = state.frozen.take().map_or(Duration::ZERO, |since| since.elapsed());
        state.last = lasted;
        state.hush = false;
        drop(state);
        self.state.1.notify_all();
        say(&format!("HOOK thaw {:.4}", lasted.as_secs_f64()));
        0
    }

    /// Starts the agent whenever it should run and does not.
    fn start_agent_keeper(&self) {
        let guest = self.clone();
        thread::spawn(move || {
            loop {
                let mut state = guest.lock();
                let ended = state.agent.as_mut().is_some_and(|agent| !matches!(agent.try_wait(), Ok(None)));
                if ended {
                    state.agent = None;
                    say("AGENT ended");
                }
                if state.respawn && state.agent.is_none() {
                    state.agent = start_agent();
                }
                drop(guest.wait(state, Duration::from_millis(100)));
            }
        });
    }

    fn serve_control(&self, port: &Path) {
        let Ok(port) = OpenOptions::new().read(true).write(true).open(port) else { return };
        let mut pending = Vec::new();
        let mut bytes = [0; 256];
        loop {
            // Nobody is connected: the port says end of file.
            let Ok(read @ 1..) = (&port).read(&mut bytes) else {
                pending.clear();
                thread::sleep(Duration::from_millis(20));
                continue;
            };
            pending.extend_from_slice(&bytes[..read]);
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                let (id, command) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
                let answer = self.control(command);
                let _ = (&port).write_all(format!("{id} {answer}\n").as_bytes());
            }
        }
    }

    /// What can be asked for by the control port.
    fn control(&self, line: &str) -> String {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let number = rest.parse::<u64>();
        match (word, number) {
            ("state", _) => self.describe(),
            ("hook", _) => self.done(|state| state.hook = rest.to_owned()),
            ("rate", Ok(rate)) => self.done(|state| state.rate = rate),
            ("write", Ok(records)) => self.write_now(records),
            ("noise", _) => make_noise(rest).map_or_else(|error| format!("error: {error}"), |()| "ok".to_owned()),
            ("agent", _) => self.agent(rest),
            ("crash", _) => fs::write("/proc/sysrq-trigger", "c").map_or_else(|e| e.to_string(), |()| "ok".to_owned()),
            _ => format!("error: what is {line:?}?"),
        }
    }

    fn done(&self, how: impl FnOnce(&mut State)) -> String {
        self.change(how);
        "ok".to_owned()
    }

    fn describe(&self) -> String {
        let state = self.lock();
        format!(
            "counter={} quiet={} freezes={} last={:.4} agent={} hook={} rate={} failed={}",
            state.counter,
            u8::from(state.quiet),
            state.freezes,
            state.last.as_secs_f64(),
            state.agent.as_ref().map_or(0, Child::id),
            state.hook,
            state.rate,
            state.failed.as_deref().unwrap_or("no").replace(' ', "-"),
        )
    }

    /// Writes that many records without a pause, and answers when they are written.
    fn write_now(&self, records: u64) -> String {
        self.change(|state| state.burst += records);
        let mut state = self.lock();
        while state.burst > 0 && state.failed.is_none() {
            state = self.wait(state, Duration::from_secs(1));
        }
        state.failed.clone().map_or_else(|| "ok".to_owned(), |error| format!("error: {error}"))
    }

    /// `kill`: by SIGKILL, it comes again; `stop`: it does not, until `start`; `pause` and `go on`: SIGSTOP and SIGCONT.
    fn agent(&self, what: &str) -> String {
        let signal = |state: &mut State, name: &str| {
            let Some(agent) = &state.agent else { return "error: no agent runs".to_owned() };
            let kill = Command::new("/bin/busybox").args(["kill", name, &agent.id().to_string()]).status();
            if kill.is_ok_and(|status| status.success()) { "ok".to_owned() } else { "error: not sent".to_owned() }
        };
        let mut state = self.lock();
        let answer = match what {
            "kill" => signal(&mut state, "-KILL"),
            "stop" => {
                state.respawn = false;
                signal(&mut state, "-KILL")
            }
            "start" => {
                state.respawn = true;
                "ok".to_owned()
            }
            "pause" => signal(&mut state, "-STOP"),
            "go on" => signal(&mut state, "-CONT"),
            _ => format!("error: what is {what:?}?"),
        };
        drop(state);
        self.state.1.notify_all();
        answer
    }
}

/// `PATH OFFSET LENGTH SEED`: fills MiB of a file or a disk with noise, and syncs.
fn make_noise(words: &str) -> io::Result<()> {
    let words: Vec<&str> = words.split_whitespace().collect();
    let [path, offset, length, seed] = words[..] else { return Err(io::Error::other("PATH OFFSET LENGTH SEED")) };
    let number = |word: &str| word.parse::<u64>().map_err(io::Error::other);
    let (offset, length, seed) = (number(offset)?, number(length)?, number(seed)?);
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    let mut piece = vec![0; 1 << 20];
    for index in offset..offset + length {
        noise(seed.wrapping_add(index << 20), &mut piece);
        file.write_all_at(&piece, index << 20)?;
    }
    file.sync_all()
}

fn start_agent() -> Option<Child> {
    let port = port("org.qemu.guest_agent.0")?;
    let mut command = Command::new("/usr/sbin/qemu-ga");
    command.args(["-m", "virtio-serial", "-p"]).arg(port);
    command.args(["-F/etc/qemu/fsfreeze-hook", "-l", "/run/agent.log", "-t", "/run", "-v"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let started = command.spawn().ok();
    say(&format!(
        "AGENT {}",
        started.as_ref().map_or("cannot be started".to_owned(), |agent| format!("runs as {}", agent.id()))
    ));
    started
}
