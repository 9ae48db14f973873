//! The names of all keys in Redis, in one place; part of the contract between releases.

use super::commands::put_shown;
use crate::wire::ids::NodeId;

/// Consumer group of every partition.
pub(super) const GROUP: &str = "w";
/// Version of keys and fields, kept in `:cfg`. 2: jobs and deliveries are packed.
pub(super) const FORMAT_VERSION: u32 = 2;
/// The oldest one whose data this release reads; it then marks the queue as its own, so that older releases, which could not read what it writes, stay away.
pub(super) const FORMAT_VERSION_MIN: u32 = 1;

const APP_CHARS_MAX: usize = 64;

/// Makes key names for one app.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    app: String,
}

impl Keys {
    /// `None` when `app` is not `[A-Za-z0-9_-]{1,64}`.
    pub(super) fn new(app: &str) -> Option<Self> {
        let fits = (1..=APP_CHARS_MAX).contains(&app.len())
            && app.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
        fits.then(|| Self { app: app.to_owned() })
    }

    pub(super) fn app(&self) -> &str {
        &self.app
    }

    pub(super) fn incoming(&self, partition: u32) -> String {
        format!("ps:{{{}:p{partition}}}:in", self.app)
    }

    /// As [`Self::incoming`], as an argument of a command: for what is asked for every message.
    pub(super) fn put_incoming(&self, command: &mut Vec<u8>, partition: u32) {
        put_shown(command, format_args!("ps:{{{}:p{partition}}}:in", self.app));
    }

    pub(super) fn later(&self, partition: u32) -> String {
        format!("ps:{{{}:p{partition}}}:later", self.app)
    }

    pub(super) fn dead(&self, partition: u32) -> String {
        format!("ps:{{{}:p{partition}}}:dead", self.app)
    }

    pub(super) fn suspects(&self, partition: u32) -> String {
        format!("ps:{{{}:p{partition}}}:suspects", self.app)
    }

    /// Where a repartition gathers what becomes `dead` of a partition.
    pub(super) fn dead_gathered(&self, partition: u32) -> String {
        format!("ps:{{{}:p{partition}}}:dead:new", self.app)
    }

    pub(super) fn workers(&self) -> String {
        format!("ps:{{{}}}:workers", self.app)
    }

    pub(super) fn owners(&self) -> String {
        format!("ps:{{{}}}:owners", self.app)
    }

    pub(super) fn epoch(&self) -> String {
        format!("ps:{{{}}}:epoch", self.app)
    }

    /// There for one lease after all data was lost.
    pub(super) fn quiet(&self) -> String {
        format!("ps:{{{}}}:quiet", self.app)
    }

    pub(super) fn config(&self) -> String {
        format!("ps:{{{}}}:cfg", self.app)
    }

    pub(super) fn nodes(&self) -> String {
        format!("ps:{{{}}}:nodes", self.app)
    }

    pub(super) fn leader(&self) -> String {
        format!("ps:{{{}}}:leader", self.app())
    }

    pub(super) fn cleaners(&self) -> String {
        format!("ps:{{{}}}:cleaners", self.app)
    }

    pub(super) fn all(&self) -> String {
        format!("ps:{{{}}}:all", self.app)
    }

    pub(super) fn php_dead(&self) -> String {
        format!("ps:{{{}}}:php:dead", self.app)
    }

    pub(super) fn outgoing(&self, node: &NodeId) -> String {
        format!("ps:{{{}:n:{node}}}:out", self.app)
    }

    pub(super) fn roster(&self, node: &NodeId) -> String {
        format!("ps:{{{}:n:{node}}}:roster", self.app)
    }

    /// Says that a node has been cleaned up after.
    pub(super) fn gone(&self, node: &NodeId) -> String {
        format!("ps:{{{}:n:{node}}}:gone", self.app)
    }

    pub(super) fn user_nodes(&self, user: &str) -> String {
        format!("ps:{{{}:u:{}}}:nodes", self.app, encoded(user))
    }

    pub(super) fn group_nodes(&self, group: &str) -> String {
        format!("ps:{{{}:g:{}}}:nodes", self.app, encoded(group))
    }

    pub(super) fn alias(&self, connection_id: &str) -> String {
        format!("ps:{{{}:a:{}}}", self.app, encoded(connection_id))
    }

    pub(super) fn stored(&self, plugin: &str, key: &str) -> String {
        format!("ps:{{{}:s:{}:{}}}", self.app, encoded(plugin), encoded(key))
    }

    /// What scripts put before an id to make its key themselves: `ps:{app:`.
    pub(super) fn prefix(&self) -> String {
        format!("ps:{{{}:", self.app)
    }
}

/// Braces would move a cluster's hash tag, control characters break tools; `%` marks the escapes. `lua/bridge.lua` does the same.
fn encoded(id: &str) -> String {
    let mut text = String::with_capacity(id.len());
    for character in id.chars() {
        if matches!(character, '{' | '}' | '%') || character.is_ascii_control() {
            text.push_str(&format!("%{:02X}", u32::from(character)));
        } else {
            text.push(character);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_key_is_whole_as_an_argument() {
        let (keys, mut shown, mut expected) = (Keys::new(&"a".repeat(APP_CHARS_MAX)).unwrap(), Vec::new(), Vec::new());
        keys.put_incoming(&mut shown, u32::MAX);
        super::super::commands::put(&mut expected, keys.incoming(u32::MAX).as_bytes());
        assert_eq!(shown, expected);
    }

    #[test]
    fn names_are_the_contract() {
        let keys = Keys::new("app").unwrap();
        let node = NodeId::from_text("n1");
        for (key, name) in [
            (keys.incoming(3), "ps:{app:p3}:in"),
            (keys.later(3), "ps:{app:p3}:later"),
            (keys.dead(3), "ps:{app:p3}:dead"),
            (keys.suspects(3), "ps:{app:p3}:suspects"),
            (keys.dead_gathered(3), "ps:{app:p3}:dead:new"),
            (keys.workers(), "ps:{app}:workers"),
            (keys.owners(), "ps:{app}:owners"),
            (keys.epoch(), "ps:{app}:epoch"),
            (keys.config(), "ps:{app}:cfg"),
            (keys.nodes(), "ps:{app}:nodes"),
            (keys.cleaners(), "ps:{app}:cleaners"),
            (keys.all(), "ps:{app}:all"),
            (keys.php_dead(), "ps:{app}:php:dead"),
            (keys.outgoing(&node), "ps:{app:n:n1}:out"),
            (keys.roster(&node), "ps:{app:n:n1}:roster"),
            (keys.gone(&node), "ps:{app:n:n1}:gone"),
            (keys.user_nodes("7"), "ps:{app:u:7}:nodes"),
            (keys.group_nodes("a{b}%\n é"), "ps:{app:g:a%7Bb%7D%25%0A é}:nodes"),
            (keys.alias("bob"), "ps:{app:a:bob}"),
            (keys.stored("chat", "k"), "ps:{app:s:chat:k}"),
        ] {
            assert_eq!(key, name);
        }
    }

    #[test]
    fn a_bad_app_name_is_refused() {
        assert!(["", "a b", "a{b", &"x".repeat(65)].into_iter().all(|app| Keys::new(app).is_none()));
    }
}
