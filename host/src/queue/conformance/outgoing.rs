//! Deliveries: to every address, on every node that holds it, once and in order.

use std::time::Duration;

use tokio::time;

use super::backend::{Backend, entry, job, patiently, session, take};
use super::on_both;
use crate::queue::{Entry, NodeFeed, Verdict};
use crate::wire::delivery::{Address, Body, Delivery, MessageName, Origin};
use crate::wire::ids::{NodeId, SessionId};
use crate::wire::json::Json;

on_both!(
    every_address_reaches_its_nodes_once,
    deliveries_keep_their_order,
    those_sent_without_waiting_keep_it_too,
    a_join_comes_before_what_is_sent_after_it,
    a_newer_connection_takes_the_alias,
    an_older_connection_does_not_take_the_alias_back,
    leaving_removes,
    lookups_answer_who_is_there,
    those_online_are_counted_over_all_live_nodes,
    groups_may_change,
    a_settlement_follows_the_sends_before_it,
    a_large_delivery_arrives,
    a_delivery_to_nobody_is_dropped,
);

/// Two nodes with a connection each: on the first an alias, both of user 7, both in group g, the second also in h.
struct Two {
    feeds: [Box<dyn NodeFeed>; 2],
    entries: [Entry; 2],
}

async fn two(backend: &Backend) -> Two {
    let nodes = [NodeId::random().unwrap(), NodeId::random().unwrap()];
    let second = backend.other();
    let feeds =
        [patiently(backend.queue.presence.open(&nodes[0])).await.unwrap(), patiently(second.presence.open(&nodes[1])).await.unwrap()];
    let entries = [entry(&session(&nodes[0]), Some("alice"), Some("7"), &["g"]), entry(&session(&nodes[1]), None, Some("7"), &["g", "h"])];
    backend.queue.presence.enter(&entries[0], None).await.unwrap();
    second.presence.enter(&entries[1], None).await.unwrap();
    Two { feeds, entries }
}

fn message(to: Vec<Address>, action: &str) -> Delivery {
    let body = Body::Message { action: action.to_owned(), data: Json::encode(action).unwrap() };
    Delivery { to, except: Some("x".to_owned()), body, origin: Some(Origin { message: MessageName::Id("m".to_owned()), index: 1 }) }
}

fn name(delivery: &Delivery) -> String {
    match &delivery.body {
        Body::Message { action, .. } => action.clone(),
        Body::Join(group) => format!("join {group}"),
        other => format!("{other:?}"),
    }
}

/// Receives until the delivery called `last` comes; answers everything before it.
pub(super) async fn until(feed: &mut Box<dyn NodeFeed>, last: &str) -> Vec<Delivery> {
    let mut received = Vec::new();
    loop {
        for delivery in patiently(feed.receive()).await.expect("feed ended") {
            if name(&delivery) == last {
                return received;
            }
            received.push(delivery);
        }
    }
}

async fn every_address_reaches_its_nodes_once(backend: Backend) {
    let Two { mut feeds, entries } = two(&backend).await;
    let connection = |id: &str| Address::Connection(id.to_owned());
    let (user, group) = (|id: &str| Address::User(id.to_owned()), |id: &str| Address::Group(id.to_owned()));
    let cases = [
        ("session", vec![Address::Session(entries[1].session.clone())], [false, true]),
        ("alias", vec![connection("alice")], [true, false]),
        ("session form", vec![connection(entries[1].session.as_str())], [false, true]),
        ("user", vec![user("7")], [true, true]),
        ("group", vec![group("g")], [true, true]),
        ("one group", vec![group("h")], [false, true]),
        ("all", vec![Address::All], [true, true]),
        ("several", vec![connection("alice"), user("7"), group("g"), group("h")], [true, true]),
        ("several with all", vec![connection("alice"), Address::All], [true, true]),
    ];
    for (name, to, _) in &cases {
        backend.queue.outbox.send(message(to.clone(), name)).await.unwrap();
    }
    patiently(backend.queue.outbox.flush()).await.unwrap();
    backend.queue.outbox.send(message(vec![Address::All], "end")).await.unwrap();
    for (index, feed) in feeds.iter_mut().enumerate() {
        let received = until(feed, "end").await;
        let expected: Vec<Delivery> =
            cases.iter().filter(|(_, _, reached)| reached[index]).map(|(name, to, _)| message(to.clone(), name)).collect();
        assert_eq!(received, expected, "node {index}");
    }
    for feed in feeds {
        patiently(feed.close()).await;
    }
}

