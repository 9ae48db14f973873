//! The Lua scripts, embedded; each file says its keys, arguments and answer.

use std::sync::LazyLock;

use redis::{Cmd, Pipeline};

/// One script: its text, and the hash Redis knows it by.
pub(super) struct Script {
    body: &'static str,
    hash: String,
}

macro_rules! scripts {
    ($($name:ident = $file:literal),+ $(,)?) => {
        $(pub(super) static $name: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!(concat!("lua/", $file, ".lua"))));)+

        /// Commands that load every script.
        pub(super) fn load_all() -> Pipeline {
            let mut pipeline = Pipeline::new();
            $(pipeline.cmd("SCRIPT").arg("LOAD").arg($name.body);)+
            pipeline
        }
    };
}

scripts! {
    LEASE = "lease",
    LATER = "later",
    CONSUMERS = "consumers",
    DEAD = "dead",
    DELIVER = "deliver",
    GROUPS = "groups",
    PROMOTE = "promote",
    PUSH = "push",
    ROUTE = "route",
    NODE = "node",
    WITHDRAW = "withdraw",
    ENTER = "enter",
    LEAVE = "leave",
    SUSPECT = "suspect",
    LEAD = "lead",
    UNROUTE = "unroute",
    ADOPT = "adopt",
    CLAIM = "claim",
    BURY = "bury",
    FINISH = "finish",
    BRIDGE = "bridge",
    STORE_SET = "store_set",
    STORE_PUSH = "store_push",
    STORE_ADD = "store_add",
}

impl Script {
    fn new(body: &'static str) -> Self {
        Self { body, hash: redis::Script::new(body).get_hash().to_owned() }
    }

    pub(super) fn hash(&self) -> &str {
        &self.hash
    }
}

/// `EVALSHA` of a script with `keys` keys; the caller adds them and the arguments.
pub(super) fn evalsha(script: &Script, keys: usize) -> Cmd {
    let mut command = redis::cmd("EVALSHA");
    command.arg(&script.hash).arg(keys);
    command
}
