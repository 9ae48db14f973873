//! What a plugin may ask for, what it is refused, and how its outputs are numbered.

use serde_json::{Value, json};

use super::*;
use crate::context::testing::{Event, Recorder};
use crate::wire::ids::NodeId;

struct Bench {
    recorder: Arc<Recorder>,
    sink: ContextSink,
    session: SessionId,
}

fn bench(message_id: &str) -> Bench {
    let (recorder, queue) = Recorder::queue();
    let session = SessionId::random(&NodeId::random().unwrap()).unwrap();
    let options = ContextOptions {
        queue,
        plugin: "chat".into(),
        message_id: message_id.to_owned(),
        session: Some(session.clone()),
        local: None,
        frame_bytes_max: 200,
    };
    Bench { recorder, sink: ContextSink::new(options, NameLimits::from(&Settings::default())), session }
}

impl Bench {
    async fn ask(&self, operation: HostOperation, input: Value) -> Answer {
        self.sink.request(operation, input.to_string().into()).await
    }

    async fn refusal(&self, operation: HostOperation, input: Value) -> String {
        let answer = self.ask(operation, input).await;
        assert_eq!(answer.status, Status::Rejected, "{answer:?}");
        let reject: RejectWire = serde_json::from_slice(&answer.bytes).unwrap();
        assert_eq!(reject.code, "invalid");
        assert!(self.recorder.events().is_empty(), "a refused request reaches nobody");
        reject.message
    }
}

#[tokio::test]
async fn outputs_leave_in_order_and_count_up() {
    let bench = bench("m");
    let inputs = [
        (HostOperation::Send, json!({"to": {"group": "g"}, "except": "c", "action": "text", "data": [1, 2]})),
        (HostOperation::Send, json!({"to": "all", "action": "text", "data": null})),
        (HostOperation::Join, json!({"connection_id": "c", "group": "g"})),
        (HostOperation::Leave, json!({"connection_id": "c", "group": "g"})),
        (HostOperation::Disconnect, json!({"connection_id": "c", "reason": "ä".repeat(100)})),
    ];
    for (operation, input) in inputs {
        assert_eq!(bench.ask(operation, input).await, Answer { status: Status::Done, bytes: Bytes::new() });
    }
    let sent: Vec<Delivery> = bench
        .recorder
        .events()
        .into_iter()
        .filter_map(|event| match event {
            Event::Sent(delivery) => Some(delivery),
            _ => None,
        })
        .collect();
    let origins: Vec<u32> = sent.iter().map(|delivery| delivery.origin.as_ref().unwrap().index).collect();
    assert_eq!(origins, [0, 1, 2, 3, 4]);
    assert_eq!((&sent[0].to[0], sent[0].except.as_deref()), (&Address::Group("g".to_owned()), Some("c")));
    assert_eq!(sent[0].body, Body::Message { action: "text".to_owned(), data: Json::encode(&[1, 2]).unwrap() });
    assert_eq!(sent[1].to, [Address::All]);
    assert_eq!(sent[2].body, Body::Join("g".to_owned()));
    assert_eq!(sent[3].body, Body::Leave("g".to_owned()));
    assert_eq!(sent[4].body, Body::Close("ä".repeat(61)), "a close frame has room for 123 bytes");
    assert_eq!(bench.sink.next_index(), 5);
}

#[tokio::test]
async fn limits_are_told_to_the_plugin() {
    let bench = bench("");
    let send = |to: Value, action: &str, data: Value| json!({"to": to, "action": action, "data": data});
    let long = "x".repeat(201);
    for (input, words) in [
        (send(json!("all"), "text", json!("x".repeat(200))), "the limit is 200 bytes"),
        (send(json!("all"), "", json!(1)), "action must have 1 to 128 bytes"),
        (send(json!("all"), "a\nb", json!(1)), "control characters"),
        (send(json!("all"), "register", json!(1)), "reserved"),
        (send(json!({"group": long}), "a", json!(1)), "group must have 1 to 200 bytes"),
        (send(json!({"user": ""}), "a", json!(1)), "user id must have"),
        (json!({"to": "all", "action": "a"}), "request can't be read"),
    ] {
        let text = bench.refusal(HostOperation::Send, input).await;
        assert!(text.contains(words), "{words}: {text}");
    }
    let raw = Bytes::from_static(b"{\"to\":\"all\",\"action\":\"a\",\"data\":{]}");
    assert_eq!(bench.sink.request(HostOperation::Send, raw).await.status, Status::Rejected);
    let deep = Bytes::from(format!("{{\"to\":\"all\",\"action\":\"a\",\"data\":{}{}}}", "[".repeat(70), "]".repeat(70)));
    assert_eq!(bench.sink.request(HostOperation::Send, deep).await.status, Status::Rejected);
    assert!(bench.refusal(HostOperation::Connections, Value::Null).await.contains("handler"));
    let far = json!({"delay_ms": 31_u64 * 24 * 3600 * 1000, "action": "a", "data": 1});
    assert!(bench.refusal(HostOperation::Later, far).await.contains("30 days"));
}

#[tokio::test]
async fn an_unreachable_queue_is_worth_another_attempt_and_a_bad_request_is_not() {
    let bench = bench("");
    let get = json!({"op": "get", "key": "k"});
    *bench.recorder.failure.lock().unwrap() = Some(QueueError::Unreachable("down".to_owned()));
    assert_eq!(bench.ask(HostOperation::Store, get.clone()).await.status, Status::Retry);
    *bench.recorder.failure.lock().unwrap() = Some(QueueError::Invalid("value is too long".to_owned()));
    assert_eq!(bench.refusal(HostOperation::Store, get.clone()).await, "value is too long");
    *bench.recorder.failure.lock().unwrap() = None;
    assert_eq!(bench.ask(HostOperation::Store, get).await.status, Status::Done);
    assert!(matches!(&bench.recorder.events()[..], [Event::Stored(plugin, StoreRequest::Get { key })] if plugin == "chat" && key == "k"));
}

#[tokio::test]
async fn later_belongs_to_the_sender_and_keeps_its_id_at_every_attempt() {
    let bench = bench("m");
    let input = json!({"delay_ms": 1500, "action": "report", "data": {"n": 1}});
    let info = json!({"connection_id": "alice", "user_id": "7", "node": "n"});
    *bench.recorder.known.lock().unwrap() = Some(serde_json::from_value(info).unwrap());
    assert_eq!(bench.ask(HostOperation::Later, input).await.status, Status::Done);
    let events = bench.recorder.events();
    let [Event::Scheduled(job, delay)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(*delay, Duration::from_millis(1500));
    assert_eq!((job.session.clone(), job.connection_id.as_ref(), job.user_id.as_deref()), (bench.session.clone(), "alice", Some("7")));
    assert_eq!((job.sequence, job.message_id().as_str()), (0, "m+0"));
    assert!(job.time_ms >= now_ms() + 1000, "its waiting time counts from when it is due");
}

#[tokio::test]
async fn connections_are_looked_up() {
    let bench = bench("");
    assert_eq!(bench.ask(HostOperation::Connection, json!("alice")).await.bytes, "null");
    let info = json!({"connection_id": "alice", "user_id": "7", "node": "n", "groups": []});
    *bench.recorder.known.lock().unwrap() = Some(serde_json::from_value(info).unwrap());
    for operation in [HostOperation::Connection, HostOperation::UserConnections, HostOperation::Members] {
        let answer = bench.ask(operation, json!("x")).await;
        assert!(String::from_utf8_lossy(&answer.bytes).contains("alice"), "{operation:?}");
    }
}
