//! Copies an export to a raw file, holes as holes: `copy URI FILE [CONNECTIONS IN_FLIGHT REQUEST_KIB]`. Says how fast it went.

use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use nbd::{Client, Options, Uri, state};

/// What is asked about at once: a bounded part of a map that may be long.
const SPAN: u64 = 1 << 30;

async fn copy(uri: &Uri, options: &Options, file: &File) -> Result<u64, Box<dyn Error>> {
    let client = Client::connect(uri, options).await?;
    file.set_len(client.size())?;
    let (mut at, mut read) = (0, 0);
    while at < client.size() {
        let end = client.size().min(at + SPAN);
        let runs = match client.export().has_context("base:allocation") {
            true => client.block_status("base:allocation", at..end).await?,
            false => vec![nbd::Status { start: at, len: end - at, flags: 0 }],
        };
        for run in runs.iter().filter(|run| run.flags & state::ZERO == 0) {
            let mut stream = client.stream(run.start..run.end());
            let mut place = run.start;
            while let Some(bytes) = stream.next().await? {
                file.write_all_at(&bytes, place)?;
                place += bytes.len() as u64;
            }
            read += run.len;
        }
        at = end;
    }
    client.close().await;
    Ok(read)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [uri, file, numbers @ ..] = &arguments[..] else {
        return Err("usage: copy URI FILE [CONNECTIONS IN_FLIGHT REQUEST_KIB]".into());
    };
    let mut options = Options::default();
    if let [connections, in_flight, request] = numbers {
        options.connections = connections.parse()?;
        options.in_flight = in_flight.parse()?;
        options.request = request.parse::<u32>()? << 10;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (uri, file) = (uri.parse()?, File::create(file)?);
    let start = Instant::now();
    let read = runtime.block_on(copy(&uri, &options, &file))?;
    let seconds = start.elapsed().as_secs_f64();
    println!("{read} bytes in {seconds:.3} s, {:.0} MB/s", read as f64 / seconds / 1e6);
    Ok(())
}
