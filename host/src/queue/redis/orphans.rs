//! Dead nodes: adopted by a cleaner, whose claim ends unless it renews it, and walked through in steps that do not hold Redis up.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use plugsocket_plugin::Id;
use plugsocket_plugin::call::IdentityWire;
use redis::Value;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::{self, Instant};

use super::Redis;
use super::answers::{integer, text};
use super::lease::RENEWALS_PER_LEASE;
use super::local::routes;
use super::presence::{alias_of, millis};
use super::scripts::{ADOPT, BURY, CLAIM, FINISH, evalsha};
use crate::queue::{Adoption, Entry, Estate, QueueError};
use crate::wire::ids::{NodeId, SessionId};

/// Roster fields per step, about.
const ORPHANS_COUNT: usize = 128;
/// A process that was frozen for longer than that does not learn that it was cleaned up after.
const GONE_TTL: Duration = Duration::from_secs(2 * 24 * 3600);
/// A look follows the end of a lease by this much: scores are whole milliseconds.
const LOOK_AFTER: Duration = Duration::from_millis(5);

/// A roster's value: a `ConnectionInfo` and the identity, which older releases did not write.
#[derive(Serialize, Deserialize)]
pub(super) struct RosterValue<'value> {
    connection_id: Cow<'value, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user_id: Option<Cow<'value, str>>,
    node: Cow<'value, str>,
    #[serde(default)]
    groups: Cow<'value, [String]>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    identity: Option<&'value RawValue>,
}

impl<'value> RosterValue<'value> {
    /// What is written for a connection of `node`.
    pub(super) fn of(entry: &'value Entry, node: &'value NodeId) -> Self {
        Self {
            connection_id: Cow::Borrowed(&entry.connection_id),
            user_id: entry.user_id.as_deref().map(Cow::Borrowed),
            node: Cow::Borrowed(node.as_str()),
            groups: Cow::Borrowed(&entry.groups),
            identity: serde_json::from_slice(&entry.identity).ok(),
        }
    }
}

impl Redis {
    /// Claims a node whose lease has ended.
    pub(super) async fn adopt_for(&self, cleaner: &NodeId) -> Result<Adoption, QueueError> {
        let lease = self.options.lease;
        let interval = lease / RENEWALS_PER_LEASE;
        let soon = |again: Duration| Ok(Adoption::Nothing { again: again.clamp(LOOK_AFTER, interval.max(LOOK_AFTER)) });
        let not_after = match self.nodes.may_adopt(cleaner, lease) {
            Ok(not_after) => not_after,
            Err(missing) => return soon(missing),
        };
        let keys = self.connector.keys();
        let sent = Instant::now();
        let mut command = evalsha(&ADOPT, 2);
        command.arg(keys.nodes()).arg(keys.cleaners()).arg(cleaner.as_str()).arg(millis(lease)).arg(not_after);
        let Value::Array(parts) = self.connector.call(&command).await? else { return soon(interval) };
        let node = parts.first().map(text).unwrap_or_default();
        if node.is_empty() {
            let next = parts.get(1).and_then(integer).and_then(|next| u64::try_from(next).ok());
            return soon(next.map_or(interval, |next| Duration::from_millis(next) + LOOK_AFTER));
        }
        Ok(Adoption::Node(Arc::new(RedisEstate {
            redis: self.itself()?,
            node: NodeId::from_text(&node),
            cleaner: cleaner.clone(),
            state: Mutex::new(State { cursor: None, held_until: held_until(sent, lease) }),
        })))
    }
}

/// As with every lease, the last tenth is left to clocks that run apart.
fn held_until(renewal_sent: Instant, lease: Duration) -> Instant {
    renewal_sent + lease.mul_f64(0.9)
}

struct RedisEstate {
    redis: Arc<Redis>,
    node: NodeId,
    cleaner: NodeId,
    state: Mutex<State>,
}

struct State {
    /// Where the walk goes on; `None` at its start.
    cursor: Option<String>,
    held_until: Instant,
}

impl RedisEstate {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Renews the claim; false when it is another's.
    async fn claim(&self, length: Duration) -> Result<bool, QueueError> {
        let sent = Instant::now();
        let mut command = evalsha(&CLAIM, 1);
        command.arg(self.redis.connector.keys().cleaners());
        command.arg(self.node.as_str()).arg(self.cleaner.as_str()).arg(millis(length));
        let is_ours = self.redis.connector.call(&command).await? == Value::Int(1);
        self.lock().held_until = if is_ours { held_until(sent, length) } else { sent };
        Ok(is_ours)
    }
}

#[async_trait]
impl Estate for RedisEstate {
    fn node(&self) -> &NodeId {
        &self.node
    }

    fn is_ours(&self) -> bool {
        Instant::now() < self.lock().held_until
    }

    async fn keep(&self) {
        let lease = self.redis.options.lease;
        loop {
            time::sleep(lease / RENEWALS_PER_LEASE).await;
            // One that can't be renewed ends by itself.
            if matches!(self.claim(lease).await, Ok(false)) || !self.is_ours() {
                return;
            }
        }
    }

