//! A WebSocket client that speaks the JSON protocol and remembers what it did not wait for.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::PATIENCE;
use super::authority::Authority;

/// What a connection runs on: TCP, or TLS over it.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// How the server closed a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// The close frame's code; 1005 when it had none, 1006 when the connection ended without a close frame.
    pub code: u16,
    /// The close frame's reason, or the network's error.
    pub reason: String,
}

/// One connection. Frames that were not waited for stay in order in its inbox.
pub struct Client {
    socket: WebSocketStream<Box<dyn Wire>>,
    inbox: VecDeque<Value>,
    next_id: u64,
    closed: Option<Closed>,
    patience: Duration,
}

impl Client {
    /// Connects.
    ///
    /// # Panics
    /// When the upgrade is refused or takes too long.
    pub async fn connect(url: &str) -> Self {
        Self::try_connect(url, &[]).await.unwrap_or_else(|why| panic!("can't connect to {url}: {why}"))
    }

    /// Connects with further request headers.
    ///
    /// # Errors
    /// Why there is no connection: `HTTP <status>` for a refused upgrade, otherwise the error's text.
    pub async fn try_connect(url: &str, headers: &[(&'static str, &str)]) -> Result<Self, String> {
        Self::open(url, headers, None).await
    }

    /// As [`Self::try_connect`], to a `wss://` address whose certificate is signed by `authority`.
    ///
    /// # Errors
    /// As [`Self::try_connect`].
    pub async fn try_connect_tls(url: &str, authority: &Authority) -> Result<Self, String> {
        Self::open(url, &[], Some(authority)).await
    }

    async fn open(url: &str, headers: &[(&'static str, &str)], authority: Option<&Authority>) -> Result<Self, String> {
        let mut request = url.into_client_request().map_err(|error| error.to_string())?;
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        // The default read buffer is 128 KiB for each of perhaps a thousand connections.
        let settings = WebSocketConfig::default().read_buffer_size(4096);
        let address = request.uri().authority().map(ToString::to_string).ok_or("an address without a host")?;
        let connecting = async {
            let socket = TcpStream::connect(address).await?;
            let wire: Box<dyn Wire> = match authority {
                Some(authority) => Box::new(authority.connect(socket, &[]).await?),
                None => Box::new(socket),
            };
            client_async_with_config(request, wire, Some(settings)).await
        };
        match tokio::time::timeout(PATIENCE, connecting).await {
            Ok(Ok((socket, _))) => Ok(Self { socket, inbox: VecDeque::new(), next_id: 1, closed: None, patience: PATIENCE }),
            Ok(Err(Error::Http(response))) => Err(format!("HTTP {}", response.status().as_u16())),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {PATIENCE:?}")),
        }
    }

    /// Connects and registers with a nickname; the room of most tests.
    pub async fn enter(url: &str, nickname: &str) -> Self {
        let mut client = Self::connect(url).await;
        client.register(json!({ "nickname": nickname })).await;
        client
    }

    /// Changes how long this client waits for anything.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Registers and gives back the data of `registered`.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn register(&mut self, data: Value) -> Value {
        self.request("register", data).await
    }

    /// Sends a request and gives back its reply's data.
    ///
    /// # Panics
    /// When the answer is an error, or none comes in time.
    pub async fn request(&mut self, action: &str, data: Value) -> Value {
        self.try_request(action, data).await.unwrap_or_else(|error| panic!("{action} was answered with the error {error}"))
    }

    /// Sends a request and waits for the answer with its id.
    ///
    /// # Errors
    /// The error's data: `{"code", "message", …}`.
    ///
    /// # Panics
    /// When no answer comes in time.
    pub async fn try_request(&mut self, action: &str, data: Value) -> Result<Value, Value> {
        let id = self.send_request(action, data).await;
        self.answer(&id).await
    }

    /// Sends a request without waiting; [`Self::answer`] waits for the id it gives back.
    pub async fn send_request(&mut self, action: &str, data: Value) -> Value {
        let id = Value::from(self.next_id.to_string());
        self.next_id += 1;
        self.send(action, data, Some(&id)).await;
        id
    }

    /// Waits for the answer with this id.
    ///
    /// # Errors
    /// The error's data.
    ///
    /// # Panics
    /// When no answer comes in time.
    pub async fn answer(&mut self, id: &Value) -> Result<Value, Value> {
        let mut frame = self.next_where(&format!("the answer to {id}"), |frame| frame.get("id") == Some(id)).await;
        let data = frame.get_mut("data").map(Value::take).unwrap_or_default();
        if frame["action"] == "error" { Err(data) } else { Ok(data) }
    }

    /// Sends one message.
    pub async fn send(&mut self, action: &str, data: Value, id: Option<&Value>) {
        let mut frame = json!({ "action": action, "data": data });
        if let Some(id) = id {
            frame["id"] = id.clone();
        }
        self.send_raw(Message::text(frame.to_string())).await;
    }

    /// Sends any frame.
    ///
    /// # Panics
    /// When the connection is gone or takes nothing more.
    pub async fn send_raw(&mut self, message: Message) {
        tokio::time::timeout(self.patience, self.socket.send(message))
            .await
            .expect("the server reads no more")
            .expect("the connection is gone");
    }

    /// Waits for a frame with this action that answers no request, and gives back its data.
    pub async fn next_action(&mut self, action: &str) -> Value {
        let what = format!("a frame with action {action:?}");
        let mut frame = self.next_where(&what, |frame| frame["action"] == action && frame.get("id").is_none()).await;
        frame.get_mut("data").map(Value::take).unwrap_or_default()
    }

    /// Waits for the first frame, in the inbox or still to come, that `wanted` accepts; the others stay in the inbox.
    ///
    /// # Panics
    /// When none comes in time, or the connection ends before.
    pub async fn next_where(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        if let Some(index) = self.inbox.iter().position(&wanted) {
            return self.inbox.remove(index).unwrap();
        }
        let end = Instant::now() + self.patience;
        loop {
            match self.receive(end).await {
                Some(frame) if wanted(&frame) => return frame,
                Some(frame) => self.inbox.push_back(frame),
                None => panic!("no {what}: {}; the inbox has {:?}", self.why_silent(), self.inbox),
            }
        }
    }

    /// The answer with this id; `None` when the connection ends before, or nothing comes in time.
    pub async fn next_or_closed(&mut self, id: &Value) -> Option<Value> {
        let end = Instant::now() + self.patience;
        loop {
            let frame = self.receive(end).await?;
            if frame.get("id") == Some(id) {
                return Some(frame);
            }
            self.inbox.push_back(frame);
        }
    }

    /// Everything received so far and within the next `time`, in order, leaving the inbox empty. For assertions that something does not come.
    pub async fn drain(&mut self, time: Duration) -> Vec<Value> {
        let end = Instant::now() + time;
        while let Some(frame) = self.receive(end).await {
            self.inbox.push_back(frame);
        }
        self.inbox.drain(..).collect()
    }

    /// Waits until the server closes the connection; frames before that stay in the inbox.
    ///
    /// # Panics
    /// When it does not in time.
    pub async fn wait_closed(&mut self) -> Closed {
        let end = Instant::now() + self.patience;
        while let Some(frame) = self.receive(end).await {
            self.inbox.push_back(frame);
        }
        self.closed.clone().unwrap_or_else(|| panic!("the server did not close the connection: {}", self.why_silent()))
    }

    /// How the connection ended, when it has been seen to end.
    pub fn closed(&self) -> Option<&Closed> {
        self.closed.as_ref()
    }

    /// Closes orderly. Dropping the client instead just cuts the connection.
    pub async fn close(mut self) {
        let _ = tokio::time::timeout(self.patience, self.socket.close(None)).await;
        if self.closed.is_none() {
            self.wait_closed().await;
        }
    }

    /// The next JSON frame; `None` at `end`, or once the connection is closed.
    async fn receive(&mut self, end: Instant) -> Option<Value> {
        while self.closed.is_none() {
            let closed = match timeout_at(end, self.socket.next()).await.ok()? {
                Some(Ok(Message::Text(text))) => {
                    return Some(serde_json::from_str(&text).unwrap_or_else(|error| panic!("not JSON ({error}): {text}")));
                }
                Some(Ok(Message::Close(Some(frame)))) => Closed { code: frame.code.into(), reason: frame.reason.to_string() },
                Some(Ok(Message::Close(None))) => Closed { code: 1005, reason: String::new() },
                Some(Ok(_)) => continue,
                Some(Err(error)) => Closed { code: 1006, reason: error.to_string() },
                None => Closed { code: 1006, reason: "end of stream".to_owned() },
            };
            // The answering close frame is sent by the next read.
            let _ = timeout_at(end, self.socket.next()).await;
            self.closed = Some(closed);
        }
        None
    }

    fn why_silent(&self) -> String {
        self.closed.as_ref().map_or_else(|| format!("nothing came within {:?}", self.patience), |closed| format!("{closed:?}"))
    }
}
