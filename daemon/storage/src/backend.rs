//! The backends as one type, so that what stands on them is compiled once.

use std::{
    fs,
    future::Future,
    io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    pin::{Pin, pin},
};

use tokio::task::LocalSet;

#[cfg(not(target_env = "musl"))]
use crate::uring;
use crate::{Access, Buffer, Name, Storage, posix, threads};

/// How data is read, written and synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// `io_uring`. Below [`block_on`] only.
    #[cfg(not(target_env = "musl"))]
    Uring,
    /// Plain blocking system calls on the calling thread: every future is ready when first polled.
    Threads,
}

/// Which backend the operator asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoPreference {
    /// `io_uring` where the kernel grants it, else threads, with the reason in [`Choice::reason`].
    #[default]
    Auto,
    /// `io_uring`, or an error.
    Uring,
    /// Plain `pread`/`pwrite`/`fdatasync` on the thread that asks.
    Threads,
}

/// What [`choose`] came to.
#[derive(Debug)]
pub struct Choice {
    /// The backend.
    pub backend: Backend,
    /// Why it is not the preferred one.
    pub reason: Option<io::Error>,
}

/// The backend that is preferred, where the kernel grants it.
///
/// # Errors
///
/// Why there is no `io_uring`, where nothing else will do.
pub fn choose(preference: IoPreference) -> io::Result<Choice> {
    let ring = match preference {
        IoPreference::Threads => return Ok(Choice { backend: Backend::Threads, reason: None }),
        IoPreference::Auto | IoPreference::Uring => ring(),
    };
    match (ring, preference) {
        (Ok(backend), _) => Ok(Choice { backend, reason: None }),
        (Err(reason), IoPreference::Auto) => Ok(Choice { backend: Backend::Threads, reason: Some(reason) }),
        (Err(reason), _) => Err(reason),
    }
}

/// `io_uring`, where the kernel grants it, or why not.
#[cfg(not(target_env = "musl"))]
fn ring() -> io::Result<Backend> {
    uring::probe().map(|()| Backend::Uring)
}

/// Why there is no `io_uring`.
#[cfg(target_env = "musl")]
fn ring() -> io::Result<Backend> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "left out of static builds (musl)"))
}

/// Runs a future to its end on this thread, which has tokio's clock, sockets and local tasks then, and the ring of
/// [`Backend::Uring`]. Local tasks that are left are dropped.
///
/// # Errors
///
/// The system refuses what the runtime is made of; the future was not polled.
///
/// # Panics
///
/// On a thread that runs futures already.
pub fn block_on<F: Future>(backend: Backend, future: F) -> io::Result<F::Output> {
    let mut output = None;
    run(backend, pin!(async { output = Some(future.await) }))?;
    Ok(output.expect("it ran to its end"))
}

/// Compiled once, whatever the future.
fn run(backend: Backend, future: Pin<&mut dyn Future<Output = ()>>) -> io::Result<()> {
    match backend {
        #[cfg(not(target_env = "musl"))]
        Backend::Uring => uring::block_on(future),
        Backend::Threads => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            LocalSet::new().block_on(&runtime, future);
            Ok(())
        }
    }
}

/// An open file of a [`Backend`]. What is dropped instead of closed is closed by close(2), once no operation on it is
/// under way.
#[derive(Debug)]
pub enum File {
    /// Of [`Backend::Uring`].
    #[cfg(not(target_env = "musl"))]
    Uring(tokio_uring::fs::File),
    /// Of [`Backend::Threads`].
    Threads(fs::File),
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            #[cfg(not(target_env = "musl"))]
            Self::Uring(file) => uring::borrow(file),
            Self::Threads(file) => file.as_fd(),
        }
    }
}

impl Backend {
    /// Takes over a file that was opened elsewhere.
    #[must_use]
    pub fn adopt(self, file: fs::File) -> File {
        match self {
            #[cfg(not(target_env = "musl"))]
            Self::Uring => File::Uring(tokio_uring::fs::File::from_std(file)),
            Self::Threads => File::Threads(file),
        }
    }
}

impl Storage for Backend {
    type File = File;

    fn name(&self) -> &'static str {
        match self {
            #[cfg(not(target_env = "musl"))]
            Self::Uring => "uring",
            Self::Threads => "threads",
        }
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<Name>> {
        posix::list(dir)
    }

    async fn create_dir(&self, dir: &Path) -> io::Result<()> {
        posix::create_dir(dir)
    }

    async fn open(&self, path: &Path, access: Access, direct: bool) -> io::Result<File> {
        posix::open(path, access, direct).map(|file| self.adopt(file))
    }

    async fn close(&self, file: File) {
        match file {
            #[cfg(not(target_env = "musl"))]
            File::Uring(file) => uring::close(file).await,
            File::Threads(file) => drop(file),
        }
    }

    async fn allocate(&self, file: &File, bytes: u64) -> io::Result<()> {
        posix::allocate(file, bytes)
    }

    async fn truncate(&self, file: &File, bytes: u64) -> io::Result<()> {
        posix::truncate(file, bytes)
    }

