//! Connections that are lost where the next server has other data.

use super::*;

/// Another server than that of [`preamble`].
fn other() -> ServerPreamble {
    ServerPreamble { node: 40, ..preamble() }
}

/// A client of two places, connected to the first.
struct Two {
    client: Client,
    first: Server,
    _places: [Place; 2],
    listeners: [UnixListener; 2],
}

impl Two {
    async fn new() -> Self {
        let places = [Place::new(), Place::new()];
        let listeners = [places[0].listen(), places[1].listen()];
        let addresses = [places[0].address(), places[1].address()];
        let connecting = Client::connect(&addresses, retrying(PATIENCE));
        let (client, first) = tokio::join!(connecting, Server::accept(&listeners[0]));
        Self { client: client.unwrap(), first, _places: places, listeners }
    }

    /// The first server goes away, and the second one takes the client.
    async fn fail_over(self) -> (Client, Server) {
        let [first, second] = self.listeners;
        drop((self.first, first));
        (self.client, Server::accept_with(&second, other()).await)
    }
}

#[tokio::test]
async fn change_that_may_have_been_made_is_not_made_by_another_server() {
    let mut two = Two::new().await;
    let sent = two.client.start(change()).await.unwrap();
    two.first.next_numbers().await;
    let settling =
        Receive { settle: vec![Receipt { queue: 1, lease: 2, id: 3, secret: 4 }], ..parked() };
    let settling = two.client.start(settling).await.unwrap();
    two.first.next_numbers().await;
    let first = two.client.address();
    let (client, mut second) = two.fail_over().await;
    for error in [soon(sent).await.unwrap_err(), soon(settling).await.unwrap_err()] {
        assert!(matches!(&error, ClientError::Lost { address, .. } if *address == first));
        assert!(error.to_string().contains("is not repeated by"), "{error}");
    }
    assert!(second.is_idle().await);
    // What comes then goes to the second one.
    let next = client.start(change()).await.unwrap();
    let (id, number, below) = second.next_numbers().await;
    assert_eq!((number, below), (3, 3));
    second.answer::<DropQueue>(id, &Dropped { messages: 5 }).await;
    assert_eq!(soon(next).await.unwrap().messages, 5);
}

#[tokio::test]
async fn receives_and_what_changes_nothing_go_on_at_another_server() {
    let mut two = Two::new().await;
    let receive = two.client.start(parked()).await.unwrap();
    let ping = two.client.start(Ping).await.unwrap();
    let (receive_id, ..) = two.first.next_numbers().await;
    let (ping_id, ..) = two.first.next().await;
    let (_client, mut second) = two.fail_over().await;
    assert_eq!(second.next().await.0, ping_id);
    assert_eq!(second.next_numbers().await, (receive_id, 1, 1));
    second.answer::<Ping>(ping_id, &Pong { time_ms: 7 }).await;
    assert_eq!(soon(ping).await.unwrap().time_ms, 7);
    second.answer::<Receive>(receive_id, &delivery(0)).await;
    assert_eq!(soon(receive).await.unwrap(), delivery(0));
}

#[tokio::test]
async fn change_that_was_not_made_is_made_by_another_server() {
    let mut two = Two::new().await;
    // Refused by a server that shuts down.
    let refused = two.client.start(change()).await.unwrap();
    let (refused_id, ..) = two.first.next_numbers().await;
    two.first.refuse::<DropQueue>(refused_id, ErrorCode::Closing).await;
    let (client, mut second) = two.fail_over().await;
    assert_eq!(second.next_numbers().await, (refused_id, 1, 1));
    second.answer::<DropQueue>(refused_id, &Dropped { messages: 6 }).await;
    assert_eq!(soon(refused).await.unwrap().messages, 6);
    drop(client);
}

#[tokio::test]
async fn server_at_another_address_with_the_same_data_repeats_everything() {
    let mut two = Two::new().await;
    let sent = two.client.start(change()).await.unwrap();
    let (id, ..) = two.first.next_numbers().await;
    let [first, listener] = two.listeners;
    drop((two.first, first));
    let mut second = Server::accept(&listener).await;
    assert_eq!(second.next_numbers().await, (id, 1, 1));
    second.answer::<DropQueue>(id, &Dropped { messages: 8 }).await;
    assert_eq!(soon(sent).await.unwrap().messages, 8);
}
