//! A running server, its scripted handler, and clients on real sockets.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use plugsocket_plugin::call::{Operation, Status};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{WebSocketStream, client_async};
use tokio_util::sync::CancellationToken;

use super::queue::{self, TestQueue};
use crate::config::{ActionSettings, Settings};
use crate::plugin::{Answer, Call as HandlerCall, CallError, Callee, LiveVersion, Plugins};
use crate::queue::ListItem;
use crate::server::{Drained, Server, Sessions};
use crate::wire::delivery::Delivery;
use crate::wire::ids::NodeId;
use crate::wire::job::Job;

pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// A call the handler got.
pub(super) type Call = (Operation, Value);

/// `connect` grants what the frame's data asks for (`{"connection_id", "user_id", "groups", …}`), or does as `do` says; a fallback answers its data.
/// Calls whose input holds `"hold"` wait for a permit of `gate`.
pub(super) struct Script {
    pub calls: mpsc::UnboundedSender<Call>,
    pub gate: Semaphore,
    pub failures: Mutex<u32>,
    pub loops: AtomicUsize,
    pub is_loop_held: AtomicBool,
}

#[async_trait]
impl Callee for Script {
    async fn call(&self, call: HandlerCall) -> Result<Answer, CallError> {
        let limit = call.timeout.unwrap_or(Duration::MAX);
        timeout(limit, self.run(call.operation, call.input)).await.unwrap_or(Err(CallError::TimedOut))
    }

    fn ends_calls(&self) -> bool {
        false
    }
}

impl Script {
    async fn run(&self, operation: Operation, input: Bytes) -> Result<Answer, CallError> {
        if operation == Operation::Loop {
            self.loops.fetch_add(1, Ordering::SeqCst);
            if self.is_loop_held.load(Ordering::SeqCst) {
                self.gate.acquire().await.unwrap().forget();
            }
            return Ok(Answer { status: Status::Done, bytes: Bytes::new() });
        }
        let mut call: Value = serde_json::from_slice(&input).unwrap();
        let _ = self.calls.send((operation, call.clone()));
        // During an upgrade there is no data but what a header says.
        let header = call["headers"].as_array().and_then(|headers| headers.iter().find(|header| header[0] == "x-data"));
        if let Some(data) = header.filter(|_| call["data"].is_null()).and_then(|header| header[1].as_str()) {
            call["data"] = serde_json::from_str(data).unwrap();
        }
        if call.to_string().contains("\"hold\"") {
            self.gate.acquire().await.unwrap().forget();
        }
        if operation != Operation::Connect {
            let mut failures = self.failures.lock().unwrap();
            if *failures > 0 {
                *failures -= 1;
                return Ok(Answer { status: Status::Panicked, bytes: Bytes::from_static(b"boom") });
            }
        }
        let (status, bytes) = match (operation, call["data"]["do"].as_str()) {
            (Operation::Connect, Some("refuse")) => {
                (Status::Rejected, json!({"reason": "no entry", "keep_open": false, "status": call["data"]["status"]}).to_string())
            }
            (Operation::Connect, Some("refuse_softly")) => (Status::Rejected, json!({"reason": "not yet", "keep_open": true}).to_string()),
            (Operation::Connect, Some("panic")) => (Status::Panicked, "boom".to_owned()),
            (Operation::Connect, _) if call["data"].is_object() => (Status::Done, call["data"].to_string()),
            (Operation::Connect | Operation::Disconnect, _) => (Status::Done, String::new()),
            (_, Some("reject")) => (Status::Rejected, json!({"code": "no_room", "message": "no"}).to_string()),
            (_, Some("silent")) => (Status::Done, String::new()),
            _ => (Status::Done, call["data"].to_string()),
        };
        Ok(Answer { status, bytes: bytes.into() })
    }
}

pub(super) struct TestPlugins(pub Mutex<Option<Arc<LiveVersion>>>);

impl Plugins for TestPlugins {
    fn action(&self, _action: &str) -> Option<Arc<LiveVersion>> {
        None
    }

    fn handler(&self) -> Option<Arc<LiveVersion>> {
        self.0.lock().unwrap().clone()
    }
}

pub(super) struct House {
    pub address: std::net::SocketAddr,
    pub sessions: Sessions,
    pub script: Arc<Script>,
    pub plugins: Arc<TestPlugins>,
    pub queue: Arc<TestQueue>,
    pub deliveries: mpsc::UnboundedSender<Delivery>,
    pub sent: mpsc::UnboundedReceiver<Delivery>,
    pub stop: CancellationToken,
    calls: mpsc::UnboundedReceiver<Call>,
    jobs: mpsc::UnboundedReceiver<Job>,
    items: mpsc::UnboundedReceiver<ListItem>,
    running: JoinHandle<Drained>,
}