    async fn read(&self, file: &File, buffer: Buffer, offset: u64) -> (io::Result<()>, Buffer) {
        match file {
            #[cfg(not(target_env = "musl"))]
            File::Uring(file) => uring::read(file, buffer, offset).await,
            File::Threads(file) => threads::read(file, buffer, offset),
        }
    }

    async fn write(&self, file: &File, buffer: Buffer, offset: u64) -> (io::Result<()>, Buffer) {
        match file {
            #[cfg(not(target_env = "musl"))]
            File::Uring(file) => uring::write(file, buffer, offset).await,
            File::Threads(file) => threads::write(file, buffer, offset),
        }
    }

    async fn sync(&self, file: &File) -> io::Result<()> {
        match file {
            #[cfg(not(target_env = "musl"))]
            File::Uring(file) => file.sync_data().await,
            File::Threads(file) => file.sync_data(),
        }
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        posix::sync_dir(dir)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpStream,
        os::fd::OwnedFd,
        thread,
        time::Duration,
    };

    use tokio::net::TcpListener;

    use super::*;
    use crate::{BLOCK, Pool};

    /// Those that this machine has.
    fn backends() -> impl Iterator<Item = Backend> {
        [IoPreference::Uring, IoPreference::Threads].into_iter().filter_map(|preference| match choose(preference) {
            Ok(choice) => Some(choice.backend),
            Err(reason) => {
                eprintln!("skipped: io_uring is not available here ({reason})");
                None
            }
        })
    }

    fn filled(pool: &Pool, bytes: &[u8]) -> Buffer {
        let mut buffer = pool.take(bytes.len());
        buffer.extend(bytes);
        buffer
    }

    fn empty(pool: &Pool, length: usize) -> Buffer {
        let mut buffer = pool.take(length);
        buffer.set_len(length);
        buffer
    }

    #[test]
    fn threads_are_chosen_where_they_are_preferred() {
        let choice = choose(IoPreference::Threads).unwrap();
        assert_eq!(choice.backend, Backend::Threads);
        assert!(choice.reason.is_none());
    }

    #[test]
    fn there_is_always_a_backend_and_a_reason_if_it_is_not_the_ring() {
        let choice = choose(IoPreference::Auto).unwrap();
        assert_eq!(choice.reason.is_some(), choice.backend == Backend::Threads);
        assert_eq!(choose(IoPreference::Uring).is_ok(), choice.reason.is_none());
    }

    #[test]
    fn what_was_written_is_read_back_to_the_end_of_the_file() {
        for backend in backends() {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("file");
            let pool = Pool::keeping(1, BLOCK);
            let bytes: Vec<u8> = (0..=250).cycle().take(3 * BLOCK + 100).collect();
            let read = block_on(backend, async {
                let file = backend.open(&path, Access::Create, false).await.unwrap();
                backend.write(&file, filled(&pool, &bytes), 0).await.0.unwrap();
                backend.sync(&file).await.unwrap();
                let (answer, buffer) = backend.read(&file, empty(&pool, 4 * BLOCK), BLOCK as u64).await;
                answer.unwrap();
                backend.close(file).await;
                buffer.to_vec()
            });
            assert!(read.unwrap() == bytes[BLOCK..], "{backend:?}");
        }
    }

    #[test]
    fn a_file_that_was_opened_elsewhere_is_taken_over() {
        for backend in backends() {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(b"hello").unwrap();
            let pool = Pool::keeping(1, BLOCK);
            let read = block_on(backend, async {
                let file = backend.adopt(file);
                let (answer, buffer) = backend.read(&file, empty(&pool, BLOCK), 1).await;
                answer.unwrap();
                backend.close(file).await;
                buffer.to_vec()
            });
            assert_eq!(read.unwrap(), b"ello", "{backend:?}");
        }
    }

    #[test]
    fn a_file_that_is_dropped_is_closed() {
        for backend in backends() {
            let (reader, mut writer) = io::pipe().unwrap();
            block_on(backend, async { drop(backend.adopt(OwnedFd::from(reader).into())) }).unwrap();
            let written = writer.write(b"hello").map_err(|error| error.kind());
            assert_eq!(written, Err(io::ErrorKind::BrokenPipe), "{backend:?}");
        }
    }

    #[test]
    fn a_thread_with_a_backend_has_a_clock_sockets_and_local_tasks() {
        for backend in backends() {
            let received = block_on(backend, async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let address = listener.local_addr().unwrap();
                let peer = thread::spawn(move || {
                    let mut text = String::new();
                    TcpStream::connect(address).unwrap().read_to_string(&mut text).unwrap();
                    text
                });
                let local = tokio::task::spawn_local(async move {
                    let (connection, _) = listener.accept().await.unwrap();
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    connection.writable().await.unwrap();
                    connection.try_write(b"hello").unwrap()
                });
                local.await.unwrap();
                peer.join().unwrap()
            });
            assert_eq!(received.unwrap(), "hello", "{backend:?}");
        }
    }
}
