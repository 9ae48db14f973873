//! Who has a public id: the newest session that took it, and the older ones that stayed.

use std::collections::HashMap;
use std::sync::Arc;

use crate::wire::ids::SessionId;

/// Ids that the handler chose; a session's own id needs no entry.
#[derive(Default)]
pub(super) struct Holders {
    newest: HashMap<Arc<str>, SessionId>,
    /// The oldest first.
    older: HashMap<Arc<str>, Vec<SessionId>>,
}

impl Holders {
    /// The session that the id means.
    pub fn newest(&self, id: &str) -> Option<&SessionId> {
        self.newest.get(id)
    }

    /// Those that had it before, and stayed.
    pub fn older(&self, id: &str) -> &[SessionId] {
        self.older.get(id).map_or(&[], Vec::as_slice)
    }

    /// Gives the id to this session. Answers who had it so far; that one is remembered when it `stays`.
    pub fn take(&mut self, id: &Arc<str>, session: &SessionId, stays: impl FnOnce(&SessionId) -> bool) -> Option<SessionId> {
        let before = self.newest.insert(Arc::clone(id), session.clone())?;
        if stays(&before) {
            self.older.entry(Arc::clone(id)).or_default().push(before.clone());
        }
        Some(before)
    }

    /// This session has the id no longer. When it was the newest, the one before it has the id again.
    pub fn give_up(&mut self, id: &Arc<str>, session: &SessionId) {
        let is_newest = self.newest.get(id) == Some(session);
        let mut heir = None;
        if let Some(older) = self.older.get_mut(id) {
            if is_newest {
                heir = older.pop();
            } else {
                older.retain(|other| other != session);
            }
            if older.is_empty() {
                self.older.remove(id);
            }
        }
        if let Some(heir) = heir {
            self.newest.insert(Arc::clone(id), heir);
        } else if is_newest {
            self.newest.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ids::NodeId;

    #[test]
    fn an_id_goes_back_to_the_newest_that_stayed() {
        let node = NodeId::random().unwrap();
        let [a, b, c]: [SessionId; 3] = std::array::from_fn(|_| SessionId::random(&node).unwrap());
        let (id, mut holders): (Arc<str>, _) = ("alice".into(), Holders::default());
        assert_eq!(holders.take(&id, &a, |_| true), None);
        assert_eq!(holders.take(&id, &b, |_| true), Some(a.clone()));
        assert_eq!(holders.take(&id, &c, |_| true), Some(b.clone()));
        assert_eq!((holders.newest("alice"), holders.older("alice")), (Some(&c), &[a.clone(), b.clone()][..]));
        holders.give_up(&id, &b);
        assert_eq!(holders.newest("alice"), Some(&c), "an older one leaves and takes nothing along");
        holders.give_up(&id, &c);
        assert_eq!((holders.newest("alice"), holders.older("alice")), (Some(&a), &[][..]));
        holders.give_up(&id, &c);
        assert_eq!(holders.newest("alice"), Some(&a), "it was not its any more");
        assert_eq!(holders.take(&id, &b, |_| false), Some(a.clone()), "one that goes is not remembered");
        holders.give_up(&id, &b);
        holders.give_up(&id, &a);
        assert!(holders.newest.is_empty() && holders.older.is_empty());
    }
}
