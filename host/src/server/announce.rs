//! Keeps the queue's presence in step with the roster: changes of one route never overtake each other.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{sleep, timeout};

use super::node::Node;
use super::session::Session;
use crate::queue::{Entry, QueueError};
use crate::wire::ids::SessionId;

/// Many more than changes are under way at once: those of different routes seldom meet.
const GATES: usize = 1024;
/// How long a registration waits for others of the same routes; they take this long only when the queue can't be reached.
const GATE_TIMEOUT: Duration = Duration::from_secs(10);

/// Before a change of groups that could not be told is told again.
const REGROUP_PAUSE: Duration = Duration::from_secs(1);

/// A lock per route (hashed): without it "the last one of this user has left" could be written after "one has come" and cut the new one off.
pub(crate) struct Gates {
    gates: [Mutex<()>; GATES],
    hasher: RandomState,
}

impl Gates {
    /// All open.
    pub fn new() -> Self {
        Self { gates: std::array::from_fn(|_| Mutex::new(())), hasher: RandomState::new() }
    }

    async fn pass(&self, entries: &[Option<&Entry>]) -> Vec<MutexGuard<'_, ()>> {
        let mut places = Vec::new();
        let mut add =
            |kind: u8, id: &str| places.push(usize::try_from(self.hasher.hash_one((kind, id)) % (GATES as u64)).unwrap_or_default());
        for entry in entries.iter().flatten() {
            add(b'c', &entry.connection_id);
            entry.user_id.iter().for_each(|user| add(b'u', user));
            entry.groups.iter().for_each(|group| add(b'g', group));
        }
        // Always in the same order, so that two of us never wait for each other.
        places.sort_unstable();
        places.dedup();
        let mut guards = Vec::with_capacity(places.len());
        for place in places {
            guards.push(self.gates[place].lock().await);
        }
        guards
    }
}

/// Makes a session a member here and in the queue; `at_entry` runs before anything can be sent to it as a member. An older session with the
/// same public id gives way, wherever it is: of two that come at the same moment the queue says which is the newer one.
///
/// # Errors
/// [`QueueError`]: not announced, and no member here.
pub(crate) async fn enter(node: &Node, entry: &Entry, at_entry: impl FnOnce()) -> Result<(), QueueError> {
    let previous = node.roster.announced(&entry.session);
    let admitted = timeout(GATE_TIMEOUT, async {
        // Before that nothing reaches the node, and nobody would look for what it leaves behind.
        node.hold.opened().await;
        node.gates.pass(&[Some(entry), previous.as_ref()]).await
    });
    let Ok(guards) = admitted.await else {
        return Err(QueueError::Unreachable("the node is not announced yet, or others wait for it already".to_owned()));
    };
    // Where ids are shared, whoever registers is the newest again, although the session had the id before.
    let shares_ids = node.settings.load().server.protocol.shares_ids();
    let replaced = previous.as_ref().filter(|previous| !shares_ids || previous.connection_id != entry.connection_id);
    let elsewhere = node.queue.presence.enter(entry, replaced).await?;
    if let Some(older) = node.roster.enter(entry, at_entry) {
        older.give_way();
    }
    if let Some(older) = elsewhere
        && let Err(error) = super::replace::close_elsewhere(node, older).await
    {
        tracing::warn!(session = %entry.session, %error, "an older connection with the same id on another node was not closed");
    }
    drop(guards);
    if shares_ids && let Some(former) = previous.filter(|previous| previous.connection_id != entry.connection_id) {
        hand_back(node, &former.connection_id).await;
    }
    Ok(())
}

/// Ends a session's membership here and in the queue; with `is_gone` the session goes as well.
pub(crate) async fn leave(node: &Node, session: &SessionId, is_gone: bool) {
    let announced = node.roster.announced(session);
    let guards = node.gates.pass(&[announced.as_ref()]).await;
    let departure = if is_gone { node.roster.remove(session) } else { node.roster.vacate(session) };
    let Some(entry) = departure else { return };
    if let Err(error) = node.queue.presence.leave(&entry).await {
        tracing::warn!(%session, %error, "the queue was not told yet that a connection left");
    }
    drop(guards);
    if node.settings.load().server.protocol.shares_ids() {
        hand_back(node, &entry.connection_id).await;
    }
}

/// Has the queue find the session of this node that a public id means now, after another one has given it up, unless it knows another one: also
/// when an older one left, which it may have known instead since it lost its data.
async fn hand_back(node: &Node, connection_id: &str) {
    let Some(heir) = node.roster.holder(connection_id) else { return };
    // Whatever else is told of this session goes through the gate of its public id as well.
    let _guards = node.gates.pass(&[Some(&heir)]).await;
    let Some(heir) = node.roster.holder(connection_id) else { return };
    if let Err(error) = node.queue.presence.enter(&heir, Some(&heir)).await {
        tracing::warn!(session = %heir.session, %error, "the queue was not told that an id is an older connection's again");
    }
}

/// Tells the queue a session's groups, when they changed, however long that takes: without it nothing sent to a new group would reach the node.
pub(crate) async fn regroup(node: &Node, session: &Session) {
    loop {
        let announced = node.roster.announced(&session.id);
        let guards = node.gates.pass(&[announced.as_ref()]).await;
        let Some((now, before)) = node.roster.take_announcement(&session.id) else { return };
        let Err(error) = node.queue.presence.enter(&now, Some(&before)).await else { return };
        tracing::warn!(session = %session.id, %error, "the queue was not told that a connection's groups changed");
        if !matches!(error, QueueError::Unreachable(_)) {
            return;
        }
        node.roster.renew_announcement(&before);
        drop(guards);
        sleep(REGROUP_PAUSE).await;
    }
}
