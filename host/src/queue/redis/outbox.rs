//! Deliveries to the nodes that hold their addresses.

use async_trait::async_trait;
use redis::Cmd;

use super::Redis;
use super::batch::{DELIVERY, Done, Write};
use super::scripts::{ROUTE, evalsha};
use crate::queue::{Outbox, QueueError};
use crate::wire::delivery::{Address, Body, Delivery};
use crate::wire::ids::SessionId;
use crate::wire::packed::put_delivery;

/// Addresses one delivery may have: its route script is one step for Redis.
const ADDRESSES_MAX: usize = 1_000;

/// Room for a small delivery.
const PACKED_BYTES: usize = 256;

/// Where a delivery goes.
#[derive(Default)]
struct Destinations {
    sessions: Vec<SessionId>,
    sets: Vec<String>,
    aliases: Vec<String>,
    all: bool,
}

/// A delivery to the node of the session that it is for.
fn to_node(session: &SessionId, delivery: &Delivery) -> Write {
    let mut packed = Vec::with_capacity(PACKED_BYTES);
    put_delivery(&mut packed, delivery);
    Write::Node { session: session.clone(), packed }
}

impl Redis {
    fn destinations(&self, delivery: &Delivery) -> Destinations {
        let keys = self.connector.keys();
        let mut found = Destinations::default();
        for address in &delivery.to {
            match address {
                Address::Session(session) => found.sessions.push(session.clone()),
                Address::Connection(id) => match SessionId::parse(id) {
                    Some(session) => found.sessions.push(session),
                    None => found.aliases.push(keys.alias(id)),
                },
                Address::User(user) => found.sets.push(keys.user_nodes(user)),
                Address::Group(group) => found.sets.push(keys.group_nodes(group)),
                Address::All => found.all = true,
            }
        }
        found
    }

    fn route(&self, delivery: &Delivery, found: &Destinations) -> Cmd {
        let keys = self.connector.keys();
        let (header, data) = delivery.to_fields();
        let join = match &delivery.body {
            Body::Join(group) => keys.group_nodes(group),
            _ => String::new(),
        };
        let mut command = evalsha(&ROUTE, 2 + found.sets.len() + found.aliases.len());
        command.arg(keys.all()).arg(keys.nodes()).arg(&found.sets).arg(&found.aliases);
        command.arg(keys.prefix()).arg(&header[..]).arg(&data[..]).arg(join);
        command.arg(if found.all { "all" } else { "" }).arg(found.sets.len());
        for session in &found.sessions {
            command.arg(session.as_str());
        }
        command
    }
}

#[async_trait]
impl Outbox for Redis {
    async fn send(&self, delivery: Delivery) -> Result<(), QueueError> {
        if delivery.to.is_empty() || delivery.to.len() > ADDRESSES_MAX {
            return Err(QueueError::Invalid(format!("delivery has {} addresses, 1 to {ADDRESSES_MAX} are allowed", delivery.to.len())));
        }
        self.sent.increment(1);
        let found = self.destinations(&delivery);
        let is_join = matches!(delivery.body, Body::Join(_));
        if let ([session], true) = (&found.sessions[..], delivery.to.len() == 1 && !is_join) {
            return self.batcher.send(to_node(session, &delivery)).await;
        }
        let command = self.route(&delivery, &found);
        self.batcher.send(Write::Command { command, done: Done::Nobody(DELIVERY) }).await
    }

    fn try_send(&self, delivery: &Delivery) -> bool {
        // The others need to be routed.
        let ([Address::Session(session)], false) = (&delivery.to[..], matches!(delivery.body, Body::Join(_))) else { return false };
        let write = to_node(session, delivery);
        let Some(permit) = self.batcher.free(write.bytes()) else { return false };
        permit.send(write);
        self.sent.increment(1);
        true
    }

    async fn flush(&self) -> Result<(), QueueError> {
        self.batcher.flush().await
    }
}
