//! A node that others may take for dead: what its server still does for its sessions, and what it does for other nodes' orphans.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::harness::{House, until};
use crate::queue::{Entry, Estate, NodeLease, QueueError};
use crate::wire::delivery::{Address, Body, Delivery};
use crate::wire::ids::{NodeId, SessionId};

fn set_lease(house: &House, lease: NodeLease) {
    house.queue.lease.lock().unwrap().send_replace(lease);
}

fn over() -> NodeLease {
    NodeLease::Until(Instant::now())
}

#[tokio::test]
async fn a_disconnect_waits_for_the_lease_and_holds_nobody_up() {
    let mut house = House::open(|settings| settings.server.handler_calls_max = 1).await;
    let (first, second) = (house.registered(json!({"connection_id": "a"})).await, house.registered(json!({"connection_id": "b"})).await);
    let mut stays = house.registered(json!({})).await;
    set_lease(&house, over());
    drop((first, second));
    until("both wait", || house.sessions.handler_calls() == 2).await;
    assert_eq!(stays.ask(json!({"action": "echo", "data": 1})).await["data"], 1, "the only runner is free");
    house.call().await;
    assert!(house.try_call().is_none());
    set_lease(&house, NodeLease::Until(Instant::now() + Duration::from_secs(60)));
    let mut told =
        [house.disconnected("client").await["connection_id"].clone(), house.disconnected("client").await["connection_id"].clone()];
    told.sort_by_key(Value::to_string);
    assert_eq!(told, ["a", "b"]);
    until("the queue forgets them", || house.queue.entries.lock().unwrap().len() == 1).await;
}

#[tokio::test]
async fn a_lost_node_closes_its_sessions_and_comes_back_as_another() {
    let mut house = House::open(|_| {}).await;
    let mut clients = [house.registered(json!({"connection_id": "a"})).await, house.registered(json!({"connection_id": "b"})).await];
    let gone = house.registered(json!({"connection_id": "c"})).await;
    set_lease(&house, over());
    drop(gone);
    until("its disconnect waits", || house.sessions.handler_calls() == 1).await;
    set_lease(&house, NodeLease::Lost);
    for client in &mut clients {
        assert_eq!(client.close_code().await, 4104);
    }
    until("it is admitted again", || house.queue.nodes.lock().unwrap().len() == 2 && house.sessions.is_ready()).await;
    let newcomer = house.registered(json!({"connection_id": "d"})).await;
    let nodes = house.queue.nodes.lock().unwrap().clone();
    assert_ne!(nodes[0], nodes[1]);
    let of = |id: &str| house.queue.entries.lock().unwrap().values().find(|entry| entry.connection_id == id).unwrap().session.node();
    assert_eq!((of("a"), of("d")), (nodes[0].clone(), nodes[1].clone()));
    drop(newcomer);
    assert_eq!(house.disconnected("client").await["connection_id"], "d");
    house.drained().await;
    house.no_more_calls();
    assert_eq!(house.queue.entries.lock().unwrap().len(), 3, "the cleaner finds all that were announced");
}

#[tokio::test]
async fn what_was_never_announced_is_nobody_elses() {
    let mut house = House::open(|_| {}).await;
    set_lease(&house, over());
    *house.queue.is_announcing.lock().unwrap() = false;
    let mut client = house.client().await;
    client.send(json!({"action": "register", "data": {"connection_id": "a"}})).await;
    assert_eq!(client.error().await, "busy");
    house.call().await;
    assert_eq!(house.disconnected("lost").await["connection_id"], "a");
}

#[tokio::test]
async fn what_waits_at_the_end_of_a_drain_is_left_to_others() {
    let mut house = House::open(|settings| settings.server.drain_timeout = Duration::from_millis(300)).await;
    let client = house.registered(json!({})).await;
    set_lease(&house, over());
    drop(client);
    until("it waits", || house.sessions.handler_calls() == 1).await;
    assert_eq!(house.drained().await.calls_cut, 1);
    set_lease(&house, NodeLease::Always);
    tokio::time::sleep(Duration::from_millis(100)).await;
    house.no_more_calls();
    assert_eq!(house.queue.entries.lock().unwrap().len(), 1, "where they find it");
}

struct TestEstate {
    node: NodeId,
    left: Mutex<VecDeque<Entry>>,
    page: usize,
    buried: AtomicUsize,
    is_ours: AtomicBool,
    finished: AtomicBool,
    released: AtomicBool,
    lapses: Notify,
}

