//! Who is connected where: rosters, aliases and routes.

use std::time::Duration;

use async_trait::async_trait;
use plugsocket_plugin::call::ConnectionInfo;
use redis::{Cmd, Pipeline, Value};
use tokio::time::{self, Instant};

use super::Redis;
use super::answers::{integer, text};
use super::batch::{Done, Write};
use super::feed::RedisFeed;
use super::local::{Route, routes};
use super::orphans::RosterValue;
use super::pauses::Backoff;
use super::scripts::{ENTER, LEAD, LEAVE, NODE, UNROUTE, WITHDRAW, evalsha};
use crate::queue::{Adoption, Entry, LOOKUP_MAX, NodeFeed, Presence, QueueError};
use crate::wire::ids::{NodeId, SessionId};

/// Roster fields looked at per step, so that a large one does not hold Redis up.
const SCAN_COUNT: usize = 1_000;
/// A roster outlives its node, for the next server to start: it may be a long weekend.
const ROSTER_TTL: Duration = Duration::from_secs(7 * 24 * 3600);
/// A node's stream outlives its lease by far: a stall of Redis, in which no lease is renewed, must not cost deliveries.
const STREAM_LEASES: u32 = 12;
const STREAM_TTL_MIN: Duration = Duration::from_secs(60);
/// A node that does not read is cut down when its stream is longer, or takes up more.
const STREAM_ENTRIES_MAX: usize = 100_000;
const STREAM_BYTES_MAX: usize = 256 << 20;
/// Routes dropped in one step.
const UNROUTE_MAX: usize = 1_000;
/// What an announcement counts for in the batcher, about.
const ANNOUNCEMENT_BYTES: usize = 1 << 10;

/// How a renewal of a node's lease went.
#[derive(Debug)]
pub(super) enum Renewed {
    Yes(Renewal),
    /// A cleaner has the node, or has done with it.
    Lost,
}

/// What a renewal found.
#[derive(Debug)]
pub(super) struct Renewal {
    /// When it was asked for: the lease counts from there.
    pub(super) sent: Instant,
    /// The node's stream was still there.
    pub(super) was_there: bool,
    /// Its last id.
    pub(super) last: String,
    /// That of the stream for all; empty when there is none.
    pub(super) last_of_all: String,
    /// Entries cut off, unread.
    pub(super) cut: u64,
}

impl Redis {
    pub(super) fn route_key(&self, route: &Route) -> String {
        match route {
            Route::User(user) => self.connector.keys().user_nodes(user),
            Route::Group(group) => self.connector.keys().group_nodes(group),
        }
    }

    /// Renews a node's lease, and cuts its stream when the node does not keep up.
    pub(super) async fn renew_node(&self, node: &NodeId) -> Result<Renewed, QueueError> {
        let (keys, lease) = (self.connector.keys(), self.options.lease);
        let sent = Instant::now();
        let mut command = evalsha(&NODE, 6);
        command.arg(keys.nodes()).arg(keys.outgoing(node)).arg(keys.roster(node)).arg(keys.all());
        command.arg(keys.cleaners()).arg(keys.gone(node)).arg(node.as_str()).arg(millis(lease));
        command.arg(millis((lease * STREAM_LEASES).max(STREAM_TTL_MIN))).arg(millis(ROSTER_TTL));
        command.arg(STREAM_ENTRIES_MAX).arg(STREAM_BYTES_MAX);
        let answer = self.connector.call(&command).await?;
        let Value::Array(parts) = &answer else { return Err(QueueError::Refused(format!("node script answered {answer:?}"))) };
        if parts.first() == Some(&Value::Int(-1)) {
            return Ok(Renewed::Lost);
        }
        if let Some(redis_ms) = parts.get(4).and_then(integer) {
            self.nodes.renewed(node, redis_ms, lease);
        }
        Ok(Renewed::Yes(Renewal {
            sent,
            was_there: parts.first() == Some(&Value::Int(1)),
            last: parts.get(1).map(text).unwrap_or_default(),
            last_of_all: parts.get(2).map(text).unwrap_or_default(),
            cut: parts.get(3).and_then(integer).and_then(|cut| u64::try_from(cut).ok()).unwrap_or(0),
        }))
    }