async fn deliveries_keep_their_order(backend: Backend) {
    let Two { mut feeds, entries } = two(&backend).await;
    let kinds = |index: usize| match index % 4 {
        0 => Address::Session(entries[0].session.clone()),
        1 => Address::Connection("alice".to_owned()),
        2 => Address::Group("g".to_owned()),
        _ => Address::Session(entries[0].session.clone()),
    };
    for index in 0..400 {
        backend.queue.outbox.send(message(vec![kinds(index)], &index.to_string())).await.unwrap();
    }
    backend.queue.outbox.send(message(vec![Address::Session(entries[0].session.clone())], "end")).await.unwrap();
    let received: Vec<String> = until(&mut feeds[0], "end").await.iter().map(name).collect();
    assert_eq!(received, (0..400).map(|index| index.to_string()).collect::<Vec<_>>());
}

async fn those_sent_without_waiting_keep_it_too(backend: Backend) {
    let Two { mut feeds, entries } = two(&backend).await;
    let to = vec![Address::Session(entries[0].session.clone())];
    for number in 0..100 {
        let delivery = message(to.clone(), &number.to_string());
        match number % 3 {
            0 => assert!(backend.queue.outbox.try_send(&delivery), "there is room"),
            _ => backend.queue.outbox.send(delivery).await.unwrap(),
        }
    }
    for routed in [vec![Address::All], vec![Address::Group("g".to_owned())], [to.clone(), to.clone()].concat(), Vec::new()] {
        assert!(!backend.queue.outbox.try_send(&message(routed.clone(), "routed")), "{routed:?}");
    }
    backend.queue.outbox.send(message(to, "end")).await.unwrap();
    let received: Vec<String> = until(&mut feeds[0], "end").await.iter().map(name).collect();
    assert_eq!(received, (0..100).map(|number| number.to_string()).collect::<Vec<_>>());
}

async fn a_join_comes_before_what_is_sent_after_it(backend: Backend) {
    let Two { mut feeds, entries } = two(&backend).await;
    for (group, to) in [("n1", Address::Connection("alice".to_owned())), ("n2", Address::Session(entries[0].session.clone()))] {
        let join = Delivery { to: vec![to], except: None, body: Body::Join(group.to_owned()), origin: None };
        backend.queue.outbox.send(join).await.unwrap();
        backend.queue.outbox.send(message(vec![Address::Group(group.to_owned())], &format!("to {group}"))).await.unwrap();
    }
    backend.queue.outbox.flush().await.unwrap();
    backend.queue.outbox.send(message(vec![Address::All], "end")).await.unwrap();
    let received: Vec<String> = until(&mut feeds[0], "end").await.iter().map(name).collect();
    assert_eq!(received, ["join n1", "to n1", "join n2", "to n2"]);
    assert!(until(&mut feeds[1], "end").await.is_empty());
}

async fn an_older_connection_does_not_take_the_alias_back(backend: Backend) {
    let Two { feeds: _feeds, entries: [older, other] } = two(&backend).await;
    let presence = &backend.queue.presence;
    let newer = entry(&session(&other.session.node()), Some("alice"), None, &[]);
    presence.enter(&newer, None).await.unwrap();
    // It joins a group while its end is on the way.
    let joined = Entry { groups: vec!["g".to_owned(), "h".to_owned()], ..older.clone() };
    assert_eq!(presence.enter(&joined, Some(&older)).await.unwrap(), None);
    let holder = async || presence.connection("alice").await.unwrap().unwrap().node;
    assert_eq!(holder().await, newer.session.node().to_string());
    presence.leave(&joined).await.unwrap();
    assert_eq!(holder().await, newer.session.node().to_string(), "the newer one keeps it");
}

