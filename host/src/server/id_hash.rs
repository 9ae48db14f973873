//! Hashing of session ids, which are random and of our own making: nobody else chooses them, so a quick hash will do.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use crate::wire::ids::SessionId;

/// Sessions by their id. Only ids that were made here may be put in.
pub(super) type ById<T> = HashMap<SessionId, T, BuildHasherDefault<IdHasher>>;

/// A set of sessions. Only ids that were made here may be put in.
pub(super) type IdSet = HashSet<SessionId, BuildHasherDefault<IdHasher>>;

/// Takes a session out of a table of sets; an empty set goes with it.
pub(super) fn forget(table: &mut HashMap<Arc<str>, IdSet>, key: &str, session: &SessionId) {
    let Some(set) = table.get_mut(key) else { return };
    set.remove(session);
    if set.is_empty() {
        table.remove(key);
    }
}

/// A hasher of one text.
#[derive(Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 ^= xxh3_64(bytes);
    }

    /// What ends a text in the standard library's hashing; there is only one.
    fn write_u8(&mut self, _: u8) {}
}
