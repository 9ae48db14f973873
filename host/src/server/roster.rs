//! Who is here: this node's sessions by id, public id, user and group.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use plugsocket_plugin::call::ConnectionInfo;

use super::holders::Holders;
use super::id_hash::{ById, IdSet, forget};
use super::session::{Pulse, Session};
use crate::config::Limits;
use crate::context::LocalConnections;
use crate::queue::Entry;
use crate::wire::delivery::Address;
use crate::wire::ids::{NodeId, SessionId};

/// The sessions of one node. Locked for moments only, never across a wait.
pub(crate) struct Roster {
    node: NodeId,
    tables: Mutex<Tables>,
}

#[derive(Default)]
struct Tables {
    sessions: ById<Seat>,
    connections: Holders,
    users: HashMap<Arc<str>, IdSet>,
    groups: HashMap<Arc<str>, IdSet>,
    registered: usize,
    draining: bool,
}

struct Seat {
    session: Arc<Session>,
    member: Option<Box<Member>>,
}

struct Member {
    connection_id: Arc<str>,
    user_id: Option<Arc<str>>,
    groups: Vec<Arc<str>>,
    /// Groups as the queue knows them, while a change is on its way there.
    announced: Option<Vec<Arc<str>>>,
    identity: Bytes,
}

impl Member {
    fn entry(&self, session: &SessionId, groups: &[Arc<str>]) -> Entry {
        Entry {
            session: session.clone(),
            connection_id: self.connection_id.to_string(),
            user_id: self.user_id.as_deref().map(str::to_owned),
            groups: groups.iter().map(ToString::to_string).collect(),
            identity: self.identity.clone(),
        }
    }
}

impl Roster {
    /// Nobody.
    pub fn new(node: NodeId) -> Self {
        Self { node, tables: Mutex::default() }
    }

    /// Adds a session that is not registered yet. False while draining: it must go.
    pub fn admit(&self, session: Arc<Session>) -> bool {
        let mut tables = self.lock();
        if tables.draining {
            return false;
        }
        tables.sessions.insert(session.id.clone(), Seat { session, member: None });
        true
    }

    /// Registers a session or replaces its identity. `at_entry` runs before anything else can be sent to it as a member. Answers the older
    /// session here with the same public id.
    pub fn enter(&self, entry: &Entry, at_entry: impl FnOnce()) -> Option<Arc<Session>> {
        let mut tables = self.lock();
        tables.vacate(&entry.session);
        let member = Member {
            connection_id: entry.connection_id.as_str().into(),
            user_id: entry.user_id.as_deref().map(Into::into),
            groups: entry.groups.iter().map(|group| group.as_str().into()).collect(),
            announced: None,
            identity: entry.identity.clone(),
        };
        let tables = &mut *tables;
        if !tables.sessions.contains_key(&entry.session) {
            return None;
        }
        let mut older = None;
        if entry.connection_id != entry.session.as_str() {
            let sessions = &tables.sessions;
            let stays = |older: &SessionId| sessions.get(older).is_some_and(|seat| seat.session.shares_its_id());
            older = tables.connections.take(&member.connection_id, &entry.session, stays);
        }
        if let Some(user) = &member.user_id {
            tables.users.entry(Arc::clone(user)).or_default().insert(entry.session.clone());
        }
        for group in &member.groups {
            tables.groups.entry(Arc::clone(group)).or_default().insert(entry.session.clone());
        }
        tables.sessions.get_mut(&entry.session)?.member = Some(Box::new(member));
        tables.registered += 1;
        at_entry();
        older.and_then(|older| tables.sessions.get(&older)).map(|seat| Arc::clone(&seat.session))
    }

    /// What the queue knows of the session that has this public id; `None` for a session's own id.
    pub fn holder(&self, connection_id: &str) -> Option<Entry> {
        let session = self.lock().connections.newest(connection_id)?.clone();
        self.announced(&session)
    }

