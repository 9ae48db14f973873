//! What this process has announced of its own nodes: enough to announce it all again, and to know which routes are no longer needed.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::streak::Streak;
use crate::queue::Entry;
use crate::wire::ids::{NodeId, SessionId};

/// A set that leads to nodes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Route {
    User(String),
    Group(String),
}

/// The routes a connection needs.
pub(super) fn routes(entry: &Entry) -> Vec<Route> {
    let user = entry.user_id.iter().map(|user| Route::User(user.clone()));
    user.chain(entry.groups.iter().map(|group| Route::Group(group.clone()))).collect()
}

#[derive(Debug, Default)]
struct LocalNode {
    entries: HashMap<SessionId, Entry>,
    needed: HashMap<Route, usize>,
    idle: HashMap<Route, Instant>,
    streak: Option<Streak>,
}

impl LocalNode {
    fn need(&mut self, entry: &Entry) {
        for route in routes(entry) {
            self.idle.remove(&route);
            *self.needed.entry(route).or_insert(0) += 1;
        }
    }

    fn release(&mut self, entry: &Entry) {
        for route in routes(entry) {
            if let Some(count) = self.needed.get_mut(&route) {
                *count -= 1;
                if *count == 0 {
                    self.needed.remove(&route);
                    self.idle.insert(route, Instant::now());
                }
            }
        }
    }
}

/// The nodes that are open in this process.
#[derive(Debug, Default)]
pub(super) struct LocalNodes(Mutex<HashMap<NodeId, LocalNode>>);

impl LocalNodes {
    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, LocalNode>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn open(&self, node: &NodeId) {
        self.lock().entry(node.clone()).or_default();
    }

    /// Notes that a node's lease was renewed.
    pub(super) fn renewed(&self, node: &NodeId, redis_ms: i64, lease: Duration) {
        let now = Instant::now();
        if let Some(node) = self.lock().get_mut(node) {
            node.streak.get_or_insert_with(|| Streak::start(now, redis_ms)).renewed(now, redis_ms, lease);
        }
    }

    /// As [`Streak::may_adopt`].
    ///
    /// # Errors
    /// How long it takes until the node may.
    pub(super) fn may_adopt(&self, node: &NodeId, lease: Duration) -> Result<i64, Duration> {
        let streak = self.lock().get(node).and_then(|node| node.streak);
        streak.map_or(Err(lease), |streak| streak.may_adopt(Instant::now(), lease))
    }

    /// Notes a connection; answers what it replaces.
    pub(super) fn enter(&self, entry: &Entry) -> Option<Entry> {
        let mut nodes = self.lock();
        let node = nodes.get_mut(&entry.session.node())?;
        node.need(entry);
        let replaced = node.entries.insert(entry.session.clone(), entry.clone());
        if let Some(replaced) = &replaced {
            node.release(replaced);
        }
        replaced
    }

    /// Takes back [`Self::enter`] or ends a connection.
    pub(super) fn leave(&self, session: &SessionId) {
        let mut nodes = self.lock();
        let Some(node) = nodes.get_mut(&session.node()) else { return };
        if let Some(entry) = node.entries.remove(session) {
            node.release(&entry);
        }
    }

    /// Whether there are routes that have not been needed for `idle`.
    pub(super) fn has_idle(&self, node: &NodeId, idle: Duration) -> bool {
        self.lock().get(node).is_some_and(|node| node.idle.values().any(|since| since.elapsed() > idle))
    }

    /// Forgets at most `max` routes that have not been needed for `idle`. `drop_routes` is called while nobody can need one again.
    pub(super) fn take_idle(&self, node: &NodeId, idle: Duration, max: usize, drop_routes: impl FnOnce(&[Route])) {
        let mut nodes = self.lock();
        let Some(node) = nodes.get_mut(node) else { return };
        let old: Vec<Route> =
            node.idle.iter().filter(|(_, since)| since.elapsed() > idle).map(|(route, _)| route.clone()).take(max).collect();
        for route in &old {
            node.idle.remove(route);
        }
        if !old.is_empty() {
            drop_routes(&old);
        }
    }

    pub(super) fn sessions(&self, node: &NodeId) -> Vec<SessionId> {
        self.lock().get(node).map(|node| node.entries.keys().cloned().collect()).unwrap_or_default()
    }

    /// Calls `announce` with a session's entry while it can't change.
    pub(super) fn with(&self, session: &SessionId, announce: impl FnOnce(&Entry)) {
        if let Some(entry) = self.lock().get(&session.node()).and_then(|node| node.entries.get(session)) {
            announce(entry);
        }
    }

    /// Ends a node; answers all its routes.
    pub(super) fn close(&self, node: &NodeId) -> Vec<Route> {
        self.lock().remove(node).map(|node| node.needed.into_keys().chain(node.idle.into_keys()).collect()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(session: &SessionId, groups: &[&str]) -> Entry {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        Entry { session: session.clone(), connection_id: "c".to_owned(), user_id: None, groups, identity: bytes::Bytes::new() }
    }

    #[test]
    fn a_route_is_idle_only_when_no_connection_needs_it() {
        let node = NodeId::random().unwrap();
        let (one, two) = (SessionId::random(&node).unwrap(), SessionId::random(&node).unwrap());
        let nodes = LocalNodes::default();
        nodes.open(&node);
        nodes.enter(&entry(&one, &["g", "h"]));
        nodes.enter(&entry(&two, &["g"]));
        nodes.enter(&entry(&one, &["h"]));
        nodes.leave(&one);
        let idle = |nodes: &LocalNodes| nodes.lock()[&node].idle.keys().cloned().collect::<Vec<_>>();
        assert_eq!(idle(&nodes), [Route::Group("h".to_owned())]);
        assert!(!nodes.has_idle(&node, Duration::from_secs(60)), "not for long enough");
        nodes.take_idle(&node, Duration::from_secs(60), 10, |routes| panic!("{routes:?}"));
        nodes.enter(&entry(&one, &["h"]));
        assert!(idle(&nodes).is_empty(), "needed again");
        let mut left = nodes.close(&node);
        left.sort_by_key(|route| format!("{route:?}"));
        assert_eq!(left, [Route::Group("g".to_owned()), Route::Group("h".to_owned())]);
    }
}
