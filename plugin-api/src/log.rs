//! The plugin's `tracing` events on their way to the host's log. The plugin has its own copy of tracing, so the host's subscriber
//! never sees them.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Once, PoisonError, RwLock};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span;
use tracing::{Event, Level, Metadata, Subscriber};

use crate::abi::HostServices;
use crate::abi::link::HostDoor;
use crate::call::{HostOperation, LogEvent};
use crate::context::HostLink;

/// Finest level that crosses the border; the host filters further. TRACE stays behind: libraries use it by the thousand, ~5 µs each.
const LEVEL_MAX: Level = Level::DEBUG;

/// Most fields of one event that are forwarded.
const FIELDS_MAX: usize = 64;

thread_local! {
    /// The call this thread runs.
    static CURRENT: Cell<Option<HostDoor>> = const { Cell::new(None) };
    /// Set while the host is told: what it logs itself, when it shares this copy of tracing (tests), must not come round again.
    static FORWARDING: Cell<bool> = const { Cell::new(false) };
}

/// Hosts of the live instances, for events of threads that run no call. Read-locked while one is told, so that
/// [`retire`] returns only when none of them is in use any more.
static LIVE: RwLock<Vec<(u64, HostServices)>> = RwLock::new(Vec::new());

/// Events of this thread go to `door` until the guard is dropped.
pub(crate) fn enter(door: HostDoor) -> Entered {
    Entered { before: CURRENT.replace(Some(door)) }
}

/// Puts the thread back to the call it was in before.
pub(crate) struct Entered {
    before: Option<HostDoor>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.before);
    }
}

/// Makes an instance's host known, and installs the subscriber with the first. Answers the number to retire it by.
pub(crate) fn introduce(services: HostServices) -> u64 {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // Refused where the plugin is linked into a program with a subscriber of its own; its events go there then.
        let _ = tracing::subscriber::set_global_default(Forward);
    });
    let mut live = LIVE.write().unwrap_or_else(PoisonError::into_inner);
    let number = live.iter().map(|(number, _)| *number).max().map_or(1, |number| number + 1);
    live.push((number, services));
    number
}

/// Forgets an instance's host; no event goes there afterwards.
pub(crate) fn retire(number: u64) {
    LIVE.write().unwrap_or_else(PoisonError::into_inner).retain(|(known, _)| *known != number);
}

fn forward(event: &LogEvent) {
    let Ok(event) = serde_json::to_vec(event) else { return };
    if FORWARDING.try_with(|forwarding| forwarding.replace(true)).unwrap_or(true) {
        return;
    }
    if let Some(door) = CURRENT.try_with(Cell::get).ok().flatten() {
        door.request(HostOperation::Log, &event);
    } else {
        let live = LIVE.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, services)) = live.last() {
            HostDoor::outside_of_calls(*services).request(HostOperation::Log, &event);
        }
    }
    let _ = FORWARDING.try_with(|forwarding| forwarding.set(false));
}

/// Forwards events; spans are accepted and forgotten.
struct Forward;

impl Subscriber for Forward {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= LEVEL_MAX && metadata.is_event()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(LEVEL_MAX))
    }

    fn new_span(&self, _attributes: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _span: &span::Id, _values: &span::Record<'_>) {}

    fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let mut fields = Fields::default();
        event.record(&mut fields);
        forward(&LogEvent {
            level: metadata.level().to_string(),
            target: metadata.target().to_owned(),
            message: fields.message,
            fields: fields.others,
        });
    }

    fn enter(&self, _span: &span::Id) {}

    fn exit(&self, _span: &span::Id) {}
}

#[derive(Default)]
struct Fields {
    message: String,
    others: BTreeMap<String, String>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: String) {
        if field.name() == "message" {
            self.message = value;
        } else if self.others.len() < FIELDS_MAX {
            self.others.insert(field.name().to_owned(), value);
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}
