//! What the machine itself can do: durable writes, and loopback TCP.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::clock::{micros_since, now};
use crate::stats::percentile;

/// Bytes of a write on the loopback, and of the file that is written over and over.
const CHUNK_BYTES: usize = 256 << 10;
const OVERWRITTEN_BYTES: u64 = 256 << 20;

/// Measures in the folder `dir`, each thing for `time`, and prints the lines.
pub fn print(dir: &Path, time: Duration) -> Result<()> {
    for kib in [4, 128, 1024] {
        for (how, size) in [("append", 0), ("overwrite", OVERWRITTEN_BYTES)] {
            let mut file = prepared(dir, size)?;
            writes(&mut file, kib << 10, how, size, time)?;
        }
    }
    ping_pong(time)?;
    stream(time)
}

/// An open file without a name, of `size` bytes, all written and on disk.
fn prepared(dir: &Path, size: u64) -> Result<File> {
    let mut file = tempfile::tempfile_in(dir)?;
    let block = vec![1; 1 << 20];
    for _ in 0..size >> 20 {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

fn writes(file: &mut File, block: usize, how: &str, size: u64, time: Duration) -> Result<()> {
    let data = vec![7; block];
    let (mut micros, began) = (vec![], now());
    while began.elapsed() < time {
        if size > 0 && file.stream_position()? + block as u64 > size {
            file.seek(SeekFrom::Start(0))?;
        }
        let at = now();
        file.write_all(&data)?;
        file.sync_data()?;
        micros.push(micros_since(at));
    }
    let secs = began.elapsed().as_secs_f64();
    let mib = (micros.len() * block) as f64 / secs / f64::from(1 << 20);
    show(&format!("write+fdatasync {:4} KiB {how}", block >> 10), micros, secs);
    println!("    = {mib:.0} MiB/s");
    Ok(())
}

fn show(what: &str, mut micros: Vec<u32>, secs: f64) {
    micros.sort_unstable();
    println!(
        "{what}: {:.0}/s, p50 {} µs, p99 {} µs, max {} µs",
        micros.len() as f64 / secs,
        percentile(&micros, 50),
        percentile(&micros, 99),
        percentile(&micros, 100)
    );
}

/// Both ends of a connection.
fn pair() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let one = TcpStream::connect(listener.local_addr()?)?;
    let (two, _) = listener.accept()?;
    one.set_nodelay(true)?;
    two.set_nodelay(true)?;
    Ok((one, two))
}

fn ping_pong(time: Duration) -> Result<()> {
    let (mut one, mut two) = pair()?;
    let echo = std::thread::spawn(move || {
        let mut byte = [0];
        while two.read_exact(&mut byte).and_then(|()| two.write_all(&byte)).is_ok() {}
    });
    let (mut micros, mut byte, began) = (vec![], [0], now());
    while began.elapsed() < time {
        let at = now();
        one.write_all(&byte)?;
        one.read_exact(&mut byte)?;
        micros.push(micros_since(at));
    }
    show("loopback TCP, 1 byte there and back", micros, began.elapsed().as_secs_f64());
    drop(one);
    echo.join().map_err(|_| anyhow!("the thread that echoes has panicked"))
}

fn stream(time: Duration) -> Result<()> {
    let (mut one, mut two) = pair()?;
    let sink = std::thread::spawn(move || {
        let (mut buf, mut total) = (vec![0; CHUNK_BYTES], 0);
        while let Ok(n @ 1..) = two.read(&mut buf) {
            total += n;
        }
        total
    });
    let (data, began) = (vec![0; CHUNK_BYTES], now());
    while began.elapsed() < time {
        one.write_all(&data)?;
    }
    drop(one);
    let total = sink.join().map_err(|_| anyhow!("the thread that reads has panicked"))?;
    let mib = total as f64 / began.elapsed().as_secs_f64() / f64::from(1 << 20);
    println!("loopback TCP, one stream: {mib:.0} MiB/s");
    Ok(())
}
