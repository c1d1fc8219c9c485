//! Connections that are lost: what is repeated, what fails, and when.

use std::io::ErrorKind;

use super::*;

#[tokio::test]
async fn lost_connection_repeats_what_is_unanswered_with_its_numbers() {
    let (_place, listener, client, mut server) = pair(retrying(PATIENCE)).await;
    let mut calls = Vec::new();
    for _ in 0..4 {
        calls.push(client.start(change()).await.unwrap());
    }
    let shutdown = client.start(Shutdown).await.unwrap();
    drop(calls.remove(3));
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(server.next_numbers().await.0);
    }
    server.answer::<DropQueue>(ids[0], &Dropped { messages: 10 }).await;
    assert_eq!(soon(calls.remove(0)).await.unwrap().messages, 10);
    let producer = server.producer;
    drop(server);
    let mut server = Server::accept(&listener).await;
    assert_eq!(server.producer, producer);
    assert_eq!(server.next_numbers().await, (ids[1], 2, 2));
    assert_eq!(server.next_numbers().await, (ids[2], 3, 2));
    assert!(matches!(soon(shutdown).await, Err(ClientError::Lost { .. })));
    let _new = client.start(change()).await.unwrap();
    let (_, number, below) = server.next_numbers().await;
    assert_eq!((number, below), (5, 2));
    server.answer::<DropQueue>(ids[2], &Dropped { messages: 30 }).await;
    server.answer::<DropQueue>(ids[1], &Dropped { messages: 20 }).await;
    let third = soon(calls.pop().unwrap()).await.unwrap().messages;
    let second = soon(calls.pop().unwrap()).await.unwrap().messages;
    assert_eq!((second, third), (20, 30));
    assert!(server.is_idle().await);
}

#[tokio::test]
async fn half_an_answer_of_a_lost_connection_is_forgotten() {
    let (_place, listener, client, mut server) = pair(retrying(PATIENCE)).await;
    let stats = client.start(Stats::default()).await.unwrap();
    let (counted, payload) = counted();
    let (id, ..) = server.next().await;
    server.answer_part::<Stats>(id, &payload[..20], true).await;
    drop(server);
    let mut server = Server::accept(&listener).await;
    let (id, ..) = server.next().await;
    server.answer_part::<Stats>(id, &payload[..30], true).await;
    server.answer_part::<Stats>(id, &payload[30..], false).await;
    assert_eq!(soon(stats).await.unwrap(), counted);
}

#[tokio::test]
async fn calls_made_while_the_server_is_away_wait_for_it() {
    let (place, listener, client, server) = pair(retrying(PATIENCE)).await;
    drop((listener, server));
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.call(change()).await }
    });
    sleep(Duration::from_millis(100)).await;
    assert!(!call.is_finished());
    let listener = place.listen();
    let mut server = Server::accept(&listener).await;
    let (id, number, _) = server.next_numbers().await;
    assert_eq!(number, 1);
    server.answer::<DropQueue>(id, &Dropped { messages: 3 }).await;
    assert_eq!(soon(call).await.unwrap().unwrap().messages, 3);
}

#[tokio::test]
async fn retries_end_when_their_time_is_over() {
    let (_place, listener, client, mut server) = pair(retrying(Duration::from_millis(200))).await;
    let sent = client.start(change()).await.unwrap();
    server.next().await;
    drop((listener, server));
    let since = Instant::now();
    assert!(matches!(soon(sent).await, Err(ClientError::Lost { .. })));
    assert!(since.elapsed() < Duration::from_secs(5));
    let unsent = soon(client.call(change())).await;
    let refused = ErrorKind::ConnectionRefused;
    assert!(matches!(unsent, Err(ClientError::Unreachable { kind, .. }) if kind == refused));
}

#[tokio::test]
async fn server_that_dies_of_every_repeat_does_not_keep_calls_for_ever() {
    let (_place, listener, client, server) = pair(retrying(Duration::from_millis(300))).await;
    let sent = client.start(change()).await.unwrap();
    drop(server);
    let dying = async {
        loop {
            Server::accept(&listener).await.next().await;
        }
    };
    tokio::select! {
        result = soon(sent) => assert!(matches!(result, Err(ClientError::Lost { .. }))),
        () = dying => {}
    }
}

