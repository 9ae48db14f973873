//! How the jobs of each action run, worked out once for a config: a job looks it up in one step.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::{Counter, Histogram};

use super::gates::{Gate, Gates, Widths};
use crate::config::{LiveSettings, PluginSettings, Settings};
use crate::context::NameLimits;

/// Actions remembered; more than any config has, for their names may come from others.
const ROUTES_MAX: usize = 4096;

/// The terms on which jobs of one action run in one plugin, under the settings of one moment.
pub(super) struct Route {
    pub(super) settings: Arc<Settings>,
    pub(super) action: Box<str>,
    pub(super) plugin: Arc<str>,
    pub(super) timeout: Duration,
    pub(super) attempts: u32,
    pub(super) frame_bytes_max: usize,
    pub(super) names: NameLimits,
    /// As many calls as the plugin's instances run at once, or as the worker has slots, and may wait there, while they are quick.
    pub(super) plugin_gate: Arc<Gate>,
    /// As many as the action may.
    pub(super) action_gate: Option<Arc<Gate>>,
    /// How long the plugin's calls take.
    pub(super) seconds: Histogram,
}

/// All routes, and the gates they share.
#[derive(Default)]
pub(super) struct Routes {
    routes: Mutex<HashMap<String, Arc<Route>>>,
    plugin_gates: Gates,
    action_gates: Gates,
}

impl Routes {
    /// The route of `action`, which `plugin` serves at present.
    pub(super) fn of(&self, settings: &LiveSettings, action: &str, plugin: &Arc<str>) -> Arc<Route> {
        let settings = settings.load();
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(route) = routes.get(action).filter(|route| Arc::ptr_eq(&route.settings, &settings) && route.plugin == *plugin) {
            return Arc::clone(route);
        }
        let route = Arc::new(self.make(Arc::clone(&settings), action, plugin));
        routes.retain(|_, route| Arc::ptr_eq(&route.settings, &settings)); // Others would keep settings alive that are past.
        if routes.len() >= ROUTES_MAX {
            routes.clear();
        }
        routes.insert(action.to_owned(), Arc::clone(&route));
        route
    }

    fn make(&self, settings: Arc<Settings>, action: &str, plugin: &Arc<str>) -> Route {
        let found = settings.plugin_action(action);
        let default = PluginSettings::default();
        let limits = settings.plugins.get(&**plugin).unwrap_or(&default);
        let threads = limits.calls_max();
        // Half of what may wait in the plugin is left to other calls: what comes ahead must not be refused, nor have others refused.
        let waiting = limits.waiting_max / 2;
        let quick = settings.worker.slots.min(threads.saturating_add(waiting));
        let follow = waiting.saturating_sub(quick.saturating_sub(threads));
        let concurrency = found.and_then(|action| action.concurrency);
        Route {
            action: action.into(),
            timeout: found.and_then(|action| action.timeout).unwrap_or(settings.worker.timeout),
            attempts: attempts_of(&settings, action),
            frame_bytes_max: usize::try_from(settings.limits.frame_out_max.as_u64()).unwrap_or(usize::MAX),
            names: NameLimits::from(&*settings),
            plugin_gate: self.plugin_gates.of(plugin, Widths { calls: threads, quick, follow }),
            action_gate: concurrency.map(|width| self.action_gates.of(action, Widths { calls: width, quick: width, follow: 0 })),
            seconds: metrics::histogram!("plugsocket_call_seconds", "plugin" => plugin.to_string()),
            plugin: Arc::clone(plugin),
            settings,
        }
    }
}

/// Attempts that a job of `action` has.
pub(super) fn attempts_of(settings: &Settings, action: &str) -> u32 {
    settings.plugin_action(action).and_then(|action| action.attempts).unwrap_or(settings.worker.attempts).max(1)
}

/// What is counted for every job.
pub(super) struct Meters {
    running: metrics::Gauge,
    pub(super) done: Counter,
    pub(super) later: Counter,
    pub(super) dead: Counter,
}

impl Meters {
    pub(super) fn new() -> Self {
        let settled = |verdict: &'static str| metrics::counter!("plugsocket_jobs_settled_total", "verdict" => verdict);
        Self { running: metrics::gauge!("plugsocket_calls_running"), done: settled("done"), later: settled("later"), dead: settled("dead") }
    }

    /// One more call runs, until what is answered is dropped.
    pub(super) fn run(&self) -> Running {
        self.running.increment(1);
        Running(self.running.clone())
    }
}

/// A call that runs.
pub(super) struct Running(metrics::Gauge);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

#[cfg(test)]
mod tests {
    use arc_swap::ArcSwap;

    use super::*;

    #[test]
    fn no_more_go_ahead_than_may_wait_in_the_plugin() {
        let places = |waiting_max| {
            let text = format!("[worker]\nslots = 20\n[plugins.chat]\nthreads = 2\nwaiting_max = {waiting_max}");
            let settings: LiveSettings = Arc::new(ArcSwap::from_pointee(toml::from_str(&text).unwrap()));
            let gate = Arc::clone(&Routes::default().of(&settings, "echo", &Arc::from("chat")).plugin_gate);
            (0..100).for_each(|_| gate.note(Duration::ZERO));
            std::iter::from_fn(|| gate.try_pass()).collect::<Vec<_>>().len()
        };
        assert_eq!([0, 8, 1024].map(places), [2, 6, 20]);
    }

    #[test]
    fn a_route_holds_until_settings_or_plugin_change() {
        let (routes, plugin) = (Routes::default(), Arc::from("chat"));
        let settings: LiveSettings = Arc::new(ArcSwap::from_pointee(Settings::default()));
        let first = routes.of(&settings, "echo", &plugin);
        assert!(Arc::ptr_eq(&first, &routes.of(&settings, "echo", &plugin)));
        let moved = routes.of(&settings, "echo", &Arc::from("other"));
        assert_eq!(&*moved.plugin, "other");
        let mut changed = Settings::default();
        changed.worker.attempts = 7;
        settings.store(Arc::new(changed));
        let anew = routes.of(&settings, "echo", &plugin);
        assert_eq!((anew.attempts, first.attempts), (7, 3));
        assert_eq!(Arc::strong_count(&first), 1, "nothing of the past is kept");
        assert!(Arc::ptr_eq(&first.plugin_gate, &anew.plugin_gate), "jobs of both count together");
    }
}
