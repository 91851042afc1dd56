//! One machine: how it is described, started, talked to and ended.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hasher as _},
    io,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, OnceLock},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    agent::{Agent, Output},
    disk::StateDisk,
    image::{Kernel, images, once},
    monitor::Monitor,
    qcow2,
};
use crate::{Process, Scratch, eventually};

/// Far above what anything takes in emulation on a busy machine.
const PATIENCE: Duration = Duration::from_mins(3);

/// How a machine is to be.
#[derive(Clone, Debug)]
pub struct MachineBuilder {
    kernel: Kernel,
    systemd: bool,
    memory_mib: u32,
    root_read_only: bool,
    clock: Option<String>,
    idle_passes_quickly: bool,
    state: Option<Arc<StateDisk>>,
    prepared: Option<Prepared>,
}

/// What is done to a machine before a test has it; machines of one name are prepared once, and kept.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    /// Stands for all that goes into it.
    pub(super) name: String,
    /// Does it, on a machine that is up.
    pub(super) steps: fn(&Machine),
}

impl MachineBuilder {
    /// The kernel; Debian 13's where this is not called.
    #[must_use]
    pub const fn kernel(mut self, kernel: Kernel) -> Self {
        self.kernel = kernel;
        self
    }

    /// With systemd: what [`Machine::bare`] set up in seconds, its next boot finds.
    #[must_use]
    pub const fn systemd(mut self) -> Self {
        self.systemd = true;
        self
    }

    /// Its clock at power-on, UTC, such as `1970-01-01T00:00:00`; the host's where this is not called.
    #[must_use]
    pub fn clock(mut self, at: &str) -> Self {
        self.clock = Some(at.to_owned());
        self
    }

    /// The root stays mounted read-only.
    #[must_use]
    pub const fn root_read_only(mut self) -> Self {
        self.root_read_only = true;
        self
    }

    /// While the machine is idle its clocks run as fast as the host can: ten idle minutes pass in seconds. The host's
    /// network then seems slow to it.
    #[must_use]
    pub const fn idle_passes_quickly(mut self) -> Self {
        self.idle_passes_quickly = true;
        self
    }

    /// With a second disk, `/dev/vdb`.
    #[must_use]
    pub fn state(mut self, disk: &Arc<StateDisk>) -> Self {
        self.state = Some(Arc::clone(disk));
        self
    }

    pub(super) fn prepared(mut self, prepared: Prepared) -> Self {
        self.prepared = Some(prepared);
        self
    }

    /// Powers a machine on and waits until it is up. Its root is a fresh copy that goes with it.
    ///
    /// # Panics
    ///
    /// Where it is not up in time, with its console.
    #[must_use]
    #[track_caller]
    pub fn boot(self) -> Machine {
        let root = match self.prepared.clone() {
            // On one kernel, in one way: it is the same disk for all.
            Some(prepared) => Machine::debian().prepared(prepared).saved().join("root.qcow2"),
            None => images().root(),
        };
        let mut machine = self.with_root(&root);
        machine.boot_again();
        machine
    }

    /// A machine that is up, from how one was after its boot: a second instead of half a minute.
    ///
    /// # Panics
    ///
    /// Where it was to have a state disk, or a clock of its own: a saved machine has its disks and its time.
    #[must_use]
    #[track_caller]
    pub fn resume(self) -> Machine {
        assert!(self.state.is_none() && self.clock.is_none(), "a saved machine has its disks and its clock");
        let saved = self.saved();
        let mut machine = self.with_root(&saved.join("root.qcow2"));
        machine.power_on(Some(&saved.join("memory")));
        machine.set_clock_to_hosts();
        machine
    }

    /// Folder of the saved machine; made by the first who asks.
    fn saved(&self) -> PathBuf {
        let kind = if self.systemd { "debian" } else { "bare" };
        let speed = if self.idle_passes_quickly { "-idle" } else { "" };
        let name = self.prepared.as_ref().map_or("booted", |prepared| &prepared.name);
        let saved = format!("{kind}-{}-{}{speed}-{:08x}-{name}", self.kernel.name(), self.memory_mib, emulation());
        let saved = images().folder().join(saved);
        once(&saved, |folder| {
            let mut machine = if let Some(prepared) = &self.prepared {
                // From one that is up: another boot would take as long as the preparation.
                let machine = Self { prepared: None, ..self.clone() }.resume();
                (prepared.steps)(&machine);
                machine
            } else {
                let mut machine = self.clone().with_root(&images().root());
                machine.boot_again();
                machine
            };
            machine.save(folder);
        });
        saved
    }

    fn with_root(self, root: &Path) -> Machine {
        let scratch = Scratch::new("machine");
        qcow2::overlay(root, &scratch.path().join("root.qcow2")).expect("the scratch folder is ours");
        Machine { how: self, power: None, scratch }
    }
}

