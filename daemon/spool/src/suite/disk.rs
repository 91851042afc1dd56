//! A disk in memory that keeps what was synced apart from what was not.
//!
//! [`Model::power_cut`] loses what was not synced in the worst ways a real disk may: of every write, each sector of
//! 512 bytes arrives or does not, independently of every other and of the order of writes; a new length, a new name, a
//! rename, a removal arrives or does not. A failed sync leaves its pages readable and clean: a later sync that
//! succeeds says nothing about them.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    future::pending,
    io,
    ops::Range,
    path::{Path, PathBuf},
    rc::Rc,
};

use tidegate_storage::{Access, Buffer, Name, Storage};
use tokio::sync::watch;

const SECTOR: usize = 512;

/// Handle to the disk; clones share it.
#[derive(Clone)]
pub(crate) struct Model {
    disk: Rc<RefCell<Disk>>,
    power: watch::Sender<bool>,
}

#[derive(Clone, Debug)]
enum Change {
    Data(u64, Vec<u8>),
    Length(u64),
}

#[derive(Clone, Debug, Default)]
struct Node {
    /// What the running system reads.
    cached: Vec<u8>,
    durable: Vec<u8>,
    /// Not yet on disk, the next sync takes it there.
    dirty: Vec<Change>,
    /// On disk or not, no sync will tell.
    stranded: Vec<Change>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Dir(PathBuf),
    Create(PathBuf, u64),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl NameChange {
    /// Folder whose sync makes it durable.
    fn dir(&self) -> &Path {
        let (Self::Dir(path) | Self::Create(path, _) | Self::Rename(_, path) | Self::Remove(path)) = self;
        path.parent().unwrap_or(Path::new(""))
    }
}

#[derive(Clone, Debug, Default)]
struct Names {
    dirs: BTreeSet<PathBuf>,
    files: BTreeMap<PathBuf, u64>,
}

impl Names {
    fn apply(&mut self, change: &NameChange) {
        match change {
            NameChange::Dir(path) => {
                self.dirs.insert(path.clone());
            }
            NameChange::Create(path, node) => {
                self.files.insert(path.clone(), *node);
            }
            NameChange::Rename(from, to) => {
                if let Some(node) = self.files.remove(from) {
                    self.files.insert(to.clone(), node);
                }
            }
            NameChange::Remove(path) => {
                self.files.remove(path);
            }
        }
    }
}

#[derive(Debug)]
struct Disk {
    nodes: BTreeMap<u64, Node>,
    names: Names,
    durable_names: Names,
    pending_names: Vec<NameChange>,
    calls: u64,
    power_cut_at: Option<u64>,
    faults: Vec<(Range<u64>, i32)>,
    syncs_lie: bool,
    random: fastrand::Rng,
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Data(offset, data) => {
                let offset = usize::try_from(*offset).unwrap();
                let end = offset + data.len();
                bytes.resize(bytes.len().max(end), 0);
                bytes[offset..end].copy_from_slice(data);
            }
            Self::Length(length) => bytes.resize(usize::try_from(*length).unwrap(), 0),
        }
    }

    /// The parts that arrive or do not, each on its own.
    fn sectors(&self) -> Vec<Self> {
        let Self::Data(offset, data) = self else { return vec![self.clone()] };
        let mut sectors = Vec::new();
        let mut at = 0;
        while at < data.len() {
            let place = offset + at as u64;
            let to = data.len().min(at + SECTOR - usize::try_from(place).unwrap() % SECTOR);
            sectors.push(Self::Data(place, data[at..to].to_vec()));
            at = to;
        }
        sectors
    }
}

/// What happens to a call.
enum Fate {
    Works,
    Fails(io::Error),
    /// The power goes while it is under way.
    Cut,
}

impl Model {
    pub(crate) fn new(seed: u64) -> Self {
        let mut names = Names::default();
        names.dirs.insert("spool".into());
        let disk = Disk {
            nodes: BTreeMap::new(),
            names: names.clone(),
            durable_names: names,
            pending_names: Vec::new(),
            calls: 0,
            power_cut_at: None,
            faults: Vec::new(),
            syncs_lie: false,
            random: fastrand::Rng::with_seed(seed),
        };
        Self { disk: Rc::new(RefCell::new(disk)), power: watch::Sender::new(true) }
    }

    /// Calls so far.
    pub(crate) fn calls(&self) -> u64 {
        self.disk.borrow().calls
    }

    /// Randomness that differs with the disk and with time.
    pub(crate) fn random(&self) -> fastrand::Rng {
        self.disk.borrow_mut().random.fork()
    }

