//! Listeners: TCP and Unix sockets, and the loop that serves HTTP/1 and HTTP/2 on each.

use crate::drain::Drain;
use crate::reply::Reply;
use anyhow::Context as _;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use std::convert::Infallible;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

/// A connection that has not sent a whole request head after this time is closed.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// A kept HTTP/1 connection is closed after this time without a request. Longer than a minute,
/// which is the period at which idle clients tend to ask again.
const IDLE: Duration = Duration::from_secs(75);
/// HTTP/2: peers that vanished are found by pings at this interval.
const PING: Duration = Duration::from_secs(30);
/// HTTP/2: as many as a proxy's worker has questions open at once, with room.
const MAX_STREAMS: u32 = 256;
/// Most bytes of a request head. The largest that is needed is a context question of some 500.
const MAX_HEAD_BYTES: u32 = 16 * 1024;
/// Pause after accept failed, most often for want of file descriptors: trying again at once would
/// only burn a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound socket.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket, whose file is removed with it.
    Unix(SocketFile),
}

impl Listener {
    /// Binds a TCP address; port 0 takes a free one.
    ///
    /// # Errors
    /// Names `key`, the cause and the way out.
    pub async fn tcp(key: &str, address: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await.with_context(|| {
            format!(
                "{key}: cannot listen on {address}; choose an address that is free, or null to turn it off"
            )
        })?;
        Ok(Self::Tcp(listener))
    }

    /// Binds a Unix socket.
    ///
    /// # Errors
    /// As [`Listener::tcp`].
    pub fn unix(key: &str, path: &Path, mode: u32) -> anyhow::Result<Self> {
        SocketFile::bind(path, mode).map(Self::Unix).with_context(|| {
            format!(
                "{key}: cannot listen on {}; choose a path that is free, or null to turn it off",
                path.display()
            )
        })
    }

    /// The TCP address that was bound.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Answers are small and asked for one at a time: waiting for more helps nobody.
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Self::Unix(file) => Ok(Box::new(file.listener.accept().await?.0)),
        }
    }
}

type Stream = Box<dyn Socket>;

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// A Unix socket and its file.
#[derive(Debug)]
pub struct SocketFile {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file, by which it is known again.
    identity: (u64, u64),
}

impl SocketFile {
    fn bind(path: &Path, mode: u32) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        remove_left_behind(path)?;
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self { listener, path: path.to_owned(), identity: (metadata.dev(), metadata.ino()) })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another agent may have taken the path over meanwhile.
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if ours {
            // Nobody is left to tell.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes the socket of an agent that was killed. Only a socket, and only if nobody answers.
fn remove_left_behind(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file exists and is not a socket"));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process answers on it")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

/// How many connections there may be, and where they are counted.
#[derive(Clone, Debug)]
pub struct Connections {
    /// Most at once.
    pub limit: usize,
    /// Those that are open.
    pub open: Gauge,
    /// Those that were closed at once.
    pub refused: Counter,
}

/// Answers requests.
pub trait Serve: Send + Sync + 'static {
    /// Answers one request.
    fn serve(self: Arc<Self>, request: Request<Incoming>) -> impl Future<Output = Response<Reply>> + Send;
}

/// Serves until the drain is signaled; then no more connections are taken, and those that are
/// open end after the request that they are in. `drain` is held until the last one did.
pub async fn serve<S: Serve>(listener: Listener, server: Arc<S>, connections: Connections, mut drain: Drain) {
    let permits = Arc::new(Semaphore::new(connections.limit));
    let builder = Arc::new(builder());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.signaled() => return,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                warn!(%error, "cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Closing at once tells a proxy to go on without us; letting it wait would not.
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            connections.refused.inc();
            continue;
        };
        let open = Open::new(&connections.open);
        let (server, builder, drain) = (Arc::clone(&server), Arc::clone(&builder), drain.clone());
        tokio::spawn(async move {
            connection(stream, server, &builder, drain).await;
            drop((open, permit));
        });
    }
}

/// Counts a connection while it lives, also if its task panics.
struct Open(Gauge);

impl Open {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE).max_buf_size(MAX_HEAD_BYTES as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD_BYTES)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    builder
}

async fn connection<S: Serve>(
    stream: Stream,
    server: Arc<S>,
    builder: &auto::Builder<TokioExecutor>,
    mut drain: Drain,
) {
    let asked = AtomicBool::new(false);
    let asked = Arc::new(asked);
    let service = {
        let asked = Arc::clone(&asked);
        service_fn(move |request| {
            asked.store(true, Ordering::Relaxed);
            let server = Arc::clone(&server);
            async move { Ok::<_, Infallible>(server.serve(request).await) }
        })
    };
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let mut first_request = std::pin::pin!(tokio::time::sleep(FIRST_REQUEST));
    let (mut waiting, mut draining) = (true, false);
    loop {
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    debug!(error, "a connection ended early");
                }
                return;
            }
            () = first_request.as_mut(), if waiting => {
                waiting = false;
                if !asked.load(Ordering::Relaxed) {
                    return;
                }
            }
            () = drain.signaled(), if !draining => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_that_was_left_behind_is_replaced_and_removed_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/agent.sock");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // std's listener leaves its file, as a killed process does.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let listener = Listener::unix("receiver.socket", &path, 0o666).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);

        let error = Listener::unix("receiver.socket", &path, 0o666).unwrap_err();
        assert!(format!("{error:#}").contains("another process answers"), "{error:#}");
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        fs::write(&path, "precious").unwrap();
        let error = Listener::unix("receiver.socket", &path, 0o666).unwrap_err();
        assert!(format!("{error:#}").starts_with("receiver.socket: cannot listen on"), "{error:#}");
        assert!(format!("{error:#}").contains("not a socket"), "{error:#}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }
}