    /// Announces a node and starts its feed. One that was announced before, and cleaned up after since, gets a feed that says so.
    async fn start_feed(&self, node: &NodeId) -> Result<RedisFeed, QueueError> {
        match self.renew_node(node).await? {
            Renewed::Yes(renewal) => RedisFeed::start(self.itself()?, node.clone(), renewal.sent).await,
            Renewed::Lost => Ok(RedisFeed::lost(self.itself()?, node.clone())),
        }
    }

    /// Takes a node out of Redis, but for the connections whose `disconnect` is still owed.
    pub(super) async fn withdraw_node(&self, node: &NodeId) -> Result<(), QueueError> {
        let keys = self.connector.keys();
        let mut command = evalsha(&WITHDRAW, 5);
        command.arg(keys.nodes()).arg(keys.outgoing(node)).arg(keys.roster(node)).arg(keys.cleaners()).arg(keys.gone(node));
        let left = self.batcher.run(command.arg(node.as_str()).clone()).await?;
        if let Some(connections @ 1..) = integer(&left) {
            tracing::warn!(%node, connections, "not all `disconnect` calls were made; another server makes the rest, or the next one to start");
        }
        self.drop_routes(node).await;
        Ok(())
    }

    /// Drops all routes to a node that has ended. When it is lost, its cleaner knows only those that its connections needed at the end.
    pub(super) async fn drop_routes(&self, node: &NodeId) {
        let routes: Vec<String> = self.nodes.close(node).iter().map(|route| self.route_key(route)).collect();
        for chunk in routes.chunks(UNROUTE_MAX) {
            if let Err(error) = self.run_surely("routes of a node", &unroute(chunk, node)).await {
                tracing::debug!(%node, %error, "routes of a node that has ended are not dropped yet");
            }
        }
    }

    /// Hands a command over, however long that takes, and waits until it is stored. After an error it still will be, once Redis answers.
    pub(super) async fn run_surely(&self, what: &'static str, command: &Cmd) -> Result<(), QueueError> {
        loop {
            match self.batcher.send(Write::Command { command: command.clone(), done: Done::Nobody(what) }).await {
                Ok(()) => return self.batcher.flush().await,
                Err(QueueError::Unreachable(_)) => {} // no room yet, which has been waited for
                Err(error) => return Err(error),
            }
        }
    }

    /// Announces everything of a node again, after Redis lost it.
    pub(super) async fn announce_again(&self, node: &NodeId) -> Result<usize, QueueError> {
        let sessions = self.nodes.sessions(node);
        for session in &sessions {
            let permit = self.batcher.reserve(ANNOUNCEMENT_BYTES).await?;
            // Handed over while the entry is held fast: one that leaves meanwhile would come back for ever.
            self.nodes.with(session, |entry| {
                if let Ok(command) = self.enter_command(entry, None) {
                    permit.send(Write::Command { command, done: Done::Nobody("announcement") });
                }
            });
        }
        self.batcher.flush().await?;
        Ok(sessions.len())
    }

    /// Drops the routes that a node has not needed for `idle`.
    pub(super) async fn drop_idle_routes(&self, node: &NodeId, idle: Duration) -> Result<(), QueueError> {
        loop {
            if !self.nodes.has_idle(node, idle) {
                return Ok(());
            }
            let permit = self.batcher.reserve(ANNOUNCEMENT_BYTES).await?;
            // Handed over before anybody may need the route again: its SADD would come before this SREM otherwise.
            self.nodes.take_idle(node, idle, UNROUTE_MAX, |routes| {
                let keys: Vec<String> = routes.iter().map(|route| self.route_key(route)).collect();
                permit.send(Write::Command { command: unroute(&keys, node), done: Done::Nobody("idle route") });
            });
        }
    }