impl House {
    /// A server whose known action is `known`, with its settings changed by `change`.
    pub async fn open(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::default();
        settings.server.listen = ([127, 0, 0, 1], 0).into();
        settings.actions.insert("known".to_owned(), ActionSettings::of("chat"));
        change(&mut settings);
        let settings = Arc::new(arc_swap::ArcSwap::from_pointee(settings));
        let queue::Opened { queue, inside, jobs, items, deliveries, sent } = queue::open();
        let (called, calls) = mpsc::unbounded_channel();
        let script = Arc::new(Script {
            calls: called,
            gate: Semaphore::new(0),
            failures: Mutex::new(0),
            loops: AtomicUsize::new(0),
            is_loop_held: AtomicBool::new(false),
        });
        let live = LiveVersion { plugin: "chat".into(), version: "1".into(), callee: script.clone() };
        let plugins = Arc::new(TestPlugins(Mutex::new(Some(Arc::new(live)))));
        let server = Server::bind(queue, plugins.clone(), settings, NodeId::random().unwrap()).await.unwrap();
        let (address, sessions, stop) = (server.local_addr(), server.sessions(), CancellationToken::new());
        let running = tokio::spawn(server.run(stop.clone()));
        Self { address, sessions, script, plugins, queue: inside, deliveries, sent, stop, calls, jobs, items, running }
    }

    pub async fn client(&self) -> Client {
        self.client_with("/ws?room=1", &[]).await.0
    }

    /// A client with this target and further headers, and the subprotocol it was answered.
    pub async fn client_with(&self, target: &str, headers: &[(&'static str, &str)]) -> (Client, Option<String>) {
        let socket = TcpStream::connect(self.address).await.unwrap();
        let mut request = format!("ws://{}{target}", self.address).into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let (stream, answer) = timeout(PATIENCE, client_async(request, socket)).await.unwrap().unwrap();
        let protocol = answer.headers().get("sec-websocket-protocol").map(|value| value.to_str().unwrap().to_owned());
        (Client { stream }, protocol)
    }

    /// A client that has registered with this data.
    pub async fn registered(&mut self, data: Value) -> Client {
        let mut client = self.client().await;
        client.send(json!({"action": "register", "data": data})).await;
        assert_eq!(client.next().await["action"], "registered");
        assert_eq!(self.call().await.0, Operation::Connect);
        client
    }

    pub async fn call(&mut self) -> Call {
        timeout(PATIENCE, self.calls.recv()).await.expect("a handler call").unwrap()
    }

    pub fn try_call(&mut self) -> Option<Call> {
        self.calls.try_recv().ok()
    }

    /// The next call is a `disconnect`, with this reason.
    pub async fn disconnected(&mut self, reason: &str) -> Value {
        let (operation, call) = self.call().await;
        assert_eq!((operation, call["reason"].as_str()), (Operation::Disconnect, Some(reason)), "{call}");
        call["identity"].clone()
    }

    /// No call has come that was not asked for. Meaningful once everything that could call has ended.
    pub fn no_more_calls(&mut self) {
        assert!(self.calls.try_recv().is_err());
    }

    pub async fn job(&mut self) -> Job {
        timeout(PATIENCE, self.jobs.recv()).await.expect("a job").unwrap()
    }

    /// The next message that was pushed to a list: the list, and what PHP reads.
    pub async fn item(&mut self) -> (String, Value) {
        let item = timeout(PATIENCE, self.items.recv()).await.expect("an item").unwrap();
        (item.list, serde_json::from_slice(&item.item).unwrap())
    }

    pub async fn drained(&mut self) -> Drained {
        self.stop.cancel();
        timeout(PATIENCE, &mut self.running).await.expect("the server ends").unwrap()
    }
}

/// Waits until a condition holds.
pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    timeout(PATIENCE, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("in vain: {what}"));
}

pub(super) struct Client {
    pub stream: WebSocketStream<TcpStream>,
}

impl Client {
    pub async fn send(&mut self, frame: Value) {
        self.send_text(&frame.to_string()).await;
    }

    pub async fn send_text(&mut self, text: &str) {
        self.stream.send(Message::text(text)).await.unwrap();
    }

    pub async fn message(&mut self) -> Message {
        timeout(PATIENCE, self.stream.next()).await.expect("a message").expect("an open socket").unwrap()
    }

    pub async fn next(&mut self) -> Value {
        loop {
            match self.message().await {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) => {}
                other => panic!("{other:?} instead of a frame"),
            }
        }
    }

    pub async fn ask(&mut self, frame: Value) -> Value {
        self.send(frame).await;
        self.next().await
    }

    /// The code of the `error` that comes next.
    pub async fn error(&mut self) -> String {
        let frame = self.next().await;
        assert_eq!(frame["action"], "error", "{frame}");
        frame["data"]["code"].as_str().unwrap().to_owned()
    }

    /// Reads to the close frame and answers its code.
    pub async fn close_code(&mut self) -> u16 {
        loop {
            match self.message().await {
                Message::Close(frame) => return frame.expect("a code").code.into(),
                Message::Text(_) | Message::Ping(_) => {}
                other => panic!("{other:?} instead of a close frame"),
            }
        }
    }
}
