//! What crosses the border for the plugins' shared state.

use serde::{Deserialize, Serialize};

/// Input of `Store`: one operation on the plugin's own namespace. Values are text or JSON text, at most 64 KiB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum StoreRequest {
    /// The value of a key.
    Get {
        /// Key.
        key: String,
    },
    /// Sets a value; `ttl_ms` absent = the configured default.
    Set {
        /// Key.
        key: String,
        /// Value.
        value: String,
        /// Time to live, milliseconds.
        #[serde(default)]
        ttl_ms: Option<u64>,
    },
    /// Removes a key of any kind; answers whether it was there.
    Delete {
        /// Key.
        key: String,
    },
    /// Adds to an integer (absent = 0); answers the sum.
    Add {
        /// Key.
        key: String,
        /// Summand.
        by: i64,
    },
    /// Appends to a list and keeps its newest `cap` values.
    PushCapped {
        /// Key.
        key: String,
        /// Value.
        value: String,
        /// Most values kept.
        cap: u32,
    },
    /// The newest `count` values of a list, oldest first.
    Range {
        /// Key.
        key: String,
        /// How many.
        count: u32,
    },
    /// Sets a key's time to live; answers whether the key was there.
    Expire {
        /// Key.
        key: String,
        /// Time to live, milliseconds.
        ttl_ms: u64,
    },
    /// Sets `new` only when the value is `old` (absent = the key does not exist); answers whether it did.
    CompareAndSet {
        /// Key.
        key: String,
        /// The value expected.
        #[serde(default)]
        old: Option<String>,
        /// The value to set.
        new: String,
    },
}

/// Answer of `Store`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreAnswer {
    /// Done, nothing to tell (`Set`, `PushCapped`).
    Done,
    /// `Get`.
    Value(Option<String>),
    /// `Delete`, `Expire`, `CompareAndSet`.
    Flag(bool),
    /// `Add`.
    Number(i64),
    /// `Range`.
    Values(Vec<String>),
}
