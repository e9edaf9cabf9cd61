//! Network namespaces: make one, enter one.
//!
//! A namespace here is an open file, not a path: it lives as long as somebody holds it and leaves nothing in the
//! file system. Entering one changes the calling thread, so it is done only on threads that were made for it and
//! end in it; no thread of a caller's runtime ever changes namespace.

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

use crate::NetworkError;

/// A network namespace, held open. Clones share it.
#[derive(Debug, Clone)]
pub struct NetworkNamespace(Arc<OwnedFd>);

impl NetworkNamespace {
    /// Makes a new, empty namespace without a name. It ends when nobody holds it and no process is in it.
    ///
    /// # Errors
    /// `NotPermitted` without CAP_SYS_ADMIN.
    pub fn create() -> Result<Self, NetworkError> {
        on_own_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| failed("create", errno.into()))?;
            open("/proc/thread-self/ns/net")
        })?
    }

    /// The namespace that the calling thread is in.
    ///
    /// # Errors
    /// `Failed` if /proc cannot be read.
    pub fn current() -> Result<Self, NetworkError> {
        open("/proc/thread-self/ns/net")
    }

    /// The namespace that a running process is in.
    ///
    /// # Errors
    /// `Failed` if there is no such process, `NotPermitted` if it may not be looked at.
    pub fn of_process(pid: u32) -> Result<Self, NetworkError> {
        open(&format!("/proc/{pid}/ns/net"))
    }

    /// The namespace that a file stands for, such as those that container engines keep in /run/netns.
    ///
    /// # Errors
    /// `Failed` if there is no such file.
    pub fn at_path(path: &Path) -> Result<Self, NetworkError> {
        open(&path.to_string_lossy())
    }

    /// Runs a closure inside, on a thread of its own, and waits for it. A panic inside continues in the caller.
    ///
    /// # Errors
    /// `NotPermitted` without CAP_SYS_ADMIN.
    pub fn run<T, F>(&self, work: F) -> Result<T, NetworkError>
    where
        T: Send,
        F: FnOnce() -> T + Send,
    {
        on_own_thread(|| {
            self.enter()?;
            Ok(work())
        })?
    }

    /// Runs a future inside to its end, on a thread and a runtime of its own, and waits for it.
    /// Tasks that it leaves behind are dropped.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn block_on<T, M, F>(&self, make_future: M) -> Result<T, NetworkError>
    where
        T: Send,
        M: FnOnce() -> F + Send,
        F: Future<Output = T>,
    {
        self.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|source| failed("start a runtime in", source))?;
            Ok(runtime.block_on(make_future()))
        })?
    }

    /// Puts the calling thread inside, for good.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place, and only ever on a thread of its own"
    )]
    fn enter(&self) -> Result<(), NetworkError> {
        setns(self.as_fd(), CloneFlags::CLONE_NEWNET).map_err(|errno| failed("enter", errno.into()))
    }
}

impl AsFd for NetworkNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A tokio runtime all of whose threads are inside one namespace, for work that opens sockets from many tasks.
#[derive(Debug)]
pub struct NamespaceRuntime(Option<tokio::runtime::Runtime>);

impl NamespaceRuntime {
    /// Starts two worker threads inside the namespace.
    ///
    /// # Errors
    /// As [`NetworkNamespace::run`].
    pub fn new(namespace: &NetworkNamespace) -> Result<Self, NetworkError> {
        // Threads inherit the namespace of the thread that starts them, and a runtime starts its threads from
        // the one that builds it or from one another.
        let runtime = namespace.run(|| {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .map_err(|source| failed("start a runtime in", source))
        })??;
        Ok(Self(Some(runtime)))
    }

    /// Runs a future on the runtime's own threads and waits for it. A panic inside continues in the caller.
    ///
    /// # Panics
    /// If the future does.
    pub async fn run<F>(&self, future: F) -> F::Output
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let runtime = self.0.as_ref().expect("the runtime is only taken by drop");
        match runtime.spawn(future).await {
            Ok(output) => output,
            Err(error) => resume_unwind(error.into_panic()),
        }
    }
}

impl Drop for NamespaceRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Waiting for its threads would block the async caller, in which tokio panics.
            runtime.shutdown_background();
        }
    }
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, NetworkError> {
    thread::scope(|scope| {
        let handle = thread::Builder::new()
            .name("namespace".to_owned())
            .spawn_scoped(scope, work)
            .map_err(|source| failed("start a thread for", source))?;
        Ok(handle.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

fn open(path: &str) -> Result<NetworkNamespace, NetworkError> {
    let file = File::open(path)
        .map_err(|source| NetworkError::from_namespace("open network namespace", path, source))?;
    Ok(NetworkNamespace(Arc::new(file.into())))
}

fn failed(operation: &'static str, source: io::Error) -> NetworkError {
    NetworkError::from_namespace(operation, "network namespace", source)
}
