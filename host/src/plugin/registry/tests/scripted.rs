//! Versions whose behaviour their file's text says, so that the state machine can be driven without libraries.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use plugsocket_plugin::call::{Manifest, Operation, Role, Status};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time;
use tokio_util::sync::CancellationToken;

use super::{Quiet, SOON, settings};
use crate::config::{Isolation, LiveSettings, PluginSettings};
use crate::plugin::blame::{RunnerEvent, Subject};
use crate::plugin::error::PluginError;
use crate::plugin::launcher::Launcher;
use crate::plugin::registry::lifecycle::{Attempt, Attempted, Live, Tools, Wanted};
use crate::plugin::registry::start::{Start, Started, Starter};
use crate::plugin::store::StagedStore;
use crate::plugin::{
    Answer, Call, CallError, Callee, PluginStatus, Plugins as _, Registry, RegistryOptions, Retirable, Roles, VersionState, VersionStatus,
};

/// Words of a file: `refuse`, `error`, `timeout`, `hold`, `crash:<message id>`, and `mute` when no event tells of that.
#[derive(Default)]
pub(super) struct Scripted {
    loaded: AtomicU64,
    /// By the first word of the version's file, its name.
    events: Mutex<HashMap<String, mpsc::UnboundedSender<RunnerEvent>>>,
}

struct Instance {
    script: String,
    events: mpsc::UnboundedSender<RunnerEvent>,
    closed: CancellationToken,
    killed: CancellationToken,
}

#[async_trait]
impl Starter for Scripted {
    async fn start(&self, start: Start) -> Result<Started, PluginError> {
        let script = fs::read_to_string(&start.library).unwrap();
        if script.contains("refuse") {
            return Err(PluginError::Check("refused".to_owned()));
        }
        let is_in_process = start.settings.isolation == Isolation::InProcess;
        if is_in_process && start.is_worn {
            return Err(PluginError::TooManyVersions(self.loaded()));
        }
        self.loaded.fetch_add(u64::from(is_in_process), Ordering::Relaxed);
        self.events.lock().unwrap().insert(name_of(&script), start.events.clone());
        let manifest = json!({"name": "x", "version": name_of(&script), "sdk": "0.1.0", "actions": ["say"]});
        let manifest: Manifest = serde_json::from_value(manifest).unwrap();
        let instance = |role: &Role| {
            let (closed, killed) = (CancellationToken::new(), CancellationToken::new());
            let instance = Instance { script: script.clone(), events: start.events.clone(), closed, killed };
            (*role, Arc::new(instance) as Arc<dyn Retirable>)
        };
        let instances = start.roles.iter().map(instance).collect();
        Ok(Started { manifest, instances, is_in_process })
    }

    fn loaded(&self) -> u64 {
        self.loaded.load(Ordering::Relaxed)
    }
}

fn name_of(script: &str) -> String {
    script.split(' ').next().unwrap().to_owned()
}

#[async_trait]
impl Callee for Instance {
    async fn call(&self, call: Call) -> Result<Answer, CallError> {
        let subject = Subject::of(call.operation, &call.input);
        if self.script.contains(&format!("crash:{}", subject.message_id)) && !subject.message_id.is_empty() {
            if !self.script.contains("mute") {
                let _ = self.events.send(RunnerEvent::Crashed { subject: Some(subject), is_doubtful: false, reason: "SIGSEGV".to_owned() });
            }
            return Err(CallError::Crashed("SIGSEGV".to_owned()));
        }
        if self.script.contains("hold") {
            self.killed.cancelled().await;
            return Err(CallError::Gone("killed".to_owned()));
        }
        if self.script.contains("timeout") {
            return Err(CallError::TimedOut);
        }
        let status = if self.script.contains("error") { Status::Retry } else { Status::Done };
        Ok(Answer { status, bytes: name_of(&self.script).into() })
    }

    fn ends_calls(&self) -> bool {
        true
    }
}

#[async_trait]
impl Retirable for Instance {
    fn close(&self) {
        self.closed.cancel();
    }

    fn kill(&self) {
        self.closed.cancel();
        self.killed.cancel();
    }

    async fn ended(&self) {
        self.closed.cancelled().await;
        if self.script.contains("hold") {
            self.killed.cancelled().await;
        }
    }

    fn running(&self) -> usize {
        usize::from(self.script.contains("hold"))
    }
}

pub(super) struct Bench {
    pub(super) registry: Arc<Registry>,
    pub(super) starter: Arc<Scripted>,
    pub(super) settings: LiveSettings,
    pub(super) folder: Arc<tempfile::TempDir>,
}

