//! Keeps a slow plugin from occupying all slots: no more of its jobs run than it has threads.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

/// One gate for each plugin, as wide as its threads.
#[derive(Default)]
pub(super) struct Gates {
    gates: Mutex<HashMap<Arc<str>, Gate>>,
}

struct Gate {
    threads: usize,
    semaphore: Arc<Semaphore>,
}

impl Gates {
    /// The gate of `plugin`; a new one when its `threads` have been changed.
    pub(super) fn of(&self, plugin: &Arc<str>, threads: usize) -> Arc<Semaphore> {
        let threads = threads.clamp(1, Semaphore::MAX_PERMITS);
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gate) = gates.get(plugin).filter(|gate| gate.threads == threads) {
            return Arc::clone(&gate.semaphore);
        }
        let semaphore = Arc::new(Semaphore::new(threads));
        gates.insert(Arc::clone(plugin), Gate { threads, semaphore: Arc::clone(&semaphore) });
        semaphore
    }
}