    /// Adds what `previous` had not already.
    fn enter_command(&self, entry: &Entry, previous: Option<&Entry>) -> Result<Cmd, QueueError> {
        let keys = self.connector.keys();
        let node = entry.session.node();
        let roster = keys.roster(&node);
        let value = serde_json::to_vec(&RosterValue::of(entry, &node)).map_err(|error| QueueError::Invalid(error.to_string()))?;
        let old = previous.map(routes).unwrap_or_default();
        let new: Vec<String> = routes(entry).iter().filter(|route| !old.contains(route)).map(|route| self.route_key(route)).collect();
        let alias = alias_of(entry);
        let replaced = previous.and_then(alias_of).filter(|old| Some(*old) != alias);
        let key = |id: Option<&str>| id.map_or_else(|| roster.clone(), |id| keys.alias(id));
        let mut command = evalsha(&ENTER, 6 + new.len());
        command.arg(&roster).arg(key(alias)).arg(key(replaced));
        command.arg(keys.nodes()).arg(keys.cleaners()).arg(keys.gone(&node)).arg(&new);
        command.arg(entry.session.as_str()).arg(value).arg(node.as_str());
        let claim = match previous.and_then(alias_of) {
            // Its groups changed; a newer connection may have taken the id since.
            former if former == alias => "keep",
            _ => "alias",
        };
        command.arg(if alias.is_some() { claim } else { "" }).arg(if replaced.is_some() { "previous" } else { "" });
        command.arg(millis(self.options.lease));
        Ok(command)
    }

    fn leave_command(&self, entry: &Entry) -> Cmd {
        let keys = self.connector.keys();
        let roster = keys.roster(&entry.session.node());
        let alias = alias_of(entry);
        let mut command = evalsha(&LEAVE, 2);
        command.arg(&roster).arg(alias.map_or_else(|| roster.clone(), |id| keys.alias(id)));
        command.arg(entry.session.as_str()).arg(if alias.is_some() { "alias" } else { "" });
        command
    }

    async fn roster_entry(&self, session: &SessionId) -> Result<Option<ConnectionInfo>, QueueError> {
        let keys = self.connector.keys();
        let node = session.node();
        let mut pipeline = Pipeline::new();
        pipeline.cmd("TIME");
        pipeline.cmd("ZSCORE").arg(keys.nodes()).arg(node.as_str());
        pipeline.cmd("HGET").arg(keys.roster(&node)).arg(session.as_str());
        let answers = self.connector.call_many(&pipeline).await?;
        match &answers[..] {
            [time, until, Value::BulkString(json)] if lives(time, until) => Ok(serde_json::from_slice(json).ok()),
            _ => Ok(None),
        }
    }

    async fn is_live(&self, node: &NodeId) -> Result<bool, QueueError> {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("TIME");
        pipeline.cmd("ZSCORE").arg(self.connector.keys().nodes()).arg(node.as_str());
        let answers = self.connector.call_many(&pipeline).await?;
        Ok(matches!(&answers[..], [time, until] if lives(time, until)))
    }

    /// Walks the rosters of the nodes in a route set, step by step.
    async fn find(&self, set: String, fits: impl Fn(&ConnectionInfo) -> bool + Send + Sync) -> Result<Vec<ConnectionInfo>, QueueError> {
        let Value::Array(nodes) = self.connector.call(redis::cmd("SMEMBERS").arg(set)).await? else { return Ok(Vec::new()) };
        let mut found = std::collections::BTreeMap::new();
        for node in nodes.iter().map(|node| NodeId::from_text(&text(node))) {
            let keys = self.connector.keys();
            if !self.is_live(&node).await? {
                continue;
            }
            let mut cursor = "0".to_owned();
            loop {
                let mut command = redis::cmd("HSCAN");
                command.arg(keys.roster(&node)).arg(&cursor).arg("COUNT").arg(SCAN_COUNT);
                let Value::Array(parts) = self.connector.call(&command).await? else { break };
                let Some(Value::Array(flat)) = parts.get(1) else { break };
                for pair in flat.chunks_exact(2) {
                    let [session, Value::BulkString(json)] = pair else { continue };
                    if let Some(info) = serde_json::from_slice::<ConnectionInfo>(json).ok().filter(&fits) {
                        // A scan may answer one field twice.
                        found.insert(text(session), info);
                    }
                }
                cursor = parts.first().map(text).unwrap_or_default();
                if found.len() >= LOOKUP_MAX {
                    return Ok(found.into_values().take(LOOKUP_MAX).collect());
                }
                if cursor == "0" || cursor.is_empty() {
                    break;
                }
            }
        }
        Ok(found.into_values().collect())
    }
}