    /// The power goes in the `calls`-th call from now on.
    pub(crate) fn cut_power_in(&self, calls: u64) {
        let mut disk = self.disk.borrow_mut();
        disk.power_cut_at = Some(disk.calls + calls);
    }

    /// Calls number `range`, from now on, fail with `errno`.
    pub(crate) fn fail(&self, range: Range<u64>, errno: i32) {
        let mut disk = self.disk.borrow_mut();
        let now = disk.calls;
        disk.faults.push((range.start.saturating_add(now)..range.end.saturating_add(now), errno));
    }

    /// No more faults, and no power cut.
    pub(crate) fn heal(&self) {
        let mut disk = self.disk.borrow_mut();
        disk.faults.clear();
        disk.power_cut_at = None;
    }

    /// From now on syncs succeed and do nothing.
    pub(crate) fn let_syncs_lie(&self) {
        self.disk.borrow_mut().syncs_lie = true;
    }

    /// Returns once the power is gone.
    pub(crate) async fn power_gone(&self) {
        let mut power = self.power.subscribe();
        let _sender_lives = power.wait_for(|power| !power).await;
    }

    /// The power goes, if it has not, and comes back.
    pub(crate) fn power_cut(&self) {
        let disk = &mut *self.disk.borrow_mut();
        let Disk { random, nodes, .. } = disk;
        // Some disks keep nearly all, some nearly nothing.
        let share = [0.02, 0.5, 0.98][random.usize(..3)];
        let mut names = disk.durable_names.clone();
        for change in disk.pending_names.drain(..) {
            if random.f64() < share {
                names.apply(&change);
            }
        }
        let dirs = names.dirs.clone();
        names.files.retain(|path, _| path.parent().is_some_and(|dir| dirs.contains(dir)));
        nodes.retain(|node, _| names.files.values().any(|named| named == node));
        for node in nodes.values_mut() {
            let changes: Vec<Change> = node.stranded.drain(..).chain(node.dirty.drain(..)).collect();
            for part in changes.iter().flat_map(Change::sectors) {
                if random.f64() < share {
                    part.apply(&mut node.durable);
                }
            }
            node.cached.clone_from(&node.durable);
        }
        disk.durable_names = names.clone();
        disk.names = names;
        disk.power_cut_at = None;
        disk.faults.clear();
        self.power.send_replace(true);
    }

    /// Paths of all files.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        self.disk.borrow().names.files.keys().cloned().collect()
    }

    /// Contents of a file.
    pub(crate) fn contents(&self, path: &Path) -> Vec<u8> {
        let disk = self.disk.borrow();
        disk.nodes[&disk.names.files[path]].cached.clone()
    }

    /// Puts other contents into a file, durably; makes it where it is absent.
    pub(crate) fn replace(&self, path: &Path, contents: Vec<u8>) {
        let disk = &mut *self.disk.borrow_mut();
        let node = match disk.names.files.get(path) {
            Some(node) => *node,
            None => disk.create(path),
        };
        disk.durable_names.files.insert(path.to_owned(), node);
        disk.nodes.insert(node, Node { durable: contents.clone(), cached: contents, ..Node::default() });
    }

    /// Removes a file, durably.
    pub(crate) fn delete(&self, path: &Path) {
        let disk = &mut *self.disk.borrow_mut();
        disk.names.files.remove(path);
        disk.durable_names.files.remove(path);
    }

    /// Counts the call, and does `effect` on the disk: always if the call works, else perhaps.
    async fn call<T>(&self, effect: impl FnOnce(&mut Disk) -> io::Result<T>) -> io::Result<T> {
        if !*self.power.borrow() {
            pending::<()>().await;
        }
        let fate = self.disk.borrow_mut().fate();
        match fate {
            Fate::Works => effect(&mut self.disk.borrow_mut()),
            Fate::Fails(error) => {
                let happens = self.disk.borrow_mut().random.bool();
                if happens {
                    let _unseen = effect(&mut self.disk.borrow_mut());
                }
                Err(error)
            }
            Fate::Cut => {
                let happens = self.disk.borrow_mut().random.bool();
                if happens {
                    let _unseen = effect(&mut self.disk.borrow_mut());
                }
                self.power.send_replace(false);
                pending().await
            }
        }
    }
}

impl Disk {
    fn fate(&mut self) -> Fate {
        let call = self.calls;
        self.calls += 1;
        if self.power_cut_at == Some(call) {
            return Fate::Cut;
        }
        match self.faults.iter().find(|(range, _)| range.contains(&call)) {
            Some((_, errno)) => Fate::Fails(io::Error::from_raw_os_error(*errno)),
            None => Fate::Works,
        }
    }

    fn change_name(&mut self, change: NameChange) {
        self.names.apply(&change);
        self.pending_names.push(change);
    }

