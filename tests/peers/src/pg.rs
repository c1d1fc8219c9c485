//! PostgreSQL as a queue, with the table and the statements that pgmq uses: a read sets the
//! visibility time under FOR UPDATE SKIP LOCKED and commits, a delete by id is a transaction of
//! its own. Statements are prepared once a connection, with values in binary form.
//!
//! The protocol is described in the PostgreSQL manual, chapter "Frontend/Backend Protocol".

use anyhow::{Context, Result, bail, ensure};

use crate::peer::{Conn, Peer, Role};
use crate::wire::Wire;

/// The server. Its user `postgres` is let in without a password.
#[derive(Debug)]
pub struct Pg {
    /// `HOST:PORT`.
    pub addr: String,
}

/// A connection to it.
#[derive(Debug)]
pub struct PgConn {
    wire: Wire,
}

/// Names of the prepared statements.
const SEND: &str = "send";
const READ: &str = "read";
const DELETE: &str = "delete";

/// Object ids of the types of array elements.
const BYTEA: i32 = 17;
const BIGINT: i32 = 20;

/// Protocol version 3.0.
const VERSION: i32 = 3 << 16;

/// What a command gave.
#[derive(Debug, Default)]
struct Done {
    /// The first column of each row: a bigint.
    ids: Vec<i64>,
    /// The command and how many rows it touched: `DELETE 100`.
    tag: String,
}

impl Peer for Pg {
    type Conn = PgConn;
    const SEND_BATCH: usize = 100;
    const TAKE_BATCH: usize = 100;

    async fn create(&self, queue: &str) -> Result<()> {
        let mut conn = PgConn::open(&self.addr).await?;
        conn.simple(&format!(
            "CREATE TABLE q_{queue} (
                 msg_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                 read_ct int NOT NULL DEFAULT 0,
                 enqueued_at timestamptz NOT NULL DEFAULT now(),
                 vt timestamptz NOT NULL,
                 message bytea);
             CREATE INDEX ON q_{queue} (vt ASC);"
        ))
        .await
    }

    async fn drop_queue(&self, queue: &str) -> Result<()> {
        PgConn::open(&self.addr).await?.simple(&format!("DROP TABLE q_{queue}")).await
    }

    async fn connect(&self, queue: &str, _role: Role, _batch: usize) -> Result<PgConn> {
        let mut conn = PgConn::open(&self.addr).await?;
        let send = format!(
            "INSERT INTO q_{queue} (vt, message)
             SELECT clock_timestamp(), m FROM unnest($1::bytea[]) m RETURNING msg_id"
        );
        let read = format!(
            "WITH cte AS (
                 SELECT msg_id FROM q_{queue} WHERE vt <= clock_timestamp()
                 ORDER BY msg_id ASC LIMIT $1 FOR UPDATE SKIP LOCKED)
             UPDATE q_{queue} m
             SET vt = clock_timestamp() + interval '600 seconds', read_ct = read_ct + 1
             FROM cte WHERE m.msg_id = cte.msg_id
             RETURNING m.msg_id, m.message"
        );
        let delete = format!("DELETE FROM q_{queue} WHERE msg_id = ANY($1::bigint[])");
        for (name, sql) in [(SEND, send), (READ, read), (DELETE, delete)] {
            conn.prepare(name, &sql).await?;
        }
        Ok(conn)
    }
}

impl PgConn {
    async fn open(addr: &str) -> Result<Self> {
        let mut conn = Self { wire: Wire::connect(addr).await? };
        let parameters = b"user\0postgres\0database\0postgres\0\0";
        // The one message without a letter in front.
        let length = 8 + parameters.len() as i32;
        conn.wire.out.extend(length.to_be_bytes());
        conn.wire.out.extend(VERSION.to_be_bytes());
        conn.wire.out.extend(parameters);
        conn.done().await?;
        Ok(conn)
    }

    /// Puts a message of the given kind in line.
    fn message(&mut self, kind: u8, parts: &[&[u8]]) {
        let length = 4 + parts.iter().map(|part| part.len()).sum::<usize>() as i32;
        let out = &mut self.wire.out;
        out.push(kind);
        out.extend(length.to_be_bytes());
        for part in parts {
            out.extend_from_slice(part);
        }
    }