    async fn next(&self) -> Result<Option<Vec<Entry>>, QueueError> {
        let cursor = self.lock().cursor.clone().unwrap_or_else(|| "0".to_owned());
        if cursor.is_empty() {
            self.lock().cursor = None;
            return Ok(None);
        }
        let mut command = redis::cmd("HSCAN");
        command.arg(self.redis.connector.keys().roster(&self.node)).arg(&cursor).arg("COUNT").arg(ORPHANS_COUNT);
        let answer = self.redis.connector.call(&command).await?;
        let Value::Array(parts) = &answer else { return Err(QueueError::Refused(format!("HSCAN answered {answer:?}"))) };
        let mut orphans: Vec<Entry> = Vec::new();
        if let Some(Value::Array(flat)) = parts.get(1) {
            for pair in flat.chunks_exact(2) {
                let [session, Value::BulkString(value)] = pair else { continue };
                let orphan = orphan(&text(session), value);
                // A step may tell one field twice.
                if !orphans.iter().any(|known| known.session == orphan.session) {
                    orphans.push(orphan);
                }
            }
        }
        let following = parts.first().map(text).unwrap_or_default();
        self.lock().cursor = Some(if following == "0" { String::new() } else { following });
        Ok(Some(orphans))
    }

    async fn bury(&self, orphan: &Entry) -> Result<(), QueueError> {
        let keys = self.redis.connector.keys();
        let (roster, alias) = (keys.roster(&self.node), alias_of(orphan));
        let routes: Vec<String> = routes(orphan).iter().map(|route| self.redis.route_key(route)).collect();
        let mut command = evalsha(&BURY, 2 + routes.len());
        command.arg(&roster).arg(alias.map_or_else(|| roster.clone(), |id| keys.alias(id))).arg(&routes);
        command.arg(orphan.session.as_str()).arg(if alias.is_some() { "alias" } else { "" }).arg(self.node.as_str());
        self.redis.run_surely("burial", &command).await
    }

    async fn finish(&self) -> Result<bool, QueueError> {
        let keys = self.redis.connector.keys();
        let mut command = evalsha(&FINISH, 5);
        command.arg(keys.nodes()).arg(keys.cleaners()).arg(keys.outgoing(&self.node)).arg(keys.roster(&self.node));
        command.arg(keys.gone(&self.node)).arg(self.node.as_str()).arg(self.cleaner.as_str()).arg(millis(GONE_TTL));
        match self.redis.connector.call(&command).await? {
            Value::Int(0) => Ok(false),
            _ => Ok(true),
        }
    }

    async fn release(&self) {
        if let Err(error) = self.claim(Duration::ZERO).await {
            tracing::debug!(node = %self.node, %error, "claim not given back; it ends by itself");
        }
    }
}

/// Reads a field of a dead node's roster. One that can't be read still gets its `disconnect`, with what is known: its session.
fn orphan(session: &str, value: &[u8]) -> Entry {
    let read = serde_json::from_slice(value).unwrap_or_else(|error| {
        tracing::error!(session, %error, "a dead node's connection can't be read; its user, fields and groups are not known");
        let groups = Cow::Borrowed(&[][..]);
        RosterValue { connection_id: Cow::Borrowed(session), user_id: None, node: Cow::Borrowed(""), groups, identity: None }
    });
    let RosterValue { connection_id, user_id, groups, identity, .. } = read;
    let (connection_id, user_id, groups) = (connection_id.into_owned(), user_id.map(Cow::into_owned), groups.into_owned());
    let identity = match identity {
        Some(identity) => Bytes::copy_from_slice(identity.get().as_bytes()),
        None => {
            let connection_id = Some(Id::from(connection_id.as_str()));
            let user_id = user_id.as_deref().map(Id::from);
            let known = IdentityWire { connection_id, user_id, groups: groups.clone(), ..IdentityWire::default() };
            serde_json::to_vec(&known).unwrap_or_default().into()
        }
    };
    Entry { session: SessionId::from_text(session), connection_id, user_id, groups, identity }
}

#[cfg(test)]
mod tests {
    use plugsocket_plugin::call::ConnectionInfo;

    use super::*;

    #[test]
    fn what_an_older_release_wrote_still_has_an_identity() {
        let old = orphan("n.s", br#"{"connection_id":"bob","user_id":"7","node":"n","groups":["g"]}"#);
        assert_eq!((old.connection_id.as_str(), old.user_id.as_deref(), &old.groups[..]), ("bob", Some("7"), &["g".to_owned()][..]));
        assert_eq!(&old.identity[..], br#"{"connection_id":"bob","user_id":"7","groups":["g"]}"#);
        assert_eq!(&orphan("n.s", b"garbage").identity[..], br#"{"connection_id":"n.s"}"#);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let node = NodeId::from_text("n");
        let identity = Bytes::from_static(br#"{"connection_id":7,"fields":{"nick":"B\u00e9"}}"#);
        let groups = vec!["g".to_owned()];
        let entry = Entry { session: SessionId::from_text("n.s"), connection_id: "7".to_owned(), user_id: None, groups, identity };
        let value = serde_json::to_vec(&RosterValue::of(&entry, &node)).unwrap();
        assert_eq!(orphan("n.s", &value), entry);
        assert_eq!(serde_json::from_slice::<ConnectionInfo>(&value).unwrap().node, "n", "lookups read it as well");
    }
}