#[tokio::test]
async fn without_retries_a_loss_is_told_at_once_and_the_next_call_connects() {
    let (place, listener, client, mut server) = pair(Options::default()).await;
    let sent = client.start(change()).await.unwrap();
    server.next().await;
    drop((listener, server));
    assert!(matches!(soon(sent).await, Err(ClientError::Lost { .. })));
    let unsent = soon(client.call(change())).await;
    assert!(matches!(unsent, Err(ClientError::Unreachable { .. })), "{unsent:?}");
    let listener = place.listen();
    let answering = async {
        let mut server = Server::accept(&listener).await;
        let (id, number, below) = server.next_numbers().await;
        assert_eq!((number, below), (2, 2));
        server.answer::<DropQueue>(id, &Dropped { messages: 0 }).await;
        server
    };
    let (answer, _server) = tokio::join!(soon(client.call(change())), answering);
    answer.unwrap();
}

#[tokio::test]
async fn refusal_of_a_server_that_shuts_down_is_repeated_elsewhere() {
    let (_place, listener, client, mut server) = pair(retrying(PATIENCE)).await;
    let first = client.start(change()).await.unwrap();
    let second = client.start(change()).await.unwrap();
    let (first_id, ..) = server.next_numbers().await;
    let (second_id, ..) = server.next_numbers().await;
    server.refuse::<DropQueue>(first_id, ErrorCode::Closing).await;
    server.answer::<DropQueue>(second_id, &Dropped { messages: 2 }).await;
    assert_eq!(soon(second).await.unwrap().messages, 2);
    let mut server = Server::accept(&listener).await;
    assert_eq!(server.next_numbers().await, (first_id, 1, 1));
    server.answer::<DropQueue>(first_id, &Dropped { messages: 1 }).await;
    assert_eq!(soon(first).await.unwrap().messages, 1);
}

#[tokio::test]
async fn without_retries_the_refusal_of_a_server_that_shuts_down_is_told() {
    let (_place, _listener, client, mut server) = pair(Options::default()).await;
    let call = client.start(change()).await.unwrap();
    let (id, ..) = server.next_numbers().await;
    server.refuse::<DropQueue>(id, ErrorCode::Closing).await;
    let result = soon(call).await;
    assert!(
        matches!(result, Err(ClientError::Refused(refusal)) if refusal.code == ErrorCode::Closing)
    );
}

#[tokio::test]
async fn new_server_may_have_a_lower_limit_of_requests_in_flight() {
    let (_place, listener, client, server) = pair(retrying(PATIENCE)).await;
    drop(server);
    for limit in [5, 2, 8] {
        let with_limit = ServerPreamble { in_flight_max: limit, ..preamble() };
        let mut server = Server::accept_with(&listener, with_limit).await;
        let calls: Vec<_> = (0..8)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { client.call(Ping).await })
            })
            .collect();
        for _ in 0..limit {
            server.next().await;
        }
        assert!(server.is_idle().await, "limit {limit}");
        for call in calls {
            call.abort();
            let _ = call.await;
        }
    }
}

#[test]
fn calls_fail_when_the_runtime_of_the_client_has_ended() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let (_place, _listener, client, _server) = first.block_on(pair(Options::default()));
    let pending = first.block_on(client.start(Ping)).unwrap();
    drop(first);
    let result = runtime().block_on(soon(pending));
    assert!(matches!(result, Err(ClientError::Lost { .. })));
}

#[tokio::test]
async fn receive_cancelled_while_the_server_is_away_is_repeated_and_cancelled() {
    let (place, listener, client, mut server) = pair(retrying(PATIENCE)).await;
    let mut receive = client.start(parked()).await.unwrap();
    let (id, ..) = server.next_numbers().await;
    drop((listener, server));
    sleep(Duration::from_millis(50)).await;
    receive.cancel();
    let listener = place.listen();
    let mut server = Server::accept(&listener).await;
    assert_eq!(server.next_numbers().await, (id, 1, 1));
    let (_, cancel, _) = server.next().await;
    assert_eq!(cancel, Request::Cancel(Cancel { correlation: id }));
    server.answer::<Receive>(id, &delivery(0)).await;
    assert_eq!(soon(receive).await.unwrap(), delivery(0));
}

