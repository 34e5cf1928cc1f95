//! Servers that say what no server should: each is told from a good one, in time, and never believed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what only tests call may fail as tests do")]

mod common;

use std::time::Duration;

use common::script::{self, *};
use nbd::{Error, Family};
use script::Framing::{Extended, Simple, Structured};
use script::Step::{Drip, Forever, Hang, Hear, Say};

const DATA: u16 = 1;
const HOLE: u16 = 2;
const STATUS: u16 = 5;
const STATUS_EXT: u16 = 6;
const ERROR: u16 = 0x8001;

/// The error that a client ends with when the server plays `steps` in the handshake.
async fn refused(steps: Vec<Step>) -> Error {
    connect(steps).await.expect_err("the handshake must fail")
}

fn check(error: &Error, family: Family, words: &str) {
    assert!(error.family() == family && error.to_string().contains(words), "{:?}: {error}", error.family());
}

#[tokio::test(start_paused = true)]
async fn what_is_no_fixed_newstyle_server_is_named() {
    let oldstyle = [&b"NBDMAGIC"[..], &0x0000_4202_8186_1253_u64.to_be_bytes(), &[0; 140]].concat();
    for (said, family, words) in [
        (b"SSH-2.0-OpenSSH_9.2p1\r\n".to_vec(), Family::Protocol, "no NBD server"),
        (oldstyle, Family::Unsupported, "oldstyle"),
        (b"NBDMAGICNBDMAGIC\0\x03".to_vec(), Family::Protocol, "not IHAVEOPT"),
        (b"NBDMAGICIHAVEOPT\0\x02".to_vec(), Family::Unsupported, "fixed newstyle"),
        (b"NBDMA".to_vec(), Family::Io, "ended the connection"),
        (Vec::new(), Family::Io, "ended the connection"),
    ] {
        check(&refused(vec![Say(said)]).await, family, words);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_hangs_or_drips_anywhere_in_the_handshake_is_given_up() {
    let whole = handshake(Structured, SIZE, FLAGS);
    for cut in 0..whole.len() {
        for end in [Hang, Drip(Duration::from_secs(1), 0x41)] {
            let mut steps = whole[..cut].to_vec();
            steps.push(end);
            let error = refused(steps).await;
            assert!(matches!(error.family(), Family::Timeout | Family::Protocol), "after {cut} steps: {error}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn option_replies_that_break_the_protocol_are_refused() {
    let after = |steps: Vec<Step>, said: Vec<u8>| [steps, vec![Say(said), Hang]].concat();
    let start = || vec![Say(greeting()), Hear(4), Hear(16)];
    let go = || [framed(Simple), vec![Hear(GO_OPTION)]].concat();
    let context = || [framed(Structured), vec![Hear(CONTEXT_OPTION)]].concat();
    let long = [&7_u32.to_be_bytes()[..], &[b'x'; 5000]].concat();
    let info = |data: &[u8]| [reply(GO, INFO, data), reply(GO, ACK, &[])].concat();
    let sizes = |minimum: u32, preferred: u32, maximum: u32| {
        [&[0, 3][..], &minimum.to_be_bytes(), &preferred.to_be_bytes(), &maximum.to_be_bytes()].concat()
    };
    for (steps, words) in [
        (after(start(), [&[0; 8][..], &reply(EXTENDED, ACK, &[])[8..]].concat()), "begins with 0x0"),
        (after(start(), reply(STRUCTURED, ACK, &[])), "a reply to option 8 where one to option 11 is due"),
        (after(start(), reply(EXTENDED, ACK, b"x")), "an ACK to option 11 with 1 bytes"),
        (after(start(), reply(EXTENDED, INFO, &[])), "a reply of type 3 to option 11"),
        (after(start(), [&reply(EXTENDED, UNSUP, &[])[..16], &[0xff; 4]].concat()), "a reply of 4294967295 bytes"),
        (after(go(), reply(GO, ACK, &[])), "without telling its size"),
        (after(go(), info(&[0])), "cut off"),
        (after(go(), info(&[0, 0, 1])), "NBD_INFO_EXPORT has 1 bytes, not 10"),
        (after(go(), info(&info_export(u64::MAX, 1))), "more than a disk can have"),
        (after(go(), info(&sizes(0, 4096, 65536))), "the block sizes are 0, 4096"),
        (after(go(), info(&sizes(3, 4096, 65536))), "the block sizes are 3, 4096"),
        (after(go(), info(&sizes(1 << 20, 1 << 20, 1 << 25))), "the block sizes are 1048576"),
        (after(go(), info(&sizes(4096, 512, 65536))), "the block sizes are 4096, 512"),
        (after(go(), info(&sizes(4096, 4096, 100))), "at most 100"),
        (after(go(), info(&[&[0, 1][..], &[b'n'; 4097]].concat())), "at most 4096 are allowed"),
        (after(go(), info(&[0, 2, 0xff, 0xfe])), "not UTF-8"),
        (after(context(), reply(SET_META_CONTEXT, META_CONTEXT, &[1, 2])), "a context without its number"),
        (after(context(), reply(SET_META_CONTEXT, META_CONTEXT, &long)), "has 5000 bytes"),
    ] {
        check(&refused(steps).await, Family::Protocol, words);
    }
}

#[tokio::test(start_paused = true)]
async fn two_contexts_of_one_number_are_refused() {
    let context = |name: &str| reply(SET_META_CONTEXT, META_CONTEXT, &[&[0, 0, 0, 1], name.as_bytes()].concat());
    let said = [context("base:allocation"), context("qemu:x"), reply(SET_META_CONTEXT, ACK, &[])].concat();
    let steps = [framed(Structured), vec![Hear(CONTEXT_OPTION), Say(said), Hang]].concat();
    check(&refused(steps).await, Family::Protocol, "two contexts have the number 1");
}

#[tokio::test(start_paused = true)]
async fn endless_replies_to_an_option_are_refused() {
    let context = reply(SET_META_CONTEXT, META_CONTEXT, &[&[0, 0, 0, 1][..], b"x"].concat());
    for (steps, forever) in [
        ([framed(Structured), vec![Hear(CONTEXT_OPTION)]].concat(), context),
        ([framed(Simple), vec![Hear(GO_OPTION)]].concat(), reply(GO, INFO, &info_export(1, 1))),
    ] {
        let error = refused([steps, vec![Forever(forever)]].concat()).await;
        check(&error, Family::Protocol, "more than 256 replies");
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_of_the_server_keep_their_meaning_and_words() {
    let go = |kind: u32| [framed(Simple), vec![Hear(GO_OPTION), Say(reply(GO, kind, b"its words")), Hang]].concat();
    for (kind, family) in [
        (0x8000_0002, Family::Refused),
        (0x8000_0005, Family::Tls),
        (0x8000_0006, Family::NotFound),
        (0x8000_0007, Family::Io),
        (0x8fff_ffff, Family::Refused),
    ] {
        check(&refused(go(kind)).await, family, "its words");
    }
}

/// The error of a read of 16 bytes at 256 to which the server says `said`.
async fn read_error(framing: Framing, said: Vec<u8>) -> Error {
    let client = opened(framing, vec![request(framing), Say(said), Hang]).await;
    client.read(256, 16).await.expect_err("the read must fail")
}

#[tokio::test(start_paused = true)]
async fn replies_to_a_read_that_break_the_protocol_end_the_connection() {
    for framing in [Structured, Extended] {
        let one = |done, kind, payload: &[u8]| chunk(framing, 0, (done, kind), payload);
        let bytes = |at, len| one(true, DATA, &data(at, &vec![1; len]));
        let hole = |at: u64, len: u32| one(true, HOLE, &[&at.to_be_bytes()[..], &len.to_be_bytes()].concat());
        let two = |first: (u64, usize), second| [one(false, DATA, &data(first.0, &vec![1; first.1])), second].concat();
        for (said, words) in [
            (simple(0, 0, &[1; 16]), "begin"),
            (vec![0; 64], "begins with 0x00000000"),
            (chunk(framing, 1, (true, DATA), &data(256, &[1; 16])), "unknown cookie 0x1"),
            (bytes(256, 17), "a chunk of 17 bytes"),
            (bytes(255, 16), "a chunk of 16 bytes at 0xff"),
            (bytes(u64::MAX, 16), "a chunk of 16 bytes"),
            (bytes(256, 15), "0x10f are missing"),
            (two((256, 8), bytes(263, 9)), "overlaps"),
            (two((256, 16), bytes(256, 16)), "overlaps"),
            (two((256, 4), bytes(264, 8)), "0x104 are missing"),
            (hole(256, 17), "a chunk of 17 bytes"),
            (hole(256, 0), "a chunk of 0 bytes"),
            (hole(256, u32::MAX), "a chunk of 4294967295 bytes"),
            (one(true, DATA, &[0; 8]), "type 0x1 with 8 bytes"),
            (one(true, HOLE, &[0; 13]), "type 0x2 with 13 bytes"),
            (one(false, 0, &[]), "type 0x0 with 0 bytes"),
            (one(true, 0, &[]), "0x100 are missing"),
            (one(true, 0, &[1]), "type 0x0 with 1 bytes"),
            (one(true, STATUS, &[0; 12]), "in reply to a read"),
            (one(true, 77, &[]), "type 0x4d"),
            (one(true, ERROR, &[0; 5]), "type 0x8001 with 5 bytes"),
            (one(true, ERROR, &[0; 6]), "with number 0"),
            (one(true, ERROR, &[0, 0, 0, 5, 0, 1]), "a message of 1 bytes"),
        ] {
            let error = read_error(framing, said).await;
            if words == "begin" {
                assert!(matches!(error.family(), Family::Protocol), "{error}");
            } else {
                check(&error, Family::Protocol, words);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn lengths_that_no_memory_has_are_refused_before_anything_is_read() {
    let mut huge = chunk(Extended, 0, (true, DATA), &data(256, &[1; 16]));
    huge[24..32].copy_from_slice(&u64::MAX.to_be_bytes());
    check(&read_error(Extended, huge).await, Family::Protocol, "a chunk of 18446744073709551607 bytes");
    let mut huge = chunk(Structured, 0, (true, ERROR), &[0; 6]);
    huge[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
    check(&read_error(Structured, huge).await, Family::Protocol, "type 0x8001 with 4294967295 bytes");
}

#[tokio::test(start_paused = true)]
async fn an_error_is_told_with_its_words_and_the_connection_goes_on() {
    let told =
        |kind: u16, tail: &[u8]| chunk(Structured, 0, (true, kind), &[&[0, 0, 0, 5, 0, 4][..], b"ouch", tail].concat());
    for said in [told(ERROR, &[]), told(0x8002, &256_u64.to_be_bytes()), told(0x8077, b"what nobody knows")] {
        let good = chunk(Structured, 1, (true, DATA), &data(0, &[7; 16]));
        let steps = vec![request(Structured), Say(said), request(Structured), Say(good), Hang];
        let client = opened(Structured, steps).await;
        check(&client.read(256, 16).await.unwrap_err(), Family::Io, "input/output error (error 5): ouch");
        assert_eq!(client.read(0, 16).await.unwrap(), [7; 16][..]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_simple_error_without_data_is_told_and_the_connection_goes_on() {
    let steps = vec![request(Simple), Say(simple(1, 0, &[])), request(Simple), Say(simple(0, 1, &[7; 16])), Hang];
    let client = opened(Simple, steps).await;
    check(&client.read(0, 16).await.unwrap_err(), Family::Refused, "not permitted");
    assert_eq!(client.read(0, 16).await.unwrap(), [7; 16][..]);
}

#[tokio::test(start_paused = true)]
async fn a_protocol_error_fails_every_request_in_flight() {
    let steps = vec![request(Structured), request(Structured), Say(vec![0; 20]), Hang];
    let client = opened(Structured, steps).await;
    let (first, second) = tokio::join!(client.read(0, 16), client.read(16, 16));
    check(&first.unwrap_err(), Family::Protocol, "begins with");
    check(&second.unwrap_err(), Family::Protocol, "begins with");
}

#[tokio::test(start_paused = true)]
async fn what_comes_unasked_ends_the_connection() {
    let steps = vec![Say(chunk(Structured, 0, (true, DATA), &data(0, &[1; 16]))), Hang];
    let client = opened(Structured, steps).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    check(&client.read(0, 16).await.unwrap_err(), Family::Protocol, "unknown cookie");
}

#[tokio::test(start_paused = true)]
async fn a_transcript_cut_at_any_byte_is_an_error_and_never_data() {
    for framing in [Simple, Structured, Extended] {
        let answer = match framing {
            Simple => simple(0, 0, &[7; 16]),
            _ => [chunk(framing, 0, (false, DATA), &data(256, &[7; 16])), chunk(framing, 0, (true, 0), &[])].concat(),
        };
        let whole = [handshake(framing, SIZE, FLAGS), vec![request(framing), Say(answer)]].concat();
        let said: usize = whole.iter().map(|step| if let Say(bytes) = step { bytes.len() } else { 0 }).sum();
        for cut in 0..=said {
            let mut left = cut;
            let mut steps = Vec::new();
            for step in whole.clone() {
                match step {
                    Say(mut bytes) => {
                        bytes.truncate(left);
                        left -= bytes.len();
                        steps.push(Say(bytes));
                        if left == 0 {
                            break;
                        }
                    }
                    other => steps.push(other),
                }
            }
            let read = match connect(steps).await {
                Ok(client) => client.read(256, 16).await,
                Err(error) => Err(error),
            };
            match read {
                Ok(bytes) => assert!(cut == said && bytes == [7; 16][..], "{framing:?} cut at {cut} of {said}"),
                Err(error) => {
                    assert!(cut < said, "{framing:?} whole: {error}");
                    assert_eq!(error.family(), Family::Io, "{framing:?} cut at {cut}: {error}");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_drips_or_never_ends_is_given_up() {
    let begun = chunk(Structured, 0, (true, DATA), &data(0, &[1; 4096]))[..100].to_vec();
    let errors = chunk(Structured, 0, (false, ERROR), &[0, 0, 0, 5, 0, 0]);
    for rest in [
        vec![Hang],
        vec![Say(begun.clone()), Hang],
        vec![Say(begun), Drip(Duration::from_secs(1), 1)],
        vec![Say(errors.clone()), Hang],
    ] {
        let client = opened(Structured, [vec![request(Structured)], rest].concat()).await;
        let start = tokio::time::Instant::now();
        let error = client.read(0, 4096).await.unwrap_err();
        check(&error, Family::Timeout, "not answered for 5s");
        assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_others_overtake_for_ever_is_given_up() {
    let mut steps = vec![request(Structured)];
    for cookie in 1..200 {
        steps.push(request(Structured));
        steps.push(Say(chunk(Structured, cookie, (true, DATA), &data(16, &[1; 16]))));
    }
    let client = opened(Structured, [steps, vec![Hang]].concat()).await;
    let others = async {
        while client.read(16, 16).await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let (starved, ()) = tokio::join!(client.read(0, 16), others);
    check(&starved.unwrap_err(), Family::Timeout, "not answered");
}

/// The error of asking for the status of the whole export, to which the server says `said`.
async fn status_error(framing: Framing, said: Vec<u8>) -> Error {
    let client = opened(framing, vec![request(framing), Say(said), Hang]).await;
    client.block_status("base:allocation", 0..SIZE).await.expect_err("the status must fail")
}

#[tokio::test(start_paused = true)]
async fn block_status_that_breaks_the_protocol_ends_the_connection() {
    let run = |context: u32, len: u32| [context.to_be_bytes(), len.to_be_bytes(), [0; 4]].concat();
    for (said, words) in [
        (chunk(Structured, 0, (true, STATUS), &run(CONTEXT, 0)), "no length"),
        (chunk(Structured, 0, (true, STATUS), &run(8, 512)), "context 8, which was not granted"),
        (chunk(Structured, 0, (true, STATUS), &[0, 0, 0, 7]), "type 0x5 with 4 bytes"),
        (chunk(Structured, 0, (true, STATUS), &[&run(CONTEXT, 512)[..], &[0; 4]].concat()), "type 0x5 with 16 bytes"),
        (chunk(Structured, 0, (true, 0), &[]), "without a run of the context"),
        (chunk(Structured, 0, (true, DATA), &data(0, &[1])), "in reply to a block status"),
        (simple(0, 0, &[]), "a simple reply to a block status"),
        (chunk(Structured, 0, (true, STATUS_EXT), &[0; 24]), "type 0x6 with 24 bytes"),
    ] {
        check(&status_error(Structured, said).await, Family::Protocol, words);
    }
    let miscounted = [&CONTEXT.to_be_bytes()[..], &2_u32.to_be_bytes(), &[0; 16]].concat();
    let said = chunk(Extended, 0, (true, STATUS_EXT), &miscounted);
    check(&status_error(Extended, said).await, Family::Protocol, "2 runs of block status in a payload of 24 bytes");
    let mut huge = chunk(Extended, 0, (true, STATUS_EXT), &[0; 24]);
    huge[24..32].copy_from_slice(&((1_u64 << 40) + 8).to_be_bytes());
    check(&status_error(Extended, huge).await, Family::Protocol, "type 0x6");
}

#[tokio::test(start_paused = true)]
async fn a_status_in_crumbs_is_put_together_and_one_in_endless_crumbs_is_given_up() {
    let mut steps = Vec::new();
    for cookie in 0..2000 {
        let run = [CONTEXT.to_be_bytes(), 512_u32.to_be_bytes(), [0, 0, 0, u8::from(cookie < 4)]].concat();
        steps.push(request(Structured));
        steps.push(Say(chunk(Structured, cookie, (true, STATUS), &run)));
    }
    let client = opened(Structured, [steps, vec![Hang]].concat()).await;
    let runs = client.block_status("base:allocation", 0..64 << 10).await.unwrap();
    assert_eq!(
        runs.iter().map(|run| (run.start, run.len, run.flags)).collect::<Vec<_>>(),
        [(0, 2048, 1), (2048, 63488, 0)]
    );
    let error = client.block_status("base:allocation", 0..SIZE).await.unwrap_err();
    check(&error, Family::Protocol, "in too many pieces");
}

#[tokio::test(start_paused = true)]
async fn ranges_behind_the_end_are_refused_without_asking() {
    let client = opened(Structured, vec![Hang]).await;
    for (at, len) in [(SIZE, 1), (SIZE - 1, 2), (u64::MAX, 1), (0, u32::MAX)] {
        check(&client.read(at, len).await.unwrap_err(), Family::Usage, "passes the end");
    }
    assert!(client.read(SIZE, 0).await.unwrap().is_empty());
    let error = client.block_status("base:allocation", 0..SIZE + 1).await.unwrap_err();
    check(&error, Family::Usage, "passes the end");
    check(&client.block_status("qemu:none", 0..1).await.unwrap_err(), Family::NotFound, "granted: base:allocation");
    check(&client.write(0, bytes::Bytes::from_static(b"x"), false).await.unwrap_err(), Family::Refused, "read-only");
}
