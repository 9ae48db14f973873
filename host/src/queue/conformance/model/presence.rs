//! Connections that come and go on two nodes, and what is sent to them.

use std::collections::BTreeMap;

use plugsocket_plugin::call::ConnectionInfo;
use proptest::prelude::*;

use super::agree;
use crate::queue::conformance::backend::{Backend, entry, patiently};
use crate::queue::conformance::outgoing::until;
use crate::queue::{Entry, NodeFeed};
use crate::wire::delivery::{Address, Body, Delivery};
use crate::wire::ids::{NodeId, SessionId};
use crate::wire::json::Json;

/// Something that happens to the connection with this number; they are on two nodes in turn.
#[derive(Debug, Clone)]
enum Move {
    Enter { who: usize, alias: Option<&'static str>, user: Option<&'static str>, groups: Vec<&'static str> },
    Leave { who: usize },
    Send { to: Vec<To> },
}

#[derive(Debug, Clone, Copy)]
enum To {
    Who(usize),
    Connection(&'static str),
    User(&'static str),
    Group(&'static str),
    All,
}

const PEOPLE: usize = 4;

fn movement() -> impl Strategy<Value = Move> {
    let alias = || prop::sample::select(vec!["x", "y"]);
    let user = || prop::sample::select(vec!["7", "8"]);
    let group = || prop::sample::select(vec!["g", "h"]);
    let to = prop_oneof![
        (0..PEOPLE).prop_map(To::Who),
        alias().prop_map(To::Connection),
        user().prop_map(To::User),
        group().prop_map(To::Group),
        Just(To::All),
    ];
    let groups = prop::sample::subsequence(vec!["g", "h"], 0..=2);
    prop_oneof![
        (0..PEOPLE, prop::option::weighted(0.8, alias()), prop::option::of(user()), groups)
            .prop_map(|(who, alias, user, groups)| Move::Enter { who, alias, user, groups }),
        (0..PEOPLE).prop_map(|who| Move::Leave { who }),
        prop::collection::vec(to, 1..3).prop_map(|to| Move::Send { to }),
    ]
}

/// One kind of queue with two nodes, each in a process of its own where there is more than one.
struct Nodes {
    queues: [crate::queue::Queue; 2],
    feeds: [Box<dyn NodeFeed>; 2],
    entries: BTreeMap<usize, Entry>,
}

impl Nodes {
    async fn open(backend: &Backend, nodes: &[NodeId; 2]) -> Self {
        let queues = [backend.queue.clone(), backend.other()];
        let feeds =
            [patiently(queues[0].presence.open(&nodes[0])).await.unwrap(), patiently(queues[1].presence.open(&nodes[1])).await.unwrap()];
        Self { queues, feeds, entries: BTreeMap::new() }
    }

    async fn step(&mut self, number: usize, step: &Move, sessions: &[SessionId]) {
        match step {
            Move::Enter { who, alias, user, groups } => {
                let new = entry(&sessions[*who], *alias, *user, groups);
                self.queues[who % 2].presence.enter(&new, self.entries.get(who)).await.unwrap();
                self.entries.insert(*who, new);
            }
            Move::Leave { who } => {
                if let Some(old) = self.entries.remove(who) {
                    self.queues[who % 2].presence.leave(&old).await.unwrap();
                }
            }
            Move::Send { to } => {
                let to = to.iter().map(|to| match to {
                    To::Who(who) => Address::Session(sessions[*who].clone()),
                    To::Connection(id) => Address::Connection((*id).to_owned()),
                    To::User(id) => Address::User((*id).to_owned()),
                    To::Group(id) => Address::Group((*id).to_owned()),
                    To::All => Address::All,
                });
                let body = Body::Message { action: number.to_string(), data: Json::NULL };
                let delivery = Delivery { to: to.collect(), except: None, body, origin: None };
                self.queues[0].outbox.send(delivery).await.unwrap();
                self.queues[0].outbox.flush().await.unwrap();
            }
        }
    }

    /// Who is there, in an order that does not depend on the queue.
    async fn lookups(&self) -> Vec<Vec<ConnectionInfo>> {
        let presence = &self.queues[1].presence;
        let mut found = Vec::new();
        for id in ["x", "y"] {
            found.push(presence.connection(id).await.unwrap().into_iter().collect());
        }
        for user in ["7", "8"] {
            found.push(presence.user_connections(user).await.unwrap());
        }
        for group in ["g", "h"] {
            found.push(presence.members(group).await.unwrap());
        }
        for list in &mut found {
            list.iter_mut().for_each(|info: &mut ConnectionInfo| info.groups.sort());
            list.sort_by_key(|info| format!("{info:?}"));
        }
        found
    }

    /// What each node got, by number of the step.
    async fn received(&mut self) -> [Vec<usize>; 2] {
        self.queues[0].outbox.send(Delivery::message(Address::All, "end", Json::NULL)).await.unwrap();
        let mut received = [Vec::new(), Vec::new()];
        for (feed, numbers) in self.feeds.iter_mut().zip(&mut received) {
            for delivery in until(feed, "end").await {
                let Body::Message { action, .. } = delivery.body else { panic!("{delivery:?}") };
                numbers.push(action.parse().unwrap());
            }
        }
        received
    }
}

#[test]
fn presence_and_deliveries_agree() {
    agree(24, 60, movement(), |memory, redis, steps| async move {
        let nodes = [NodeId::random().unwrap(), NodeId::random().unwrap()];
        let sessions: Vec<SessionId> = (0..PEOPLE).map(|who| SessionId::random(&nodes[who % 2]).unwrap()).collect();
        let (mut one, mut other) = (Nodes::open(&memory, &nodes).await, Nodes::open(&redis, &nodes).await);
        for (number, step) in steps.iter().enumerate() {
            one.step(number, step, &sessions).await;
            other.step(number, step, &sessions).await;
            prop_assert_eq!(one.lookups().await, other.lookups().await, "after step {} of {:?}", number, &steps);
        }
        let (expected, received) = (one.received().await, other.received().await);
        for (node, (expected, received)) in expected.iter().zip(&received).enumerate() {
            // A route may lead to a node for a while after it was needed: then it gets more; never less, and nothing twice.
            let wanted = received.iter().copied().filter(|number| expected.contains(number) || !lingers(&steps, *number, node));
            prop_assert_eq!(&wanted.collect::<Vec<_>>(), expected, "node {} of {:?}", node, &steps);
            prop_assert!(received.is_sorted_by(|one, next| one < next), "{:?} of {:?}", received, &steps);
        }
        Ok(())
    });
}

/// Whether the send that is this step goes to a user or a group that the node had before it.
fn lingers(steps: &[Move], number: usize, node: usize) -> bool {
    let Move::Send { to } = &steps[number] else { return false };
    steps[..number].iter().any(|step| match step {
        Move::Enter { who, user, groups, .. } if who % 2 == node => to.iter().any(|to| match to {
            To::User(id) => *user == Some(*id),
            To::Group(id) => groups.contains(id),
            _ => false,
        }),
        _ => false,
    })
}
