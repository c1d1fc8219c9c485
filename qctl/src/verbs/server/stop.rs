//! `qctl server stop`.

use std::time::Duration;

use qd_protocol::verbs::{Ping, Shutdown};
use qd_protocol::{Client, ClientError};
use tokio::time::sleep;

use crate::exit::{Exit, Failure};
use crate::output::{Deeds, Record, Value};
use crate::session::{Session, options};

/// Of the record.
pub const FIELDS: [&str; 2] = ["server", "stopped"];

/// Stops the server; never starts one to do so.
pub async fn stop(session: &mut Session) -> Result<Exit, Failure> {
    let mut deeds = Deeds::new(&session.out, false, &FIELDS)?;
    let addresses = session.target()?.addresses;
    let client = Client::connect(&addresses, options(Duration::ZERO)).await?;
    client.call(Shutdown).await?;
    session.forget_client();
    // The daemon closes the connection as the last thing it does.
    loop {
        match client.call(Ping).await {
            Err(ClientError::Lost { .. } | ClientError::Unreachable { .. }) => break,
            Err(ClientError::Refused(_)) | Ok(_) => sleep(Duration::from_millis(10)).await,
            Err(error) => return Err(error.into()),
        }
    }
    let record: Record = vec![
        ("server".to_owned(), Value::Text(client.address().to_string())),
        ("stopped".to_owned(), Value::Flag(true)),
    ];
    deeds.push(&mut session.out, &record, "the server has stopped")?;
    deeds.finish(&mut session.out)?;
    Ok(Exit::Done)
}