#[tokio::test]
async fn receive_dropped_while_the_server_is_away_is_not_repeated() {
    let (place, listener, client, mut server) = pair(retrying(PATIENCE)).await;
    let receive = client.start(parked()).await.unwrap();
    server.next_numbers().await;
    drop((listener, server));
    sleep(Duration::from_millis(50)).await;
    drop(receive);
    let listener = place.listen();
    let mut server = Server::accept(&listener).await;
    let _next = client.start(change()).await.unwrap();
    let (_, number, below) = server.next_numbers().await;
    assert_eq!((number, below), (2, 2));
}

/// A server that carries requests out once, answers in any order and closes at any time.
struct Chaos {
    random: u64,
    /// Executions by request number.
    executed: std::collections::BTreeMap<u64, u64>,
    /// Numbers whose answer was written.
    answered: std::collections::BTreeSet<u64>,
    below: u64,
    losses: u64,
}

impl Chaos {
    /// Below `most`; xorshift.
    fn random(&mut self, most: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % most
    }

    fn carry_out(&mut self, number: u64, below: u64) {
        assert!(number >= self.below, "{number} repeated below {}", self.below);
        self.below = self.below.max(below);
        let forgotten = (1..below).find(|number| !self.answered.contains(number));
        assert_eq!(forgotten, None, "answered below {below}");
        let next = self.executed.len() as u64;
        self.executed.entry(number).or_insert(next);
    }

    /// Serves one connection.
    async fn serve(&mut self, server: &mut Server) {
        let mut waiting: Vec<(u32, u64)> = Vec::new();
        let mut last = 0;
        loop {
            let more = waiting.is_empty() || self.random(3) > 0;
            let quiet = Duration::from_millis(u64::from(!waiting.is_empty()) * 2 + 1);
            if more && let Ok(frame) = timeout(quiet, server.next_frame()).await {
                let Some(frame) = frame else { return };
                let correlation = frame.correlation;
                let numbering = Request::from_frame(frame).unwrap().1.unwrap();
                assert!(numbering.number > last, "{numbering:?} after {last}");
                last = numbering.number;
                self.carry_out(numbering.number, numbering.answered_below);
                waiting.push((correlation, numbering.number));
            } else if !waiting.is_empty() {
                let index = self.random(waiting.len() as u64) as usize;
                let (correlation, number) = waiting.swap_remove(index);
                self.answered.insert(number);
                let messages = self.executed[&number];
                server.answer::<DropQueue>(correlation, &Dropped { messages }).await;
            }
            if self.losses > 0 && self.random(20) == 0 {
                self.losses -= 1;
                return;
            }
        }
    }
}

async fn calls_are_carried_out_once(tasks: u64, calls: u64) {
    let seed = getrandom::u64().unwrap() | 1;
    println!("seed {seed:#x}");
    let (_place, listener, client, mut server) = pair(retrying(PATIENCE)).await;
    let serving = tokio::spawn(async move {
        let mut chaos = Chaos {
            random: seed,
            executed: std::collections::BTreeMap::new(),
            answered: std::collections::BTreeSet::new(),
            below: 0,
            losses: 50,
        };
        loop {
            chaos.serve(&mut server).await;
            drop(server);
            server = Server::accept(&listener).await;
        }
    });
    let calling = (0..tasks).map(|_| {
        let client = client.clone();
        tokio::spawn(async move {
            let mut answers = Vec::new();
            for _ in 0..calls {
                answers.push(client.call(change()).await.unwrap().messages);
            }
            answers
        })
    });
    let mut answers: Vec<u64> = join_all(calling.collect()).await.into_iter().flatten().collect();
    answers.sort_unstable();
    assert_eq!(answers, (0..tasks * calls).collect::<Vec<_>>());
    assert!(!serving.is_finished(), "the server found something wrong");
    serving.abort();
}

#[tokio::test]
async fn calls_are_carried_out_once_over_many_losses() {
    calls_are_carried_out_once(8, 100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_carried_out_once_over_many_losses_on_two_threads() {
    calls_are_carried_out_once(8, 100).await;
}
