//! `qctl server info`.

use clap::Args;
use qd_protocol::Statistics;

use crate::exit::{Exit, Failure};
use crate::output::{Record, Sheet, Value};
use crate::session::Session;
use crate::verbs::list::Pages;

/// Of the record.
pub const FIELDS: [&str; 13] = [
    "server",
    "version",
    "protocol",
    "node",
    "time",
    "frame_bytes_max",
    "message_bytes_max",
    "in_flight_max",
    "queues",
    "ready",
    "delayed",
    "leased",
    "bytes",
];

/// Show the server's version, limits and totals
#[derive(Debug, Clone, Args)]
pub struct Info {}

impl Info {
    /// Asks the server.
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let known = FIELDS.map(str::to_owned);
        let sheet = Sheet::new(&session.out, &known)?;
        let client = session.client().await?;
        let (mut queues, mut all) = (0, Statistics::default());
        let mut pages = Pages::new(None);
        while let Some(page) = pages.next(&client).await? {
            for queue in page {
                queues += 1;
                all.ready += queue.statistics.ready;
                all.delayed += queue.statistics.delayed;
                all.leased += queue.statistics.leased;
                all.bytes += queue.statistics.bytes;
            }
        }
        let server = client.server();
        let values = [
            Value::Text(client.address().to_string()),
            Value::Text(client.welcome().server),
            Value::Count(server.chosen.into()),
            Value::Text(format!("{:016x}", server.node)),
            Value::Time(server.time_ms),
            Value::Bytes(server.frame_bytes_max.into()),
            Value::Bytes(server.message_bytes_max),
            Value::Count(server.in_flight_max.into()),
            Value::Count(queues),
            Value::Count(all.ready),
            Value::Count(all.delayed),
            Value::Count(all.leased),
            Value::Bytes(all.bytes),
        ];
        let record: Record = known.into_iter().zip(values).collect();
        sheet.write(&mut session.out, record)?;
        Ok(Exit::Done)
    }
}