    /// Ends a session's membership; `None` when it had none. The session stays, to register again.
    pub fn vacate(&self, session: &SessionId) -> Option<Entry> {
        self.lock().vacate(session)
    }

    /// Removes a session; `None` when it was not registered.
    pub fn remove(&self, session: &SessionId) -> Option<Entry> {
        let mut tables = self.lock();
        let departure = tables.vacate(session);
        tables.sessions.remove(session);
        departure
    }

    /// What the queue knows of a session.
    pub fn announced(&self, session: &SessionId) -> Option<Entry> {
        let tables = self.lock();
        let member = tables.sessions.get(session)?.member.as_ref()?;
        Some(member.entry(session, member.announced.as_ref().unwrap_or(&member.groups)))
    }

    /// Adds a session to a group or takes it out. True when the queue has to be told, and nobody is about to.
    pub fn regroup(&self, session: &SessionId, group: &str, joins: bool) -> bool {
        let mut tables = self.lock();
        let tables = &mut *tables;
        let Some(member) = tables.sessions.get_mut(session).and_then(|seat| seat.member.as_mut()) else { return false };
        let place = member.groups.iter().position(|known| known.as_ref() == group);
        let before = member.groups.clone();
        match (place, joins) {
            (None, true) => {
                let group: Arc<str> = tables.groups.get_key_value(group).map_or_else(|| group.into(), |(known, _)| Arc::clone(known));
                member.groups.push(Arc::clone(&group));
                tables.groups.entry(group).or_default().insert(session.clone());
            }
            (Some(place), false) => {
                member.groups.swap_remove(place);
                forget(&mut tables.groups, group, session);
            }
            (Some(_), true) | (None, false) => return false,
        }
        let is_queued = member.announced.is_some();
        member.announced.get_or_insert(before);
        !is_queued
    }

    /// What the queue has to be told about a session's groups: as they are, and as it knows them. It counts as told from here on.
    pub fn take_announcement(&self, session: &SessionId) -> Option<(Entry, Entry)> {
        let mut tables = self.lock();
        let member = tables.sessions.get_mut(session)?.member.as_mut()?;
        let before = member.announced.take()?;
        Some((member.entry(session, &member.groups), member.entry(session, &before)))
    }

    /// The queue has not heard of a session's groups after all: it still has those of `known`.
    pub fn renew_announcement(&self, known: &Entry) {
        let mut tables = self.lock();
        if let Some(member) = tables.sessions.get_mut(&known.session).and_then(|seat| seat.member.as_mut()) {
            member.announced = Some(known.groups.iter().map(|group| group.as_str().into()).collect());
        }
    }

    /// The session with this id.
    pub fn get(&self, session: &SessionId) -> Option<Arc<Session>> {
        self.lock().sessions.get(session).map(|seat| Arc::clone(&seat.session))
    }

    /// The sessions that any of the addresses means, each once, without `except`: a session id, or a public id with all sessions that
    /// have it.
    pub fn resolve(&self, to: &[Address], except: Option<&str>) -> Vec<Arc<Session>> {
        let tables = self.lock();
        let mut found = Vec::new();
        for address in to {
            tables.find(address, &mut found);
        }
        if to.len() > 1 {
            found.sort_unstable_by_key(Arc::as_ptr);
            found.dedup_by_key(|session| Arc::as_ptr(session));
        }
        if let Some(except) = except {
            let left_out = tables.by_public_id(except).map(|session| &session.id);
            let older: HashSet<&SessionId> = tables.connections.older(except).iter().collect();
            found.retain(|session| Some(&session.id) != left_out && !older.contains(&session.id));
        }
        found
    }

    /// Every session that time has brought something for.
    pub fn pulses(&self, now_ms: u64, limits: &Limits) -> Vec<(Arc<Session>, Pulse)> {
        let tables = self.lock();
        let due = |seat: &Seat| seat.session.pulse(now_ms, limits).map(|pulse| (Arc::clone(&seat.session), pulse));
        tables.sessions.values().filter_map(due).collect()
    }