impl TestEstate {
    fn with(orphans: usize) -> Arc<Self> {
        let node = NodeId::random().unwrap();
        let orphan = |index: usize| {
            let (connection_id, user_id) = (format!("c{index}"), Some("7".to_owned()));
            let identity = json!({"connection_id": connection_id, "user_id": 7, "fields": {"nick": index}}).to_string().into();
            Entry { session: SessionId::random(&node).unwrap(), connection_id, user_id, groups: Vec::new(), identity }
        };
        let left = Mutex::new((0..orphans).map(orphan).collect());
        let (buried, is_ours, finished, released) = (AtomicUsize::new(0), true.into(), false.into(), false.into());
        Arc::new(Self { node, left, page: 5, buried, is_ours, finished, released, lapses: Notify::new() })
    }
}

#[async_trait]
impl Estate for TestEstate {
    fn node(&self) -> &NodeId {
        &self.node
    }

    fn is_ours(&self) -> bool {
        self.is_ours.load(Ordering::SeqCst)
    }

    async fn keep(&self) {
        self.lapses.notified().await;
    }

    async fn next(&self) -> Result<Option<Vec<Entry>>, QueueError> {
        let mut left = self.left.lock().unwrap();
        let page = self.page.min(left.len());
        Ok((page > 0).then(|| left.drain(..page).collect()))
    }

