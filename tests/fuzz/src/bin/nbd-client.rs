//! What an NBD server says, in messages of a 16-bit length and bytes, each said when the client waits: opening, reading, streaming,
//! asking for status and writing end by the answers or by a timeout, within 24 MiB; what is answered has the length that was
//! asked for, and status covers its span without a gap. The first byte of the input says what the client wants.
#![no_main]

use std::time::Duration;

use fuzz::{Input, limited};
use libfuzzer_sys::fuzz_target;
use nbd::{Client, Options, Retry};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// Bytes of a request of a stream.
const REQUEST: u32 = 512;
/// Bytes that a stream is asked for.
const STREAM: u64 = 4096;
/// The context that is asked for.
const CONTEXT: &str = "base:allocation";

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let wish = input.number(1);
    let mut messages = Vec::new();
    loop {
        let len = input.number(2) as usize;
        match input.bytes(len) {
            [] => break,
            message => messages.push(message.to_vec()),
        }
    }
    limited(24 << 20, || {
        // Where nothing can go on but time, time goes on at once.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime of one thread").block_on(async {
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            let server = tokio::spawn(serve(messages, theirs));
            let limit = Duration::from_secs(24 * 60 * 60);
            tokio::time::timeout(limit, talk(wish, ours)).await.expect("the client waits for ever");
            server.abort();
        });
    });
});

async fn serve(messages: Vec<Vec<u8>>, stream: DuplexStream) {
    let (mut hears, mut says) = tokio::io::split(stream);
    let says = async {
        for message in messages {
            tokio::time::sleep(Duration::from_millis(1)).await; // until the client waits
            if says.write_all(&message).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        let _ = says.shutdown().await;
    };
    let hears = async {
        let mut heard = vec![0; 4096];
        while let Ok(1..) = hears.read(&mut heard).await {}
    };
    tokio::join!(says, hears);
}

async fn talk(wish: u64, stream: DuplexStream) {
    let contexts = if wish & 1 == 0 { vec![CONTEXT.to_owned()] } else { Vec::new() };
    let options = Options {
        in_flight: 4,
        request: REQUEST,
        contexts,
        timeout: Duration::from_secs(1),
        retry: Retry::NEVER,
        unfragmented: wish & 2 != 0,
        ..Options::default()
    };
    let Ok(client) = Client::over(stream, "", &options).await else { return };
    let size = client.size();
    if wish & 4 != 0 {
        let mut stream = client.stream(0..size.min(STREAM));
        let mut whole = 0;
        while let Ok(Some(bytes)) = stream.next().await {
            whole += bytes.len() as u64;
        }
        assert!(whole <= size.min(STREAM));
    }
    let (first, second) = tokio::join!(client.read(0, 512), client.read(100, 8));
    for (read, len) in [(first, 512), (second, 8)] {
        match read {
            Ok(bytes) => assert_eq!(bytes.len(), len),
            Err(error) => assert!(!error.line().is_empty() && !error.line().contains('\n')),
        }
    }
    let span = size.min(7)..size;
    if let Ok(runs) = client.block_status(CONTEXT, span.clone()).await {
        let mut at = span.start;
        for run in runs {
            assert!(run.start == at && run.len > 0);
            at = run.end();
        }
        assert_eq!(at, span.end);
    }
    let _ = client.write(0, bytes::Bytes::from_static(&[7; 512]), wish & 8 != 0).await;
    let _ = client.write_zeroes(0, size.min(1 << 20), false).await;
    let _ = client.trim(0, size.min(512)).await;
    let _ = client.flush().await;
    client.close().await;
}
