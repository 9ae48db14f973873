//! Keeps a slow plugin or action from occupying all slots: no more of its jobs run than it has threads, or than its `concurrency`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

/// One gate for each name, as wide as what may run of it.
#[derive(Default)]
pub(super) struct Gates {
    gates: Mutex<HashMap<Arc<str>, Gate>>,
}

struct Gate {
    width: usize,
    semaphore: Arc<Semaphore>,
}

impl Gates {
    /// The gate of `name`; a new one when its width has been changed.
    pub(super) fn of(&self, name: &str, width: usize) -> Arc<Semaphore> {
        let width = width.clamp(1, Semaphore::MAX_PERMITS);
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gate) = gates.get(name).filter(|gate| gate.width == width) {
            return Arc::clone(&gate.semaphore);
        }
        let semaphore = Arc::new(Semaphore::new(width));
        gates.insert(name.into(), Gate { width, semaphore: Arc::clone(&semaphore) });
        semaphore
    }
}