/// Any version is good after one call.
pub(super) const EASY: &str = "[probation]\ntime = \"1ms\"\ncalls = 1";
/// None ever is.
pub(super) const STRICT: &str = "[probation]\ntime = \"1h\"\ncalls = 1";

fn with_action(text: &str) -> String {
    format!("{text}\n[actions]\nsay = \"x\"")
}

/// Begins with the file that is there.
pub(super) async fn begin(folder: Arc<tempfile::TempDir>, text: &str) -> Bench {
    let settings = Arc::new(ArcSwap::from_pointee(settings(folder.path(), &with_action(text))));
    let starter = Arc::new(Scripted::default());
    let roles = Roles { handler: false, actions: true };
    let launcher = Launcher::program_at("/nothing".into());
    let options = RegistryOptions { roles, settings: Arc::clone(&settings), launcher, trust: crate::plugin::Trust::Warned };
    let registry = Registry::start_with(options, Arc::clone(&starter) as _).await.unwrap();
    Bench { registry, starter, settings, folder }
}

pub(in crate::plugin::registry) fn folder_with(script: &str) -> Arc<tempfile::TempDir> {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    fs::create_dir(folder.path().join("plugins")).unwrap();
    fs::write(folder.path().join("plugins/x.so"), script).unwrap();
    folder
}

/// With a first version that is good.
pub(super) async fn bench(good: &str) -> Bench {
    let bench = begin(folder_with(good), EASY).await;
    bench.say("").await.unwrap();
    bench.until(|bench| bench.has(good, VersionState::Current)).await;
    bench.configure(STRICT);
    bench
}

/// A version that came up, outside of any registry.
pub(in crate::plugin::registry) async fn live(folder: &Path, script: &str) -> Live {
    live_in(folder, script, vec![Role::Actions]).await
}

/// As [`live`], in these roles.
pub(in crate::plugin::registry) async fn live_in(folder: &Path, script: &str, roles: Vec<Role>) -> Live {
    let file = folder.join("x.so");
    fs::write(&file, script).unwrap();
    let store = StagedStore::open(&folder.join("var")).unwrap();
    let tools = Tools { store, starter: Arc::new(Scripted::default()), wake: Arc::default(), is_worn: false };
    let wanted = Wanted { roles, settings: PluginSettings::default() };
    let nothing = (Vec::new(), Vec::new());
    let attempt = Attempt { name: "x".to_owned(), file, wanted, tools, known: nothing.0, quarantined: nothing.1, good: None, seen: None };
    match attempt.run().await.2 {
        Attempted::Live(live) => *live,
        _ => panic!("it does not come up"),
    }
}

impl Bench {
    pub(super) fn configure(&self, text: &str) {
        self.settings.store(Arc::new(settings(self.folder.path(), &with_action(text))));
    }

    pub(super) fn replace(&self, script: &str) {
        let draft = self.folder.path().join("draft");
        fs::write(&draft, script).unwrap();
        fs::rename(draft, self.folder.path().join("plugins/x.so")).unwrap();
    }

    pub(super) async fn put(&self, script: &str) {
        self.replace(script);
        time::timeout(SOON, self.registry.apply()).await.expect("apply hangs");
    }

    pub(super) async fn say(&self, message_id: &str) -> Result<Answer, CallError> {
        let version = self.registry.action("say").expect("nobody serves it");
        let input = json!({"action": "say", "connection_id": "c", "meta": {"message_id": message_id}}).to_string();
        version.callee.call(Call::new(Operation::Action, input, Arc::new(Quiet))).await
    }

    /// The name of the version that answers.
    pub(super) async fn who(&self) -> String {
        String::from_utf8(self.say("").await.unwrap().bytes.to_vec()).unwrap()
    }

    pub(super) fn event(&self, name: &str, event: RunnerEvent) {
        self.starter.events.lock().unwrap()[name].send(event).unwrap();
    }

    pub(super) fn status(&self) -> PluginStatus {
        self.registry.snapshot()[0].clone()
    }

    /// The newest of that name.
    pub(super) fn version(&self, script: &str) -> Option<VersionStatus> {
        let name = name_of(script);
        self.status().versions.into_iter().find(|version| version.manifest_version == name)
    }

    pub(super) fn has(&self, script: &str, state: VersionState) -> bool {
        self.version(script).is_some_and(|version| version.state == state)
    }

    pub(super) fn reason(&self, script: &str) -> String {
        self.version(script).and_then(|version| version.last_reason).unwrap_or_default()
    }

    pub(super) async fn until(&self, is_so: impl Fn(&Self) -> bool) {
        let wait = async {
            while !is_so(self) {
                time::sleep(time::Duration::from_millis(2)).await;
            }
        };
        assert!(time::timeout(SOON, wait).await.is_ok(), "it does not come to that: {:#?}", self.status());
    }
}
