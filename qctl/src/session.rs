//! What a command works with: its flags, its output and the connection, which commands of one
//! prompt or script share.

use std::cell::RefCell;
use std::process::Child;
use std::rc::Rc;
use std::time::Duration;

use qd_protocol::client::Options;
use qd_protocol::verbs::Verb;
use qd_protocol::{Address, Client, QueueName, Receipt};

use crate::args::Global;
use crate::exit::Failure;
use crate::output::Out;
use crate::server::{self, Target};
use crate::signals::Stop;

/// How long a call that lost its connection reconnects and repeats itself: time for a restart.
const RETRY_FOR: Duration = Duration::from_secs(10);
/// Longest time for one attempt to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How to connect.
pub fn options(retry_for: Duration) -> Options {
    Options {
        client: concat!("qctl ", env!("CARGO_PKG_VERSION")).to_owned(),
        connect_timeout: CONNECT_TIMEOUT,
        retry_for,
    }
}

/// The connection, and the daemon that was started for it.
#[derive(Debug, Default)]
pub struct Link {
    client: Option<(Vec<Address>, Client)>,
    started: Option<Child>,
    /// Leases taken at the prompt, to be released at its end.
    leases: Vec<Leases>,
}

/// Leases on messages of one queue.
#[derive(Debug)]
pub struct Leases {
    /// Servers of the queue.
    pub addresses: Vec<Address>,
    /// The queue.
    pub queue: QueueName,
    /// The leases, some of which may have ended.
    pub receipts: Vec<Receipt>,
}

/// What standard input is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StdinUse {
    /// The command's own.
    Free,
    /// It holds a script.
    Script,
    /// A person types commands there.
    Prompt,
}

impl StdinUse {
    /// Refuses a verb that wants to read what holds the commands.
    pub fn refuse_unless_free(self) -> Result<(), Failure> {
        if self == Self::Free {
            return Ok(());
        }
        let text = "standard input holds the commands; give arguments or a file instead";
        Err(Failure::Usage(text.to_owned()))
    }
}

/// What one command works with.
pub struct Session {
    /// Its flags, with those that stand before it and what its context says.
    pub global: Global,
    /// Its own flags.
    pub given: Global,
    /// Where its data goes.
    pub out: Out,
    /// What ends it from outside.
    pub stop: Stop,
    /// What standard input is for.
    pub stdin: StdinUse,
    link: Rc<RefCell<Link>>,
}

impl Session {
    /// For a command with `global`.
    pub fn new(global: Global, stop: Stop, link: Rc<RefCell<Link>>) -> Self {
        let (out, given) = (Out::new(&global), Global::default());
        Self { global, given, out, stop, stdin: StdinUse::Free, link }
    }

    /// The servers to try, and whether one may be started.
    pub fn target(&self) -> Result<Target, Failure> {
        server::target(&self.global)
    }

    /// The connection, made (and the server started) when there is none.
    pub async fn client(&mut self) -> Result<Client, Failure> {
        let target = self.target()?;
        let link = Rc::clone(&self.link);
        if let Some((addresses, client)) = &link.borrow().client
            && *addresses == target.addresses
        {
            return Ok(client.clone());
        }
        let (client, started) = server::connect(&target, options(RETRY_FOR)).await?;
        let mut link = link.borrow_mut();
        if let Some(child) = started {
            link.started = Some(child);
        }
        link.client = Some((target.addresses, client.clone()));
        Ok(client)
    }

    /// A connection of one's own, whose calls fail at once when it is lost; each of them tries to
    /// connect again. The server is started when there is none.
    pub async fn own_client(&mut self) -> Result<Client, Failure> {
        let (client, started) = server::connect(&self.target()?, options(Duration::ZERO)).await?;
        if let Some(child) = started {
            self.link.borrow_mut().started = Some(child);
        }
        Ok(client)
    }

    /// Leaves the connection: the next command makes a new one.
    pub fn forget_client(&mut self) {
        forget_client(&self.link);
    }

    /// Keeps a lease in mind that is taken at a prompt; elsewhere it outlives the command.
    pub fn remember_lease(&mut self, queue: &QueueName, receipt: Receipt) {
        let mut link = self.link.borrow_mut();
        let Link { client: Some((addresses, _)), leases, .. } = &mut *link else {
            return;
        };
        if self.stdin != StdinUse::Prompt {
            return;
        }
        let same = |leases: &&mut Leases| leases.queue == *queue && leases.addresses == *addresses;
        if let Some(leases) = leases.iter_mut().find(same) {
            leases.receipts.push(receipt);
            return;
        }
        let (addresses, queue) = (addresses.clone(), queue.clone());
        leases.push(Leases { addresses, queue, receipts: vec![receipt] });
    }

    /// Asks the server.
    pub async fn call<V: Verb>(&mut self, verb: V) -> Result<V::Answer, Failure> {
        let client = self.client().await?;
        Ok(client.call(verb).await?)
    }
}

/// The leases taken at the prompt.
pub fn take_leases(link: &RefCell<Link>) -> Vec<Leases> {
    std::mem::take(&mut link.borrow_mut().leases)
}

/// The connection of a prompt, if there is one now, for completion.
pub fn open_client(link: &RefCell<Link>) -> Option<Client> {
    let mut link = link.try_borrow_mut().ok()?;
    // Reap a daemon that was started here and has ended since.
    if let Some(child) = &mut link.started
        && !matches!(child.try_wait(), Ok(None))
    {
        link.started = None;
    }
    link.client.as_ref().map(|(_, client)| client.clone())
}

/// Forgets the connection, so that the next command makes a new one (and may start a server).
pub fn forget_client(link: &RefCell<Link>) {
    if let Ok(mut link) = link.try_borrow_mut() {
        link.client = None;
    }
}
