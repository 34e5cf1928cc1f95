//! The threads of the running guests.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::control::Attached;
use super::log::{self, Region, SlotState};
use crate::world::{LiveDisk, LiveVm, World};

/// How often the supervisor looks for VMs that were switched on.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// How guests behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestOptions {
    /// Transactions per second and VM, about; 1 to 1000.
    pub transactions_per_second: u32,
}

impl Default for GuestOptions {
    fn default() -> Self {
        Self { transactions_per_second: 100 }
    }
}

/// The threads of all running guests, also of those switched on later. Dropping it lets every guest finish its transaction,
/// then stops and joins them.
#[derive(Debug)]
pub struct Guests {
    stop: Arc<AtomicBool>,
    supervisor: Option<JoinHandle<()>>,
}

impl Guests {
    pub(crate) fn start(world: World, options: GuestOptions) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let per_second = options.transactions_per_second.clamp(1, 1000);
        let pause = Duration::from_secs(1) / per_second;
        let stopped = Arc::clone(&stop);
        // Nobody can write before the first look, so the caller finds running guests.
        let mut running = Vec::new();
        look(&world, &mut running, pause, &stop);
        let supervisor = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                thread::sleep(LOOK_EVERY);
                look(&world, &mut running, pause, &stopped);
            }
            for guest in running {
                let _ = guest.thread.join(); // a guest that panicked has said so
            }
        });
        Self { stop, supervisor: Some(supervisor) }
    }
}

impl Drop for Guests {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(supervisor) = self.supervisor.take() {
            let _ = supervisor.join();
        }
    }
}

/// The thread of one VM, for as long as it stays switched on.
struct Running {
    vm: Arc<LiveVm>,
    boot: u32,
    thread: JoinHandle<()>,
}

/// Starts a thread for each running VM that has none.
fn look(world: &World, running: &mut Vec<Running>, pause: Duration, stop: &Arc<AtomicBool>) {
    running.retain(|r| !r.thread.is_finished() || (r.vm.is_running() && r.vm.boots() == r.boot));
    for vm in world.live_vms() {
        if !vm.is_running() || running.iter().any(|r| Arc::ptr_eq(&r.vm, &vm)) {
            continue;
        }
        let boot = vm.boots();
        let guest = Guest::boot(&vm).unwrap_or_else(|error| {
            tracing::warn!(%error, "a guest cannot use its disks");
            None
        });
        // A guest without a log does nothing; its finished thread stands for it until the next boot.
        if let Some(guest) = &guest {
            vm.guest.attach(guest.last);
        }
        let (of_thread, stop) = (Arc::clone(&vm), Arc::clone(stop));
        let thread = thread::spawn(move || {
            if let Some(guest) = guest {
                guest.run(&of_thread, pause, &stop);
            }
        });
        running.push(Running { vm, boot, thread });
    }
}

struct Guest {
    logs: Vec<(Arc<LiveDisk>, Region)>,
    last: u64,
}

impl Guest {
    /// Finds the logs, and finishes what a power failure interrupted: the last transaction that was begun anywhere is committed
    /// everywhere, so that the first moment of rest is a clean one. `None` if there is no log.
    fn boot(vm: &LiveVm) -> io::Result<Option<Self>> {
        let mut logs = Vec::new();
        let mut last = 0;
        for disk in vm.disks() {
            let Some(region) = log::find(&**disk).map_err(read_failed)? else { continue };
            for state in log::read(&**disk, region).map_err(read_failed)? {
                if let Some(SlotState::Begun(n) | SlotState::Committed(n)) = state {
                    last = last.max(n);
                }
            }
            logs.push((Arc::clone(disk), region));
        }
        let guest = Self { logs, last };
        if guest.logs.is_empty() {
            return Ok(None);
        }
        if last > 0 {
            guest.put(SlotState::Committed(last), last, Duration::ZERO)?;
        }
        Ok(Some(guest))
    }

    fn run(mut self, vm: &LiveVm, pause: Duration, stop: &AtomicBool) {
        let attached = Attached(&vm.guest);
        while vm.is_running() && !stop.load(Ordering::Relaxed) {
            attached.rest_point(self.last);
            if let Err(error) = self.transaction(pause) {
                tracing::warn!(%error, "a guest cannot write and stops");
                return;
            }
        }
    }

    /// One transaction. Most of its time passes between its first and its last write.
    fn transaction(&mut self, pause: Duration) -> io::Result<()> {
        let step = pause / (2 * u32::try_from(self.logs.len()).unwrap_or(1) + 1);
        let n = self.last + 1;
        self.put(SlotState::Begun(n), n, step)?;
        self.put(SlotState::Committed(n), n, step)?;
        self.last = n;
        thread::sleep(step);
        Ok(())
    }

    fn put(&self, state: SlotState, n: u64, pause: Duration) -> io::Result<()> {
        for (disk, region) in &self.logs {
            let (slot, at) = region.slot_of(n);
            disk.write(at, &log::encode(slot, region.slots, state))?;
            thread::sleep(pause);
        }
        Ok(())
    }
}

fn read_failed(error: blockdev::ReadError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