/// Whether a lease that ends at `until` has not ended yet, by Redis's clock.
pub(super) fn lives(time: &Value, until: &Value) -> bool {
    let Value::Array(parts) = time else { return false };
    let (Some(seconds), Some(micros)) = (parts.first().and_then(integer), parts.get(1).and_then(integer)) else { return false };
    let now = seconds.saturating_mul(1000).saturating_add(micros / 1000);
    integer(until).is_some_and(|until| until > now)
}

fn unroute(keys: &[String], node: &NodeId) -> Cmd {
    let mut command = evalsha(&UNROUTE, keys.len());
    command.arg(keys).arg(node.as_str());
    command
}

/// The public id, when it is not the session's own.
pub(super) fn alias_of(entry: &Entry) -> Option<&str> {
    (entry.connection_id != entry.session.as_str()).then_some(&entry.connection_id)
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[async_trait]
impl Presence for Redis {
    async fn open(&self, node: &NodeId) -> Result<Box<dyn NodeFeed>, QueueError> {
        self.nodes.open(node);
        let mut backoff = Backoff::new();
        loop {
            let started = match self.connector.ready().await {
                Ok(()) => self.start_feed(node).await,
                Err(error) => Err(error),
            };
            match started {
                Ok(feed) => return Ok(Box::new(feed)),
                Err(error @ (QueueError::Refused(_) | QueueError::Closed)) => {
                    self.nodes.close(node);
                    return Err(error);
                }
                Err(error) => tracing::warn!(%node, %error, "node could not be announced; tried again"),
            }
            time::sleep(backoff.next()).await;
        }
    }

    async fn enter(&self, entry: &Entry, previous: Option<&Entry>) -> Result<Option<SessionId>, QueueError> {
        let command = self.enter_command(entry, previous)?;
        let replaced = self.nodes.enter(entry);
        match self.batcher.run(command).await {
            Ok(Value::Int(0)) => {
                self.nodes.leave(&entry.session);
                Err(QueueError::Refused("this node's lease ended and others have taken over its connections".to_owned()))
            }
            Ok(older) => Ok(SessionId::parse(&text(&older))),
            Err(error) => {
                // It may have been written all the same, and would be an orphan one day that has had its `disconnect`.
                let undo = match &replaced {
                    Some(replaced) => {
                        drop(self.nodes.enter(replaced));
                        self.enter_command(replaced, Some(entry))?
                    }
                    None => {
                        self.nodes.leave(&entry.session);
                        self.leave_command(entry)
                    }
                };
                self.batcher.send(Write::Command { command: undo, done: Done::Nobody("announcement") }).await?;
                Err(error)
            }
        }
    }

    async fn leave(&self, entry: &Entry) -> Result<(), QueueError> {
        // Routes are counted here and dropped when idle: at once, a join on its way to this node would lose its route.
        self.nodes.leave(&entry.session);
        self.run_surely("departure", &self.leave_command(entry)).await
    }

    async fn adopt(&self, cleaner: &NodeId) -> Result<Adoption, QueueError> {
        self.adopt_for(cleaner).await
    }

    async fn lead(&self, node: &NodeId, time: Duration) -> Result<bool, QueueError> {
        let mut command = evalsha(&LEAD, 1);
        command.arg(self.connector.keys().leader()).arg(node.as_str()).arg(millis(time).max(1));
        Ok(integer(&self.connector.call(&command).await?) == Some(1))
    }

    async fn connection(&self, id: &str) -> Result<Option<ConnectionInfo>, QueueError> {
        if let Some(session) = SessionId::parse(id) {
            return self.roster_entry(&session).await;
        }
        let alias = self.connector.call(redis::cmd("GET").arg(self.connector.keys().alias(id))).await?;
        match SessionId::parse(&text(&alias)) {
            Some(session) => self.roster_entry(&session).await,
            None => Ok(None),
        }
    }

    async fn user_connections(&self, user: &str) -> Result<Vec<ConnectionInfo>, QueueError> {
        self.find(self.connector.keys().user_nodes(user), |info| info.user_id.as_deref() == Some(user)).await
    }

    async fn members(&self, group: &str) -> Result<Vec<ConnectionInfo>, QueueError> {
        self.find(self.connector.keys().group_nodes(group), |info| info.groups.iter().any(|name| name == group)).await
    }

    async fn online(&self) -> Result<u64, QueueError> {
        self.count_online().await
    }
}
