//! A bad network: what goes between a client and a server is split, delayed, cut off and dropped at random.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

/// How bad it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    /// The longest piece that is handed on at once.
    pub(crate) piece: usize,
    /// Of a thousand pieces, how many wait for some milliseconds.
    pub(crate) delayed: u32,
    /// Of a hundred thousand pieces, how many are cut in the middle, and the connection with them.
    pub(crate) cut: u32,
    /// Of a hundred thousand pieces, after how many both ways just stand still until the client leaves.
    pub(crate) stuck: u32,
}

/// Listens on `front`, and hands on to `back`. Ends when dropped.
pub(crate) struct Chaos {
    task: JoinHandle<()>,
    accepted: Arc<AtomicU64>,
}

impl Chaos {
    pub(crate) fn start(front: &Path, back: &Path, weather: Weather, seed: u64) -> Self {
        let listener = UnixListener::bind(front).unwrap();
        let accepted = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(listen(listener, back.to_owned(), weather, seed, accepted.clone()));
        Self { task, accepted }
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Chaos {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(listener: UnixListener, back: PathBuf, weather: Weather, seed: u64, accepted: Arc<AtomicU64>) {
    let mut connections = tokio::task::JoinSet::new();
    for number in 0.. {
        let Ok((client, _)) = listener.accept().await else { return };
        accepted.fetch_add(1, Ordering::Relaxed);
        let Ok(server) = UnixStream::connect(&back).await else { continue };
        let random = |way| SmallRng::seed_from_u64(seed ^ (number << 8) ^ way);
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        let (up, down) = (random(1), random(2));
        connections.spawn(async move {
            // The first way that ends takes the other with it.
            tokio::select! {
                () = carry(from_client, to_server, Weather { stuck: 0, ..weather }, up) => {}
                () = carry(from_server, to_client, weather, down) => {}
            }
        });
    }
}

async fn carry<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    mut from: R,
    mut to: W,
    weather: Weather,
    mut random: SmallRng,
) {
    let mut buffer = vec![0; weather.piece];
    loop {
        let room = random.random_range(1..=weather.piece);
        let Ok(len @ 1..) = from.read(&mut buffer[..room]).await else { return };
        if random.random_range(0..1000) < weather.delayed {
            tokio::time::sleep(Duration::from_millis(random.random_range(1..20))).await;
        }
        let cut = random.random_range(0..100_000) < weather.cut;
        let len = if cut { random.random_range(0..len) } else { len };
        if to.write_all(&buffer[..len]).await.is_err() || cut {
            return;
        }
        if random.random_range(0..100_000) < weather.stuck {
            std::future::pending::<()>().await;
        }
    }
}