/// A running machine; its power is cut when it is dropped. Its console is printed where the test fails.
#[derive(Debug)]
pub struct Machine {
    how: MachineBuilder,
    // Dropped before the folder that it writes to.
    power: Option<Power>,
    scratch: Scratch,
}

/// What a machine has while it is on.
#[derive(Debug)]
struct Power {
    agent: Agent,
    monitor: Monitor,
    emulator: Process,
}

impl Machine {
    /// Debian 13 with systemd.
    #[must_use]
    pub const fn debian() -> MachineBuilder {
        MachineBuilder {
            kernel: Kernel::Linux6_12,
            systemd: true,
            memory_mib: 512,
            root_read_only: false,
            clock: None,
            idle_passes_quickly: false,
            state: None,
            prepared: None,
        }
    }

    /// The same disk, a shell as its first process, no systemd.
    #[must_use]
    pub fn bare() -> MachineBuilder {
        let mut bare = Self::debian();
        bare.systemd = false;
        bare
    }

    /// Runs a bash script as root and waits for its end.
    ///
    /// # Panics
    ///
    /// Where the machine does not answer within three minutes.
    #[must_use]
    #[track_caller]
    pub fn run(&self, script: &str) -> Output {
        self.run_within(PATIENCE, script)
    }

    /// As [`Self::run`], with a deadline.
    ///
    /// # Panics
    ///
    /// Where it is not met.
    #[must_use]
    #[track_caller]
    pub fn run_within(&self, deadline: Duration, script: &str) -> Output {
        let answer = self.power().agent.run(script, deadline);
        answer.unwrap_or_else(|error| panic!("in the machine: {script}\n{error}\n{}", self.console()))
    }

    /// Copies a file of the host into the machine, with its mode.
    ///
    /// # Panics
    ///
    /// Where it cannot be read, or written there.
    #[track_caller]
    pub fn put(&self, from: &Path, to: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let mut file = File::open(from).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        let mode = file.metadata().expect("an open file").permissions().mode() & 0o777;
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("a bound port").port();
        let sender = thread::spawn(move || -> io::Result<u64> {
            let (mut connection, _) = listener.accept()?;
            io::copy(&mut file, &mut connection)
        });
        self.run(&format!(
            "set -e; mkdir -p \"$(dirname '{to}')\"; cat </dev/tcp/10.0.2.2/{port} >'{to}'; chmod {mode:o} '{to}'"
        ))
        .ok();
        let sent = sender.join().expect("nothing in it panics").expect("the machine takes it");
        let arrived = self.run(&format!("stat -c %s '{to}'")).ok();
        assert_eq!(arrived, sent.to_string(), "bytes of {to} that arrived");
    }

    /// Writes a text into a file of the machine.
    ///
    /// # Panics
    ///
    /// Where it cannot be written.
    #[track_caller]
    pub fn write(&self, to: &str, text: &str) {
        self.run(&format!("mkdir -p \"$(dirname '{to}')\" && cat >'{to}' <<'END-OF-TEXT'\n{text}\nEND-OF-TEXT")).ok();
    }

    /// Runs a script again and again until it succeeds, and returns what it wrote.
    ///
    /// # Panics
    ///
    /// At the deadline, with what the last run wrote.
    #[track_caller]
    pub fn until(&self, deadline: Duration, script: &str) -> String {
        eventually(deadline, &format!("in the machine: {script}"), || {
            let Output { status, stdout, stderr, .. } = self.run(script);
            if status == 0 {
                return Ok(stdout);
            }
            thread::sleep(Duration::from_millis(200));
            Err(format!("status {status}: {stdout} {stderr}"))
        })
    }

    /// The power goes, now: the emulator is killed. A state disk loses its cache; how many writes it lost, and how
    /// many its cache held, is returned.
    ///
    /// # Panics
    ///
    /// Where it is off.
    #[track_caller]
    pub fn cut_power(&mut self) -> (usize, usize) {
        self.power.take().expect("the machine is on").emulator.kill();
        self.how.state.as_ref().map_or((0, 0), |disk| disk.lose_cache())
    }

    /// Orderly: all is stopped and synced.
    ///
    /// # Panics
    ///
    /// Where it is still on after three minutes.
    #[track_caller]
    pub fn shut_down(&mut self) {
        // The answer may be lost with the agent.
        let off = if self.how.systemd { "systemctl poweroff" } else { "sync; mount -o remount,ro /; poweroff -f" };
        let _ending = self.power().agent.run(off, Duration::from_secs(5));
        let mut power = self.power.take().expect("the machine is on");
        let status = power.emulator.wait(PATIENCE);
        assert!(status.success(), "the emulator: {status}");
    }

