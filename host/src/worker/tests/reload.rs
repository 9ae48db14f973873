//! The whole way on the memory queue with the real chat plugin, replaced while messages flow.

use std::fs;

use super::*;
use crate::plugin::testing::{chat_library, launcher};
use crate::plugin::{Registry, RegistryOptions, Roles, Trust};
use crate::queue::{Entry, NodeFeed, QueueOptions, Stored, memory};

const SESSIONS: usize = 4;
const MESSAGES: u64 = 300;

fn options() -> QueueOptions {
    QueueOptions {
        app: "test".to_owned(),
        partitions: 8,
        partition_jobs_max: 10_000,
        batcher_items_max: 10_000,
        confirm_timeout: Duration::from_secs(1),
        lease: Duration::from_secs(5),
        partition_held_max: 1_000,
        dead_max: 10,
        dead_age_max: Duration::from_secs(60),
        store_ttl: Duration::ZERO,
        php_lists: Vec::new(),
        php_item_bytes_max: 1024,
        php_prefix: String::new(),
        php_waiting_max: 10,
        php_in_lists: Vec::new(),
        tls: crate::queue::TlsFiles::default(),
    }
}

async fn next(feed: &mut Box<dyn NodeFeed>) -> Vec<crate::wire::delivery::Delivery> {
    time::timeout(SOON, feed.receive()).await.expect("nothing arrives").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replacing_the_plugin_loses_and_reorders_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let plugins_dir = folder.path().join("plugins");
    fs::create_dir(&plugins_dir).unwrap();
    fs::copy(chat_library(), plugins_dir.join("libchat.so")).unwrap();
    let settings: Settings = toml::from_str("[actions]\necho = \"chat\"").unwrap();
    let settings = Settings { plugins_dir: plugins_dir.clone(), state_dir: folder.path().join("var"), ..settings };
    let settings = Arc::new(ArcSwap::from_pointee(settings));
    let roles = Roles { handler: false, actions: true };
    let registry = Registry::start(RegistryOptions { roles, settings: Arc::clone(&settings), launcher: launcher(), trust: Trust::Warned })
        .await
        .unwrap();
    let first = registry.action("echo").unwrap().version.clone();

    let queue = memory::open(options());
    let (node, stop) = (NodeId::random().unwrap(), CancellationToken::new());
    let mut feed = queue.presence.open(&node).await.unwrap();
    let sessions: Vec<SessionId> = (0..SESSIONS).map(|_| SessionId::random(&node).unwrap()).collect();
    for session in &sessions {
        let entry = Entry {
            session: session.clone(),
            connection_id: session.to_string(),
            user_id: None,
            groups: Vec::new(),
            identity: Bytes::new(),
        };
        queue.presence.enter(&entry, None).await.unwrap();
    }
    let worker = NodeId::random().unwrap();
    let worker = tokio::spawn(run(queue.clone(), Arc::clone(&registry) as _, settings, worker, stop.clone()));

    let (inbox, senders) = (Arc::clone(&queue.inbox), sessions.clone());
    let sending = tokio::spawn(async move {
        for sequence in 1..=MESSAGES {
            for session in &senders {
                let job = Job { action: "echo".to_owned(), client_id: ClientId::parse(&sequence.to_string()), ..job(session, sequence) };
                let on_stored = Box::new(|stored| assert_eq!(stored, Stored::Yes));
                assert!(inbox.offer(job, on_stored).is_ok(), "the queue is full");
            }
            time::sleep(Duration::from_millis(2)).await;
        }
    });
    let replacing = Arc::clone(&registry);
    let draft = folder.path().join("draft");
    let reloads = tokio::spawn(async move {
        for build in 0..5 {
            let mut bytes = fs::read(chat_library()).unwrap();
            bytes.extend_from_slice(format!("build {build}").as_bytes());
            fs::write(&draft, bytes).unwrap();
            fs::rename(&draft, plugins_dir.join("libchat.so")).unwrap();
            replacing.apply().await;
        }
    });

    let mut expected = [1_u64; SESSIONS];
    while expected.iter().any(|next| *next <= MESSAGES) {
        for delivery in next(&mut feed).await {
            let Body::Reply { client_id: Some(id), .. } = &delivery.body else { panic!("{delivery:?}") };
            let at = sessions.iter().position(|session| delivery.to == [Address::Session(session.clone())]).unwrap();
            assert_eq!(id.as_json(), expected[at].to_string(), "session {at} is out of order");
            expected[at] += 1;
        }
    }
    sending.await.unwrap();
    reloads.await.unwrap();
    assert_ne!(registry.action("echo").unwrap().version, first);
    stop.cancel();
    assert_eq!(time::timeout(SOON, worker).await.unwrap().unwrap().unwrap(), Drained { cut: 0 });
    registry.close().await;
}