    async fn simple(&mut self, sql: &str) -> Result<()> {
        self.message(b'Q', &[sql.as_bytes(), b"\0"]);
        self.done().await?;
        Ok(())
    }

    async fn prepare(&mut self, name: &str, sql: &str) -> Result<()> {
        // Parse, with no types of parameters given; Sync.
        self.message(b'P', &[name.as_bytes(), b"\0", sql.as_bytes(), b"\0", &[0; 2]]);
        self.message(b'S', &[]);
        self.done().await?;
        Ok(())
    }

    /// Runs a prepared statement with its one parameter.
    async fn execute(&mut self, name: &str, parameter: &[u8]) -> Result<Done> {
        let (one, length) = (1i16.to_be_bytes(), (parameter.len() as i32).to_be_bytes());
        // Bind: unnamed portal, statement, all parameters binary, one of them, all results binary.
        let (portal, statement) = (b"\0", name.as_bytes());
        let bind = [portal, statement, b"\0", &one, &one, &one, &length, parameter, &one, &one];
        self.message(b'B', &bind);
        // Execute: unnamed portal, any number of rows; Sync.
        self.message(b'E', &[b"\0", &[0; 4]]);
        self.message(b'S', &[]);
        self.done().await
    }

    /// Sends what is in line, and reads up to "ready for query".
    async fn done(&mut self) -> Result<Done> {
        self.wire.flush().await?;
        let mut done = Done::default();
        loop {
            let [kind] = self.wire.array().await?;
            let length = i32::from_be_bytes(self.wire.array().await?);
            let length = usize::try_from(length)?.checked_sub(4).context("length of a message")?;
            let payload = self.wire.bytes(length).await?;
            match kind {
                b'R' => ensure!(payload == [0; 4], "postgres asks for a password"),
                b'D' => done.ids.extend(first_column(&payload)),
                b'C' => done.tag = String::from_utf8_lossy(&payload).replace('\0', ""),
                b'E' => bail!("postgres: {}", String::from_utf8_lossy(&payload).replace('\0', " ")),
                b'Z' => return Ok(done),
                _ => {}
            }
        }
    }
}

/// The first column of a row: behind the count of columns and its own length.
fn first_column(row: &[u8]) -> Option<i64> {
    Some(i64::from_be_bytes(row.get(6..14)?.try_into().ok()?))
}

/// An array of one dimension in binary form.
fn array<'a>(element: i32, items: impl ExactSizeIterator<Item = &'a [u8]>) -> Vec<u8> {
    let (dimensions, nulls, first) = (1i32, 0i32, 1i32);
    let head = [dimensions, nulls, element, items.len() as i32, first];
    let mut out: Vec<u8> = head.iter().flat_map(|number| number.to_be_bytes()).collect();
    for item in items {
        out.extend((item.len() as i32).to_be_bytes());
        out.extend_from_slice(item);
    }
    out
}

impl Conn for PgConn {
    async fn send(&mut self, body: &[u8], n: usize) -> Result<()> {
        let bodies = vec![body; n];
        let done = self.execute(SEND, &array(BYTEA, bodies.into_iter())).await?;
        ensure!(done.ids.len() == n, "{} of {n} rows inserted", done.ids.len());
        Ok(())
    }

    async fn take(&mut self, max: usize) -> Result<usize> {
        let limit = i64::try_from(max)?.to_be_bytes();
        let ids = self.execute(READ, &limit).await?.ids;
        if ids.is_empty() {
            return Ok(0);
        }
        let bytes: Vec<[u8; 8]> = ids.iter().map(|id| id.to_be_bytes()).collect();
        let items = bytes.iter().map(<[u8; 8]>::as_slice);
        let tag = self.execute(DELETE, &array(BIGINT, items)).await?.tag;
        ensure!(tag == format!("DELETE {}", ids.len()), "{} rows: {tag}", ids.len());
        Ok(ids.len())
    }
}
