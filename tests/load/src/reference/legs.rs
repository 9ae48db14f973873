//! What Redis alone needs for a message's way in and its answer's way out: XADD, XREADGROUP, XADD, XREAD, XACK and XDEL, so many messages to a pipeline.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::redis::{Client, Reply, pack};

/// Threads, each with a connection and streams of its own: one waits for Redis while another works.
const THREADS: usize = 2;
/// About what a queued message, and its answer, have in one field.
const IN_BYTES: usize = 320;
const OUT_BYTES: usize = 240;

/// Runs for so long; gives back the messages that went through.
pub fn run(socket: &Path, batch: usize, time: Duration) -> anyhow::Result<u64> {
    let threads: Vec<_> = (0..THREADS)
        .map(|number| {
            let socket = socket.to_owned();
            thread::spawn(move || legs(&socket, number, batch, Instant::now() + time))
        })
        .collect();
    threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a thread failed"))?).sum()
}

fn legs(socket: &Path, number: usize, batch: usize, end: Instant) -> anyhow::Result<u64> {
    let mut client = Client::connect(socket)?;
    let (inbox, outbox) = (format!("legs:{{{number}}}:in").into_bytes(), format!("legs:{{{number}}}:out").into_bytes());
    client.call(&[b"DEL", &inbox, &outbox])?;
    client.call(&[b"XGROUP", b"CREATE", &inbox, b"g", b"$", b"MKSTREAM"])?;
    let count = batch.to_string().into_bytes();
    let (job, answer) = (vec![b'x'; IN_BYTES], vec![b'y'; OUT_BYTES]);
    let (mut adds, mut outs) = (Vec::new(), Vec::new());
    for _ in 0..batch {
        pack(&[b"XADD", &inbox, b"*", b"j", &job], &mut adds);
        pack(&[b"XADD", &outbox, b"*", b"d", &answer], &mut outs);
    }
    let (mut done, mut last) = (0, b"0".to_vec());
    while Instant::now() < end {
        client.send(&adds)?;
        skip(&mut client, batch)?;
        let taken = client.call(&[b"XREADGROUP", b"GROUP", b"g", b"c", b"COUNT", &count, b"STREAMS", &inbox, b">"])?;
        client.send(&outs)?;
        skip(&mut client, batch)?;
        let read = client.call(&[b"XREAD", b"COUNT", &count, b"STREAMS", &outbox, &last])?;
        let (taken, read) = (ids(&taken), ids(&read));
        ensure!(taken.len() == batch && read.len() == batch, "{} taken and {} read of {batch}", taken.len(), read.len());
        last.clone_from(read.last().context("nothing was read")?);
        let mut ends = Vec::new();
        for (command, key, group, ids) in [("XACK", &inbox, true, &taken), ("XDEL", &inbox, false, &taken), ("XDEL", &outbox, false, &read)]
        {
            let group: &[&[u8]] = if group { &[b"g"] } else { &[] };
            let words: Vec<&[u8]> =
                [command.as_bytes(), key].into_iter().chain(group.iter().copied()).chain(ids.iter().map(Vec::as_slice)).collect();
            pack(&words, &mut ends);
        }
        client.send(&ends)?;
        skip(&mut client, 3)?;
        done += batch as u64;
    }
    Ok(done)
}

fn skip(client: &mut Client, replies: usize) -> anyhow::Result<()> {
    for _ in 0..replies {
        client.reply()?;
    }
    Ok(())
}

/// The ids of the entries of the one stream in an answer of XREAD or XREADGROUP.
fn ids(reply: &Reply) -> Vec<Vec<u8>> {
    let entries = reply.list().first().and_then(|stream| stream.list().get(1)).map_or(&[][..], Reply::list);
    let id = |entry: &Reply| match entry.list().first() {
        Some(Reply::Text(id)) => Some(id.clone()),
        _ => None,
    };
    entries.iter().filter_map(id).collect()
}
