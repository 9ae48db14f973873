//! Messages for the lists of `[actions]`, from which PHP takes them: pushed unless too many wait, each at most once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{self, Instant};

use super::Redis;
use super::answers::integer;
use super::batch::{Done, Write};
use super::commands::{head, put};
use super::scripts::PUSH;
use crate::queue::{Full, ListItem, OnStored, QueueError, Stored};

const COMPLAIN_INTERVAL: Duration = Duration::from_secs(60);
const LENGTHS_INTERVAL: Duration = Duration::from_secs(1);
/// Room for names and lengths around an item.
const PUSH_OVERHEAD_BYTES: usize = 192;

/// The lists that this process has pushed to; no more than live edits of `[actions]` have named.
#[derive(Default)]
pub(super) struct Lists(Mutex<BTreeMap<String, Arc<List>>>);

impl Lists {
    /// The list by its name, without the prefix.
    fn get(&self, name: &str, prefix: &str, waiting_max: usize) -> Arc<List> {
        let mut lists = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(list) = lists.get(name) {
            return Arc::clone(list);
        }
        let list =
            Arc::new(List { key: format!("{prefix}{name}"), waiting_max, is_used: AtomicBool::default(), complained: Mutex::default() });
        lists.insert(name.to_owned(), Arc::clone(&list));
        list
    }

    /// Those in which something may wait.
    fn used(&self) -> Vec<Arc<List>> {
        let lists = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lists.values().filter(|list| list.is_used.load(Relaxed)).cloned().collect()
    }
}

/// How pushing an item ended.
pub(super) enum Pushed {
    Yes,
    /// As many wait as may.
    Full,
    Refused(QueueError),
    Unknown,
}

/// One list.
pub(super) struct List {
    key: String,
    waiting_max: usize,
    /// Something was pushed since it was last seen to be empty.
    is_used: AtomicBool,
    complained: Mutex<Option<Instant>>,
}

impl List {
    /// Counts the end of a push, tells the operator of what only he can mend, and says what the client is told.
    pub(super) fn ended(&self, pushed: Pushed) -> Stored {
        let refused = |reason: &'static str| metrics::counter!("plugsocket_php_pushes_refused_total", "reason" => reason).increment(1);
        match pushed {
            Pushed::Yes => {
                metrics::counter!("plugsocket_php_pushed_total").increment(1);
                Stored::Yes
            }
            Pushed::Unknown => {
                metrics::counter!("plugsocket_php_pushes_unconfirmed_total").increment(1);
                Stored::Unknown
            }
            Pushed::Full => {
                refused("list_full");
                if self.may_complain() {
                    let (list, waiting_max) = (&self.key, self.waiting_max);
                    tracing::error!(
                        list,
                        waiting_max,
                        "a list of [actions] has as many messages as `php.waiting_max` lets wait, and clients are told `busy`: \
                         is PHP's websocket:work running, on this Redis, database, list and prefix?"
                    );
                }
                Stored::No("too many messages of this action wait to be handled".to_owned())
            }
            // WRONGTYPE
            Pushed::Refused(QueueError::Invalid(error)) => {
                refused("no_list");
                if self.may_complain() {
                    let key = &self.key;
                    tracing::error!(
                        list = key,
                        error,
                        "a key that [actions] names is not a list, and clients are told `busy`: name another `list`, or remove it: DEL '{key}'"
                    );
                }
                Stored::No("messages of this action can't be stored at present".to_owned())
            }
            Pushed::Refused(error) => {
                refused(if matches!(error, QueueError::Unreachable(_)) { "unreachable" } else { "refused" });
                Stored::No(error.to_string())
            }
        }
    }

    /// Once a minute: there may be thousands of refusals.
    fn may_complain(&self) -> bool {
        let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = complained.is_none_or(|last| last.elapsed() >= COMPLAIN_INTERVAL);
        if is_due {
            *complained = Some(Instant::now());
        }
        is_due
    }

    /// The command that pushes an item, packed.
    fn command(&self, item: &[u8]) -> Vec<u8> {
        let mut command = Vec::with_capacity(self.key.len() + item.len() + PUSH_OVERHEAD_BYTES);
        head(&mut command, 6);
        for argument in [b"EVALSHA", PUSH.hash().as_bytes(), b"1", self.key.as_bytes(), self.waiting_max.to_string().as_bytes(), item] {
            put(&mut command, argument);
        }
        command
    }
}

impl Redis {
    pub(super) fn push_item(&self, offered: ListItem, on_stored: OnStored) -> Result<(), Full<ListItem>> {
        let permit =
            if self.connector.partitions() == 0 { None } else { self.batcher.try_reserve(PUSH_OVERHEAD_BYTES + offered.item.len()) };
        let Some(permit) = permit else { return Err(Full { offered, on_stored }) };
        let list = self.lists.get(&offered.list, &self.options.php_prefix, self.options.php_waiting_max);
        list.is_used.store(true, Relaxed);
        permit.send(Write::Packed { command: list.command(&offered.item), done: Done::Pushed { list, on_stored } });
        Ok(())
    }
}

/// Shows how many messages wait in the lists, until they are empty.
pub(super) async fn watch(redis: Arc<Redis>) {
    loop {
        tokio::select! {
            () = redis.connector.stop().cancelled() => return,
            () = time::sleep(LENGTHS_INTERVAL) => {}
        }
        let used = redis.lists.used();
        if used.is_empty() {
            continue;
        }
        let mut pipeline = redis::Pipeline::new();
        for list in &used {
            // Before it is asked: what is pushed meanwhile sets it again.
            list.is_used.store(false, Relaxed);
            pipeline.cmd("LLEN").arg(&list.key);
        }
        let answers = redis.connector.call_many(&pipeline).await.unwrap_or_default();
        for (index, list) in used.iter().enumerate() {
            let waiting = answers.get(index).and_then(integer);
            if let Some(waiting) = waiting {
                metrics::gauge!("plugsocket_php_list_waiting", "list" => list.key.clone())
                    .set(f64::from(u32::try_from(waiting).unwrap_or(u32::MAX)));
            }
            if waiting != Some(0) {
                list.is_used.store(true, Relaxed);
            }
        }
    }
}
