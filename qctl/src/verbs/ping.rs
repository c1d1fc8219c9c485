//! `qctl ping`.

use clap::Args;
use qd_protocol::verbs;
use tokio::time::Instant;

use crate::exit::{Exit, Failure};
use crate::output::{Record, Records, Value};
use crate::session::Session;

/// Ask whether the server answers
#[derive(Debug, Clone, Args)]
pub struct Ping {}

/// Of the record.
pub const FIELDS: [&str; 4] = ["answer", "server", "time", "round_trip_us"];

impl Ping {
    /// Asks once.
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let known = FIELDS.map(str::to_owned);
        let mut records = Records::new(&session.out, false, &known, &["answer"], &FIELDS)?;
        let client = session.client().await?;
        let start = Instant::now();
        let pong = client.call(verbs::Ping).await?;
        let round_trip = start.elapsed();
        let server = client.address().to_string();
        let micros = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
        let record: Record = vec![
            ("answer".to_owned(), Value::Text("pong".to_owned())),
            ("server".to_owned(), Value::Text(server)),
            ("time".to_owned(), Value::Time(pong.time_ms)),
            ("round_trip_us".to_owned(), Value::Count(micros)),
        ];
        records.push(&mut session.out, &record)?;
        records.finish(&mut session.out)?;
        Ok(Exit::Done)
    }
}
