//! Connecting: servers that are there, are not, or are something else.

use std::io::ErrorKind;

use super::*;

#[tokio::test]
async fn server_introduces_itself() {
    let (place, _listener, client, server) = pair(Options::default()).await;
    assert_eq!(client.server(), preamble());
    assert_eq!(client.welcome().server, "1.2.3");
    assert_eq!(client.address(), place.address());
    assert_eq!(client.producer(), server.producer);
    assert_ne!(server.producer, 0);
}

/// What a server that says `greeting` and then closes or hangs is told from.
async fn failure(greeting: &[u8], hangs: bool) -> ClientError {
    let place = Place::new();
    let listener = place.listen();
    let options = Options { connect_timeout: Duration::from_millis(200), ..Options::default() };
    let greeting = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut bytes = [0; CLIENT_BYTES];
        socket.read_exact(&mut bytes).await.unwrap();
        socket.write_all(greeting).await.unwrap();
        if hangs {
            std::future::pending::<()>().await;
        }
        drop(socket);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        result = soon(place.connect(options)) => result.unwrap_err(),
        () = greeting => unreachable!(),
    }
}

#[tokio::test]
async fn servers_that_cannot_be_used_are_told_apart() {
    let error = failure(b"HTTP/1.1 400\r\n\r\n", true).await;
    assert!(matches!(error, ClientError::Protocol { .. }), "{error}");
    let status = |status| ServerPreamble { status, ..preamble() }.to_bytes();
    let error = failure(&status(Status::TooManyConnections), false).await;
    assert!(matches!(error, ClientError::Busy { .. }), "{error}");
    let theirs = VersionRange { lowest: 2, highest: 7 };
    let newer = ServerPreamble {
        versions: theirs,
        chosen: 0,
        status: Status::NoCommonVersion,
        ..preamble()
    };
    let error = failure(&newer.to_bytes(), false).await;
    assert_eq!(
        error.to_string().split_once(" speaks ").unwrap().1,
        "protocol version 2 to 7, this client 1"
    );
    for greeting in [&b""[..], b"QD", &preamble().to_bytes()] {
        let error = failure(greeting, false).await;
        assert!(matches!(error, ClientError::Lost { .. }), "{error}");
        let error = failure(greeting, true).await;
        let timed_out = ErrorKind::TimedOut;
        assert!(matches!(error, ClientError::Unreachable { kind, .. } if kind == timed_out));
    }
}

#[tokio::test]
async fn address_that_answers_is_found_and_errors_that_tell_more_win() {
    let place = Place::new();
    let missing = Address::unix("/nonexistent/s").unwrap();
    let result = Client::connect(std::slice::from_ref(&missing), Options::default()).await;
    let error = result.unwrap_err();
    assert!(matches!(&error, ClientError::Unreachable { kind: ErrorKind::NotFound, .. }));
    drop(place.listen());
    let addresses = [place.address(), missing];
    let error = Client::connect(&addresses, Options::default()).await.unwrap_err();
    let refused = ErrorKind::ConnectionRefused;
    assert!(matches!(&error, ClientError::Unreachable { kind, .. } if *kind == refused));
    let text = format!(
        "cannot connect to {}: nobody listens there; cannot connect to unix:/nonexistent/s: no such socket",
        place.address()
    );
    assert_eq!(error.to_string(), text);
    let listener = place.listen();
    let [there, missing] = addresses;
    let addresses = [missing, there];
    let connecting = Client::connect(&addresses, Options::default());
    let (client, _server) = tokio::join!(connecting, Server::accept(&listener));
    assert_eq!(client.unwrap().address(), addresses[1]);
}

#[tokio::test]
async fn address_that_never_answers_leaves_time_for_the_next_one() {
    let (silent, place) = (Place::new(), Place::new());
    let (_silent, listener) = (silent.listen(), place.listen());
    let addresses = [silent.address(), place.address()];
    let options = Options { connect_timeout: Duration::from_secs(2), ..Options::default() };
    let since = Instant::now();
    let connecting = Client::connect(&addresses, options);
    let (client, _server) = tokio::join!(connecting, Server::accept(&listener));
    assert_eq!(client.unwrap().address(), addresses[1]);
    assert!(since.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn tcp_server_is_found_by_its_name() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::Tcp(format!("localhost:{}", listener.local_addr().unwrap().port()));
    let serving = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut bytes = [0; CLIENT_BYTES];
        socket.read_exact(&mut bytes).await.unwrap();
        let busy = ServerPreamble { status: Status::TooManyConnections, ..preamble() };
        socket.write_all(&busy.to_bytes()).await.unwrap();
    };
    let addresses = [address];
    let connecting = Client::connect(&addresses, Options::default());
    let (result, ()) = soon(async { tokio::join!(connecting, serving) }).await;
    assert!(matches!(result, Err(ClientError::Busy { .. })), "{result:?}");
}

#[tokio::test]
async fn no_address_is_no_server() {
    let error = Client::connect(&[], Options::default()).await.unwrap_err();
    let invalid = ErrorKind::InvalidInput;
    assert!(matches!(error, ClientError::Unreachable { kind, .. } if kind == invalid));
}