    /// Admits nobody from here on; answers everybody who is here.
    pub fn drain(&self) -> Vec<Arc<Session>> {
        let mut tables = self.lock();
        tables.draining = true;
        tables.sessions.values().map(|seat| Arc::clone(&seat.session)).collect()
    }

    /// Whether [`Self::drain`] has been called.
    pub fn is_draining(&self) -> bool {
        self.lock().draining
    }

    /// How many sessions are open, and how many of them are registered.
    pub fn counts(&self) -> (usize, usize) {
        let tables = self.lock();
        (tables.sessions.len(), tables.registered)
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LocalConnections for Roster {
    fn list(&self) -> Vec<ConnectionInfo> {
        let tables = self.lock();
        let members = tables.sessions.values().filter(|seat| !seat.session.outlet.has_ended()).filter_map(|seat| seat.member.as_deref());
        let info = |member: &Member| ConnectionInfo {
            connection_id: member.connection_id.to_string(),
            user_id: member.user_id.as_deref().map(str::to_owned),
            node: self.node.to_string(),
            groups: member.groups.iter().map(ToString::to_string).collect(),
        };
        members.map(info).collect()
    }
}

impl Tables {
    fn by_public_id(&self, id: &str) -> Option<&Arc<Session>> {
        let seat = match self.connections.newest(id) {
            Some(session) => self.sessions.get(session),
            None => SessionId::parse(id).and_then(|session| self.sessions.get(&session)),
        };
        seat.map(|seat| &seat.session)
    }

    fn find(&self, address: &Address, found: &mut Vec<Arc<Session>>) {
        let session_of = |id: &SessionId| self.sessions.get(id).map(|seat| Arc::clone(&seat.session));
        match address {
            Address::Session(id) => found.extend(session_of(id)),
            Address::Connection(id) => found.extend(self.by_public_id(id).cloned()),
            Address::User(id) => found.extend(self.users.get(id.as_str()).into_iter().flatten().filter_map(session_of)),
            Address::Group(id) => found.extend(self.groups.get(id.as_str()).into_iter().flatten().filter_map(session_of)),
            Address::All => {
                let registered = self.sessions.values().filter(|seat| seat.member.is_some());
                found.extend(registered.map(|seat| Arc::clone(&seat.session)));
            }
        }
    }

    fn vacate(&mut self, session: &SessionId) -> Option<Entry> {
        let member = self.sessions.get_mut(session)?.member.take()?;
        self.registered -= 1;
        self.connections.give_up(&member.connection_id, session);
        if let Some(user) = &member.user_id {
            forget(&mut self.users, user.as_ref(), session);
        }
        for group in &member.groups {
            forget(&mut self.groups, group.as_ref(), session);
        }
        // The queue's view may be older than ours; what it still has is what must go.
        Some(member.entry(session, member.announced.as_ref().unwrap_or(&member.groups)))
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::config::Settings;

    struct Room {
        roster: Roster,
        node: NodeId,
    }

    impl Room {
        fn new() -> Self {
            let node = NodeId::random().unwrap();
            Self { roster: Roster::new(node.clone()), node }
        }

        fn seat(&self, connection_id: Option<&str>, user: &str, groups: &[&str]) -> Arc<Session> {
            let settings = Arc::new(arc_swap::ArcSwap::from_pointee(Settings::default()));
            let id = SessionId::random(&self.node).unwrap();
            let session = Arc::new(Session::new((id.clone(), IpAddr::from([127, 0, 0, 1])), settings, <_>::default(), 0));
            assert!(self.roster.admit(Arc::clone(&session)));
            self.roster.enter(&entry(&id, connection_id, user, groups), || {});
            session
        }

        fn count(&self, to: &[Address], except: Option<&str>) -> usize {
            self.roster.resolve(to, except).len()
        }
    }

    fn entry(session: &SessionId, connection_id: Option<&str>, user: &str, groups: &[&str]) -> Entry {
        Entry {
            session: session.clone(),
            connection_id: connection_id.unwrap_or(session.as_str()).to_owned(),
            user_id: Some(user.to_owned()),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            identity: Bytes::new(),
        }
    }

    #[test]
    fn each_connection_once_and_never_the_excepted() {
        let room = Room::new();
        let alice = room.seat(Some("alice"), "1", &["red"]);
        let second = room.seat(None, "1", &["red", "blue"]);
        let addresses =
            [Address::User("1".to_owned()), Address::Group("red".to_owned()), Address::Connection("alice".to_owned()), Address::All];
        assert_eq!(room.count(&addresses, None), 2);
        assert_eq!(room.count(&addresses, Some("alice")), 1);
        assert_eq!(room.count(&addresses, Some(alice.id.as_str())), 1, "the session id names it as well");
        assert_eq!(room.count(&[Address::Connection(second.id.to_string())], None), 1);
        assert_eq!(room.count(&[Address::Group("green".to_owned())], None), 0);
    }

    #[test]
    fn leaving_empties_the_routes_that_nobody_else_needs() {
        let room = Room::new();
        let first = room.seat(None, "1", &["red", "blue"]);
        let second = room.seat(None, "1", &["red"]);
        let routes = || {
            let inner = room.roster.lock();
            let groups: std::collections::BTreeSet<_> = inner.groups.keys().map(ToString::to_string).collect();
            (inner.users.len(), groups.into_iter().collect::<Vec<_>>())
        };
        assert_eq!(room.roster.remove(&first.id).unwrap().session, first.id);
        assert_eq!(routes(), (1, vec!["red".to_owned()]), "the user and one group are still needed");
        assert!(room.roster.remove(&second.id).is_some());
        assert_eq!(routes(), (0, Vec::new()));
        assert_eq!(room.roster.remove(&second.id), None);
        assert_eq!(room.roster.counts(), (0, 0));
    }

    #[test]
    fn the_newer_session_takes_the_public_id_and_keeps_it() {
        let room = Room::new();
        let older = room.seat(Some("alice"), "1", &[]);
        let newer = room.seat(None, "1", &[]);
        let displaced = room.roster.enter(&entry(&newer.id, Some("alice"), "1", &[]), || {}).unwrap();
        assert!(Arc::ptr_eq(&displaced, &older));
        room.roster.remove(&older.id);
        let found = room.roster.resolve(&[Address::Connection("alice".to_owned())], None);
        assert!(Arc::ptr_eq(&found[0], &newer));
    }

    #[test]
    fn groups_change_at_once_and_are_announced_once() {
        let room = Room::new();
        let session = room.seat(None, "1", &["red"]);
        assert!(room.roster.regroup(&session.id, "blue", true));
        assert!(!room.roster.regroup(&session.id, "red", false), "an announcement is on its way already");
        assert_eq!(room.count(&[Address::Group("blue".to_owned())], None), 1);
        assert_eq!(room.count(&[Address::Group("red".to_owned())], None), 0);
        let (now, before) = room.roster.take_announcement(&session.id).unwrap();
        assert_eq!((now.groups, before.groups), (vec!["blue".to_owned()], vec!["red".to_owned()]));
        assert!(room.roster.take_announcement(&session.id).is_none());
        assert!(!room.roster.regroup(&session.id, "blue", true), "no change");
    }

    #[test]
    fn an_unregistered_session_gets_no_broadcast_and_a_draining_node_admits_nobody() {
        let room = Room::new();
        let settings = Arc::new(arc_swap::ArcSwap::from_pointee(Settings::default()));
        let newcomer = || {
            let id = SessionId::random(&room.node).unwrap();
            Arc::new(Session::new((id, IpAddr::from([127, 0, 0, 1])), Arc::clone(&settings), <_>::default(), 0))
        };
        assert!(room.roster.admit(newcomer()));
        assert_eq!(room.count(&[Address::All], None), 0);
        assert_eq!(room.roster.drain().len(), 1);
        assert!(!room.roster.admit(newcomer()));
    }
}