async fn a_newer_connection_takes_the_alias(backend: Backend) {
    let Two { mut feeds, entries } = two(&backend).await;
    let newer = entry(&session(&entries[1].session.node()), Some("alice"), None, &[]);
    let older = backend.queue.presence.enter(&newer, None).await.unwrap();
    assert_eq!(older.as_ref(), Some(&entries[0].session), "whoever comes last learns whom to close");
    assert_eq!(backend.queue.presence.enter(&newer, Some(&newer)).await.unwrap(), None, "not itself");
    // The older one leaves late; the alias is no longer its own.
    backend.queue.presence.leave(&entries[0]).await.unwrap();
    backend.queue.outbox.send(message(vec![Address::Connection("alice".to_owned())], "hello")).await.unwrap();
    backend.queue.outbox.flush().await.unwrap();
    backend.queue.outbox.send(message(vec![Address::All], "end")).await.unwrap();
    assert_eq!(until(&mut feeds[1], "end").await.len(), 1);
    assert!(until(&mut feeds[0], "end").await.is_empty());
    let found = backend.queue.presence.connection("alice").await.unwrap().unwrap();
    assert_eq!(found.node, newer.session.node().to_string());
}

async fn leaving_removes(backend: Backend) {
    let Two { mut feeds, entries } = two(&backend).await;
    let presence = &backend.queue.presence;
    presence.leave(&entries[0]).await.unwrap();
    assert_eq!(presence.connection("alice").await.unwrap(), None);
    assert_eq!(presence.connection(entries[0].session.as_str()).await.unwrap(), None);
    assert_eq!(presence.user_connections("7").await.unwrap().len(), 1);
    assert_eq!(presence.members("g").await.unwrap().len(), 1);
    backend.queue.outbox.send(message(vec![Address::Connection("alice".to_owned())], "lost")).await.unwrap();
    backend.queue.outbox.flush().await.unwrap();
    backend.queue.outbox.send(message(vec![Address::All], "end")).await.unwrap();
    assert!(until(&mut feeds[0], "end").await.is_empty());
    let [first, second] = feeds;
    patiently(second.close()).await;
    patiently(first.close()).await;
    assert_eq!(presence.connection(entries[1].session.as_str()).await.unwrap(), None, "a closed node has no connections");
    assert!(presence.members("g").await.unwrap().is_empty());
}

async fn lookups_answer_who_is_there(backend: Backend) {
    let Two { feeds: _feeds, entries } = two(&backend).await;
    let presence = &backend.queue.presence;
    let alice = presence.connection("alice").await.unwrap().unwrap();
    assert_eq!(
        (alice.connection_id.as_str(), alice.user_id.as_deref(), alice.node.as_str(), &alice.groups[..]),
        ("alice", Some("7"), entries[0].session.node().as_str(), &["g".to_owned()][..])
    );
    assert_eq!(presence.connection(entries[0].session.as_str()).await.unwrap(), Some(alice));
    assert_eq!(presence.user_connections("7").await.unwrap().len(), 2);
    assert_eq!(presence.members("g").await.unwrap().len(), 2);
    assert_eq!(presence.members("h").await.unwrap().len(), 1);
    assert!(presence.user_connections("8").await.unwrap().is_empty());
    assert_eq!(presence.connection("bob").await.unwrap(), None);
}