    async fn bury(&self, _orphan: &Entry) -> Result<(), QueueError> {
        self.buried.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn finish(&self) -> Result<bool, QueueError> {
        self.finished.store(true, Ordering::SeqCst);
        Ok(true)
    }

    async fn release(&self) {
        self.released.store(true, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn orphans_get_their_disconnect_and_are_buried() {
    let mut house = House::open(|_| {}).await;
    let estate = TestEstate::with(12);
    *house.script.failures.lock().unwrap() = 1;
    *house.queue.estate.lock().unwrap() = Some(estate.clone());
    let mut told = Vec::new();
    for _ in 0..13 {
        let identity = house.disconnected("node_lost").await;
        assert_eq!(
            (&identity["user_id"], identity["connection_id"].as_str().unwrap()),
            (&json!(7), format!("c{}", identity["fields"]["nick"]).as_str())
        );
        told.push(identity["connection_id"].to_string());
    }
    told.sort();
    told.dedup();
    assert_eq!(told.len(), 12, "each, and the one that failed once more");
    until("all are buried", || estate.finished.load(Ordering::SeqCst)).await;
    assert_eq!(estate.buried.load(Ordering::SeqCst), 12);
    house.drained().await;
    house.no_more_calls();
}

#[tokio::test]
async fn nothing_is_called_for_what_is_another_cleaners() {
    let mut house = House::open(|_| {}).await;
    let estate = TestEstate::with(3);
    estate.is_ours.store(false, Ordering::SeqCst);
    *house.queue.estate.lock().unwrap() = Some(estate.clone());
    until("it is left", || estate.released.load(Ordering::SeqCst)).await;
    house.drained().await;
    house.no_more_calls();
    assert_eq!(estate.buried.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_server_without_a_handler_adopts_nobody_and_stops_when_it_loses_its_own() {
    let mut house = House::open(|settings| settings.server.handler_attempts = 1).await;
    let live = house.plugins.0.lock().unwrap().take();
    let estate = TestEstate::with(30);
    for orphan in estate.left.lock().unwrap().iter_mut() {
        orphan.identity = json!({"fields": {"x": "hold"}}).to_string().into();
    }
    *house.queue.estate.lock().unwrap() = Some(estate.clone());
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(house.queue.estate.lock().unwrap().is_some());
    *house.plugins.0.lock().unwrap() = live;
    for _ in 0..estate.page {
        house.disconnected("node_lost").await;
    }
    *house.plugins.0.lock().unwrap() = None;
    house.script.gate.add_permits(estate.page);
    until("the rest is left to others", || estate.released.load(Ordering::SeqCst)).await;
    assert_eq!((estate.buried.load(Ordering::SeqCst), estate.finished.load(Ordering::SeqCst)), (estate.page, false));
}

#[tokio::test]
async fn a_claim_that_lapsed_is_not_taken_again_while_its_calls_are_under_way() {
    let mut house = House::open(|_| {}).await;
    let (estate, again) = (TestEstate::with(3), TestEstate::with(0));
    for orphan in estate.left.lock().unwrap().iter_mut() {
        orphan.identity = json!({"fields": {"x": "hold"}}).to_string().into();
    }
    *house.queue.estate.lock().unwrap() = Some(estate.clone());
    for _ in 0..3 {
        house.disconnected("node_lost").await;
    }
    *house.queue.estate.lock().unwrap() = Some(again.clone());
    estate.is_ours.store(false, Ordering::SeqCst);
    estate.lapses.notify_one();
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(house.queue.estate.lock().unwrap().is_some(), "it would find them there, and make the calls a second time");
    house.script.gate.add_permits(3);
    until("then it is", || again.finished.load(Ordering::SeqCst)).await;
    assert_eq!(estate.buried.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_call_that_failed_is_not_made_again_when_it_may_be_another_cleaners() {
    let mut house = House::open(|_| {}).await;
    let estate = TestEstate::with(1);
    estate.left.lock().unwrap()[0].identity = json!({"fields": {"x": "hold"}}).to_string().into();
    *house.script.failures.lock().unwrap() = 1;
    *house.queue.estate.lock().unwrap() = Some(estate.clone());
    house.disconnected("node_lost").await;
    estate.is_ours.store(false, Ordering::SeqCst);
    house.script.gate.add_permits(2);
    until("it is left", || estate.released.load(Ordering::SeqCst)).await;
    house.drained().await;
    house.no_more_calls();
    assert_eq!(estate.buried.load(Ordering::SeqCst), 0, "the other cleaner buries it");
}

#[tokio::test]
async fn a_disconnect_that_failed_is_not_made_again_when_the_node_is_lost() {
    let mut house = House::open(|_| {}).await;
    house.script.gate.add_permits(2);
    let [back, lost] = [house.registered(json!({"connection_id": "hold"})).await, house.registered(json!({"user_id": "hold"})).await];
    for client in [back, lost] {
        *house.script.failures.lock().unwrap() = 1;
        drop(client);
        house.disconnected("client").await;
        set_lease(&house, over());
        house.script.gate.add_permits(1);
        until("it failed", || *house.script.failures.lock().unwrap() == 0).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(house.try_call().is_none(), "it waits");
        if house.queue.entries.lock().unwrap().len() == 2 {
            set_lease(&house, NodeLease::Always);
            house.disconnected("client").await;
            house.script.gate.add_permits(1);
            until("it is done", || house.queue.entries.lock().unwrap().len() == 1).await;
        }
    }
    set_lease(&house, NodeLease::Lost);
    until("there is another node", || house.queue.nodes.lock().unwrap().len() == 2).await;
    house.drained().await;
    house.no_more_calls();
    assert_eq!(house.queue.entries.lock().unwrap().len(), 1, "the cleaner's");
}

#[tokio::test]
async fn orphans_leave_half_of_the_calls_to_sessions() {
    let mut house = House::open(|settings| settings.server.handler_calls_max = 4).await;
    let estate = TestEstate::with(5);
    for orphan in estate.left.lock().unwrap().iter_mut() {
        orphan.identity = json!({"fields": {"x": "hold"}}).to_string().into();
    }
    *house.queue.estate.lock().unwrap() = Some(estate.clone());
    for _ in 0..2 {
        house.disconnected("node_lost").await;
    }
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(house.registered(json!({})).await);
    }
    house.script.gate.add_permits(5);
    for _ in 0..3 {
        house.disconnected("node_lost").await;
    }
    until("all are buried", || estate.finished.load(Ordering::SeqCst)).await;
}

#[tokio::test]
async fn a_change_of_groups_is_told_as_soon_as_the_queue_is_back() {
    let mut house = House::open(|_| {}).await;
    let _client = house.registered(json!({"connection_id": "a", "groups": ["old"]})).await;
    *house.queue.is_announcing.lock().unwrap() = false;
    let to = |body| Delivery { to: vec![Address::Connection("a".to_owned())], except: None, body, origin: None };
    house.deliveries.send(to(Body::Join("new".to_owned()))).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    house.deliveries.send(to(Body::Leave("old".to_owned()))).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    *house.queue.is_announcing.lock().unwrap() = true;
    let groups = || house.queue.entries.lock().unwrap().values().next().unwrap().groups.clone();
    until("the queue knows", || groups() == ["new"]).await;
}