    fn create(&mut self, path: &Path) -> u64 {
        let node = self.nodes.keys().last().map_or(1, |last| last + 1);
        self.nodes.insert(node, Node::default());
        self.change_name(NameChange::Create(path.to_owned(), node));
        node
    }

    fn change(&mut self, node: u64, change: Change) {
        // A removed file that is still open.
        let Some(node) = self.nodes.get_mut(&node) else { return };
        change.apply(&mut node.cached);
        node.dirty.push(change);
    }

    fn not_found() -> io::Error {
        io::Error::from_raw_os_error(libc::ENOENT)
    }
}

impl Storage for Model {
    type File = u64;

    fn name(&self) -> &'static str {
        "model"
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<Name>> {
        self.call(|disk| {
            let inside = disk.names.files.iter().filter(|(path, _)| path.parent() == Some(dir));
            Ok(inside
                .map(|(path, node)| Name {
                    name: path.file_name().unwrap().to_str().unwrap().to_owned(),
                    bytes: disk.nodes[node].cached.len() as u64,
                })
                .collect())
        })
        .await
    }

    async fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.call(|disk| {
            if !disk.names.dirs.contains(dir) {
                disk.change_name(NameChange::Dir(dir.to_owned()));
            }
            Ok(())
        })
        .await
    }

    async fn open(&self, path: &Path, access: Access, _direct: bool) -> io::Result<u64> {
        self.call(|disk| match (disk.names.files.get(path), access) {
            (Some(_), Access::Create) => Err(io::Error::from_raw_os_error(libc::EEXIST)),
            (Some(node), _) => Ok(*node),
            (None, Access::Create) => Ok(disk.create(path)),
            (None, _) => Err(Disk::not_found()),
        })
        .await
    }

    async fn close(&self, _file: u64) {}

    async fn allocate(&self, file: &u64, bytes: u64) -> io::Result<()> {
        self.call(|disk| {
            let node = disk.nodes.get(file).ok_or_else(Disk::not_found)?;
            if (node.cached.len() as u64) < bytes {
                disk.change(*file, Change::Length(bytes));
            }
            Ok(())
        })
        .await
    }

    async fn truncate(&self, file: &u64, bytes: u64) -> io::Result<()> {
        self.call(|disk| {
            disk.change(*file, Change::Length(bytes));
            Ok(())
        })
        .await
    }

    async fn read(&self, file: &u64, mut buffer: Buffer, offset: u64) -> (io::Result<()>, Buffer) {
        let wanted = buffer.len();
        let read = self
            .call(|disk| {
                let bytes = &disk.nodes.get(file).ok_or_else(Disk::not_found)?.cached;
                let from = bytes.len().min(usize::try_from(offset).unwrap());
                Ok(bytes[from..bytes.len().min(from + wanted)].to_vec())
            })
            .await;
        match read {
            Ok(bytes) => {
                buffer.set_len(0);
                buffer.extend(&bytes);
                (Ok(()), buffer)
            }
            Err(error) => (Err(error), buffer),
        }
    }

    async fn write(&self, file: &u64, buffer: Buffer, offset: u64) -> (io::Result<()>, Buffer) {
        let bytes = buffer.to_vec();
        let written = self
            .call(|disk| {
                disk.change(*file, Change::Data(offset, bytes));
                Ok(())
            })
            .await;
        (written, buffer)
    }

    async fn sync(&self, file: &u64) -> io::Result<()> {
        // The effect is not left to `call`: a sync that fails strands the pages instead.
        let answer = self.call(|_| Ok(())).await;
        let disk = &mut *self.disk.borrow_mut();
        if let Some(node) = disk.nodes.get_mut(file) {
            let dirty = node.dirty.drain(..);
            match &answer {
                Ok(()) if disk.syncs_lie => node.stranded.extend(dirty),
                Ok(()) => dirty.for_each(|change| change.apply(&mut node.durable)),
                Err(_) => node.stranded.extend(dirty),
            }
        }
        answer
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(|disk| {
            if !disk.names.files.contains_key(from) {
                return Err(Disk::not_found());
            }
            disk.change_name(NameChange::Rename(from.to_owned(), to.to_owned()));
            Ok(())
        })
        .await
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        self.call(|disk| {
            if !disk.names.files.contains_key(path) {
                return Err(Disk::not_found());
            }
            disk.change_name(NameChange::Remove(path.to_owned()));
            Ok(())
        })
        .await
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.call(|disk| {
            let (synced, pending) = disk.pending_names.drain(..).partition(|change| change.dir() == dir);
            disk.pending_names = pending;
            let synced: Vec<NameChange> = synced;
            for change in &synced {
                disk.durable_names.apply(change);
            }
            Ok(())
        })
        .await
    }
}