    /// Powers it on again, with what its disks hold, and waits until it is up.
    ///
    /// # Panics
    ///
    /// Where it is not up in time, with its console.
    #[track_caller]
    pub fn boot_again(&mut self) {
        self.power_on(None);
        if let Err(error) = self.power().agent.wait_ready(PATIENCE) {
            panic!("the machine does not start: {error}\n{}", self.console());
        }
        if self.how.systemd {
            // "degraded" is for the test to judge.
            let _state = self.run("systemctl is-system-running --wait");
        }
    }

    /// Changes how it is from its next power-on.
    pub fn next_time(&mut self, change: impl FnOnce(MachineBuilder) -> MachineBuilder) {
        self.how = change(self.how.clone());
    }

    /// What the kernel and the first process wrote to the console, its end.
    #[must_use]
    pub fn console(&self) -> String {
        let text = fs::read(self.scratch.path().join("console")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    fn power(&self) -> &Power {
        self.power.as_ref().expect("the machine is on")
    }

    fn set_clock_to_hosts(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the host's clock is set").as_millis();
        self.run(&format!("date --utc --set=@{}.{:03} >/dev/null", now / 1000, now % 1000)).ok();
    }

    /// Keeps the machine as it is, and ends it.
    fn save(&mut self, folder: &Path) {
        self.run("sync").ok();
        let mut power = self.power.take().expect("the machine is on");
        power.monitor.save(&folder.join("memory"));
        power.emulator.kill();
        fs::copy(self.scratch.path().join("root.qcow2"), folder.join("root.qcow2")).expect("the cache has room");
    }

    #[track_caller]
    fn power_on(&mut self, memory: Option<&Path>) {
        let folder = self.scratch.path();
        let (port, monitor, console) = (folder.join("agent"), folder.join("monitor"), folder.join("console"));
        for socket in [&port, &monitor] {
            let _none = fs::remove_file(socket);
        }
        let how = &self.how;
        let (kernel, initrd) = images().kernel(how.kernel);
        let mut line = "console=ttyAMA0 loglevel=4 net.ifnames=0 panic=-1".to_owned();
        line.push_str(if how.root_read_only { " ro" } else { " rw" });
        if !how.systemd {
            line.push_str(" init=/usr/local/sbin/vm-init");
        }
        let mut command = Command::new("qemu-system-aarch64");
        command.args([
            "-M",
            "virt",
            "-cpu",
            "cortex-a72",
            "-smp",
            "2",
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
        ]);
        command.args(["-m", &how.memory_mib.to_string()]);
        command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd).args(["-append", &line]);
        command.args(["-serial", &format!("file:{}", console.display())]);
        // The copy is thrown away, so that the host need not keep it safe.
        let root = folder.join("root.qcow2");
        command.args(["-drive", &format!("id=root,file={},if=none,format=qcow2,cache=unsafe", root.display())]);
        // In this order they become /dev/vda and /dev/vdb.
        command.args(["-device", "virtio-blk-pci,drive=root"]);
        if let Some(disk) = &how.state {
            let [node, device] = disk.attach();
            command.args(["-blockdev", &node, "-device", &device]);
        }
        command.args(["-device", "virtio-serial-pci", "-device", "virtserialport,chardev=agent,name=agent"]);
        command.args(["-chardev", &format!("socket,id=agent,path={},server=on,wait=off", port.display())]);
        command.args(["-qmp", &format!("unix:{},server=on,wait=off", monitor.display())]);
        command.args(["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="]);
        command.args(["-device", "virtio-rng-pci"]);
        if let Some(clock) = &how.clock {
            command.args(["-rtc", &format!("base={clock}")]);
        }
        if how.idle_passes_quickly {
            command.args(["-icount", "shift=auto,sleep=off"]);
        }
        if let Some(memory) = memory {
            command.args(["-incoming", &format!("exec:cat '{}'", memory.display())]);
        }
        let emulator = Process::start("qemu-system-aarch64", command);
        self.power = Some(Power { agent: Agent::connect(&port), monitor: Monitor::connect(&monitor), emulator });
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("console of the machine:\n{}", self.console());
        }
    }
}

/// What a saved machine depends on besides its disk: the emulator, the devices that it is given here, and what is done
/// to it.
fn emulation() -> u32 {
    static EMULATION: OnceLock<u32> = OnceLock::new();
    *EMULATION.get_or_init(|| {
        let version = Command::new("qemu-system-aarch64").arg("--version").output().map(|said| said.stdout);
        let mut hasher = DefaultHasher::new();
        hasher.write(&version.unwrap_or_default());
        hasher.write(include_bytes!("machine.rs"));
        hasher.write(include_bytes!("tidegate.rs"));
        u32::try_from(hasher.finish() >> 32).expect("half of it")
    })
}
