//! Where clients come in.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::sockopt::set_socket_keepalive;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::Server;

/// Clients that wait to be taken.
const BACKLOG: i32 = 128;
/// So long is waited when no client can be taken, for want of open files as a rule.
const PAUSE: Duration = Duration::from_millis(200);

/// A place where clients come in. Dropping it removes the file of a unix socket.
pub struct Listener {
    inner: Inner,
    /// Removed when the listener is dropped.
    _file: Option<SocketFile>,
}

enum Inner {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// The file of a unix socket of ours.
struct SocketFile {
    path: PathBuf,
    /// Device and number: what another server put there since is not removed.
    identity: Option<(u64, u64)>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            let _ = std::fs::remove_file(&self.path); // nobody is left to tell
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    metadata.file_type().is_socket().then(|| (metadata.dev(), metadata.ino()))
}

impl Listener {
    /// A unix socket that only this user can connect to. A socket file that nobody answers on is replaced.
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrInUse`] if somebody answers there; [`io::ErrorKind::AlreadyExists`] if the file is no socket; and what the
    /// operating system says, for example to a path of more than 107 bytes.
    pub async fn unix(path: &Path) -> io::Result<Self> {
        let address = SocketAddrUnix::new(path)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        if let Err(error) = bind(&socket, &address) {
            if error != rustix::io::Errno::ADDRINUSE {
                return Err(error.into());
            }
            remove_dead(path).await?;
            bind(&socket, &address)?;
        }
        let file = SocketFile { path: path.to_owned(), identity: identity(path) };
        // Nobody can connect before the socket listens, and then the mode is set.
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        listen(&socket, BACKLOG)?;
        let listener = UnixListener::from_std(socket.into())?;
        Ok(Self { inner: Inner::Unix(listener), _file: Some(file) })
    }

    /// A TCP port; 0 for any that is free.
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn tcp(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { inner: Inner::Tcp(TcpListener::bind(address).await?), _file: None })
    }

    /// The address of a TCP port.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.inner {
            Inner::Tcp(listener) => listener.local_addr().ok(),
            Inner::Unix(_) => None,
        }
    }

    async fn accept(&self) -> io::Result<Incoming> {
        match &self.inner {
            Inner::Unix(listener) => Ok(Incoming::Unix(listener.accept().await?.0)),
            Inner::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                set_socket_keepalive(&stream, true)?; // a client whose machine died is noticed some day
                Ok(Incoming::Tcp(stream))
            }
        }
    }
}

/// Makes room for a socket at `path`, if nobody answers there.
async fn remove_dead(path: &Path) -> io::Result<()> {
    let metadata = std::fs::symlink_metadata(path)?;
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file exists, and is no socket"));
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        _ => Err(io::Error::new(io::ErrorKind::AddrInUse, "somebody answers on the socket")),
    }
}

enum Incoming {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Server {
    /// Takes clients until [`Server::stop`].
    pub async fn serve(self, listener: Listener) {
        let mut stop = self.shared.stop.subscribe();
        loop {
            let incoming = tokio::select! {
                incoming = listener.accept() => incoming,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            let server = self.clone();
            match incoming {
                Ok(Incoming::Unix(stream)) => drop(tokio::spawn(async move { server.serve_stream(stream).await })),
                Ok(Incoming::Tcp(stream)) => drop(tokio::spawn(async move { server.serve_stream(stream).await })),
                Err(error) => {
                    tracing::warn!("a client could not be taken: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Takes clients on a unix socket until [`Server::stop`].
    ///
    /// # Errors
    /// Those of [`Listener::unix`].
    pub async fn serve_unix(&self, path: &Path) -> io::Result<()> {
        let listener = Listener::unix(path).await?;
        self.clone().serve(listener).await;
        Ok(())
    }

    /// Takes clients on a TCP port until [`Server::stop`].
    ///
    /// # Errors
    /// Those of [`Listener::tcp`].
    pub async fn serve_tcp(&self, address: SocketAddr) -> io::Result<()> {
        let listener = Listener::tcp(address).await?;
        self.clone().serve(listener).await;
        Ok(())
    }
}