async fn those_online_are_counted_over_all_live_nodes(backend: Backend) {
    let presence = &backend.queue.presence;
    assert_eq!(presence.online().await.unwrap(), 0);
    let Two { feeds, entries } = two(&backend).await;
    assert_eq!(presence.online().await.unwrap(), 2);
    let more: Vec<Entry> = (0..5).map(|_| entry(&session(&entries[0].session.node()), None, None, &[])).collect();
    for entry in &more {
        presence.enter(entry, None).await.unwrap();
    }
    assert_eq!(presence.online().await.unwrap(), 7);
    let again = Entry { groups: vec!["new".to_owned()], ..entries[0].clone() };
    presence.enter(&again, Some(&entries[0])).await.unwrap();
    assert_eq!(presence.online().await.unwrap(), 7, "each once");
    presence.leave(&more[0]).await.unwrap();
    assert_eq!(presence.online().await.unwrap(), 6);
    let [first, second] = feeds;
    patiently(second.close()).await;
    assert_eq!(presence.online().await.unwrap(), 5, "a node that is gone counts nothing");
    patiently(first.close()).await;
    assert_eq!(presence.online().await.unwrap(), 0);
}

async fn groups_may_change(backend: Backend) {
    let Two { mut feeds, entries } = two(&backend).await;
    let changed =
        Entry { groups: vec!["new".to_owned()], user_id: Some("8".to_owned()), connection_id: "al".to_owned(), ..entries[0].clone() };
    let presence = &backend.queue.presence;
    presence.enter(&changed, Some(&entries[0])).await.unwrap();
    assert_eq!(presence.members("new").await.unwrap().len(), 1);
    assert_eq!(presence.members("g").await.unwrap().len(), 1);
    assert_eq!(presence.user_connections("8").await.unwrap().len(), 1);
    assert_eq!(presence.connection("alice").await.unwrap(), None, "the former alias is gone");
    assert!(presence.connection("al").await.unwrap().is_some());
    backend.queue.outbox.send(message(vec![Address::Group("new".to_owned())], "to new")).await.unwrap();
    backend.queue.outbox.send(message(vec![Address::Session(changed.session.clone())], "end")).await.unwrap();
    assert_eq!(until(&mut feeds[0], "end").await.len(), 1);
}

async fn a_settlement_follows_the_sends_before_it(backend: Backend) {
    let Two { mut feeds, entries } = two(&backend).await;
    let consumer = backend.consumer().await;
    for sequence in 1..=50 {
        backend.offer(job(&entries[0].session, sequence)).await;
    }
    for taken in take(&consumer, 50).await {
        let reply = Body::Reply { action: taken.job.action.clone(), client_id: None, data: taken.job.data.clone() };
        let to = vec![Address::Session(taken.job.session.clone())];
        backend.queue.outbox.send(Delivery { to, except: None, body: reply, origin: None }).await.unwrap();
        consumer.settle(taken.receipt, Verdict::Done).await.unwrap();
    }
    patiently(consumer.leave()).await;
    backend.queue.outbox.send(message(vec![Address::Session(entries[0].session.clone())], "end")).await.unwrap();
    assert_eq!(until(&mut feeds[0], "end").await.len(), 50, "what was settled had been sent");
}

async fn a_large_delivery_arrives(backend: Backend) {
    let Two { mut feeds, entries } = two(&backend).await;
    let large = Json::encode(&"x".repeat(900_000)).unwrap();
    let to = Address::Session(entries[0].session.clone());
    backend.queue.outbox.send(Delivery::message(to.clone(), "before", Json::NULL)).await.unwrap();
    backend.queue.outbox.send(Delivery::message(to.clone(), "large", large.clone())).await.unwrap();
    backend.queue.outbox.send(Delivery::message(to, "end", Json::NULL)).await.unwrap();
    let received = until(&mut feeds[0], "end").await;
    assert_eq!(received.iter().map(name).collect::<Vec<_>>(), ["before", "large"]);
    assert_eq!(received[1].body, Body::Message { action: "large".to_owned(), data: large });
}

async fn a_delivery_to_nobody_is_dropped(backend: Backend) {
    let gone: SessionId = session(&NodeId::random().unwrap());
    for to in [Address::Session(gone), Address::User("nobody".to_owned()), Address::Connection("nobody".to_owned())] {
        backend.queue.outbox.send(message(vec![to], "lost")).await.unwrap();
    }
    time::timeout(Duration::from_secs(5), backend.queue.outbox.flush()).await.unwrap().unwrap();
    assert!(backend.queue.outbox.send(message(Vec::new(), "no address")).await.is_err());
}
