//! From files to live versions and back out of service, with real libraries.

mod restart;
pub(super) mod scripted;
mod succession;

use std::fs;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use plugsocket_plugin::call::{HostOperation, Operation, Status};
use serde_json::json;

use super::*;
use crate::config::Settings;
use crate::plugin::testing::{chat_library, launcher};
use crate::plugin::{Answer, Call, HostSink};

const SOON: Duration = Duration::from_secs(20);

struct Quiet;

#[async_trait]
impl HostSink for Quiet {
    async fn request(&self, _operation: HostOperation, _input: Bytes) -> Answer {
        Answer { status: Status::Done, bytes: Bytes::new() }
    }
}

struct Panicking;

#[async_trait]
impl HostSink for Panicking {
    async fn request(&self, _operation: HostOperation, _input: Bytes) -> Answer {
        panic!("of the host");
    }
}

struct Bench {
    registry: Arc<Registry>,
    settings: LiveSettings,
    folder: tempfile::TempDir,
}

fn settings(folder: &Path, text: &str) -> Settings {
    let settings: Settings = toml::from_str(text).unwrap();
    Settings { plugins_dir: folder.join("plugins"), state_dir: folder.join("var"), ..settings }
}

async fn bench(text: &str, with_file: bool) -> Bench {
    bench_with(text, with_file, launcher()).await
}

async fn bench_with(text: &str, with_file: bool, launcher: Launcher) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("plugins")).unwrap();
    let settings = Arc::new(ArcSwap::from_pointee(settings(folder.path(), text)));
    if with_file {
        fs::copy(chat_library(), folder.path().join("plugins/libchat.so")).unwrap();
    }
    let roles = Roles { handler: true, actions: true };
    let options = RegistryOptions { roles, settings: Arc::clone(&settings), launcher, trust: Trust::Warned };
    Bench { registry: Registry::start(options).await.unwrap(), settings, folder }
}

impl Bench {
    fn file(&self) -> PathBuf {
        self.folder.path().join("plugins/libchat.so")
    }

    fn configure(&self, text: &str) {
        self.settings.store(Arc::new(settings(self.folder.path(), text)));
    }

    /// Another build: the same code with bytes behind it that nobody reads.
    fn rebuild(&self, tail: &str) {
        let mut bytes = fs::read(chat_library()).unwrap();
        bytes.extend_from_slice(tail.as_bytes());
        self.replace(&bytes);
    }

    fn replace(&self, bytes: &[u8]) {
        let draft = self.folder.path().join("draft");
        fs::write(&draft, bytes).unwrap();
        fs::rename(draft, self.file()).unwrap();
    }

    async fn apply(&self) -> PluginStatus {
        time::timeout(SOON, self.registry.apply()).await.expect("apply hangs");
        self.registry.snapshot()[0].clone()
    }

    fn copies(&self) -> usize {
        let files = fs::read_dir(self.folder.path().join("var/plugins")).unwrap();
        files.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|ending| ending == "so")).count()
    }
}

async fn echo(version: &LiveVersion) -> String {
    let call = json!({"action": "echo", "connection_id": "c", "data": {"a": 1}}).to_string();
    let call = version.callee.call(Call::new(Operation::Action, call, Arc::new(Quiet)));
    let answer = time::timeout(SOON, call).await.unwrap().unwrap();
    assert_eq!(answer.status, Status::Done, "{answer:?}");
    String::from_utf8(answer.bytes.to_vec()).unwrap()
}

const CHAT: &str = "[server]\nhandler = \"chat\"\n[actions]\necho = \"chat\"";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_build_takes_over_and_the_old_one_finishes() {
    let bench = bench(&format!("{CHAT}\n[probation]\ntime = \"0s\"\ncalls = 0"), true).await;
    let first = bench.registry.action("echo").expect("chat is live");
    assert!(bench.registry.handler().is_some());
    assert!(bench.registry.action("history").is_none(), "only what the config maps");
    assert!(echo(&first).await.contains("\"a\":1"));
    assert_eq!(bench.apply().await.version.as_deref(), Some(first.version.as_ref()), "nothing changed, nothing is loaded");

    bench.rebuild("second");
    let status = bench.apply().await;
    let second = bench.registry.action("echo").unwrap();
    assert_eq!((status.state, status.version.as_deref()), (PluginState::Live, Some(second.version.as_ref())));
    assert_ne!(first.version, second.version);
    assert!(echo(&second).await.contains("\"a\":1"));
    assert!(echo(&first).await.contains("\"a\":1"), "who holds the old version can finish on it");
    assert_eq!(bench.copies(), 2);
    drop(first);
    time::timeout(SOON, async {
        while bench.copies() > 1 {
            time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the old version is not retired");
    drop(second);
    bench.registry.close().await;
    assert!(bench.registry.action("echo").is_none());
    assert_eq!(bench.copies(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_the_host_does_not_cross_the_border() {
    let bench = bench(CHAT, true).await;
    let version = bench.registry.action("echo").unwrap();
    let call = json!({"action": "history", "connection_id": "c", "data": {"room": "lobby"}}).to_string();
    let call = version.callee.call(Call::new(Operation::Action, call, Arc::new(Panicking)));
    let answer = time::timeout(SOON, call).await.unwrap().unwrap();
    assert_eq!(answer, Answer::retry("the host panicked: of the host"));
    echo(&version).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_file_changes_nothing_and_is_not_tried_twice() {
    let bench = bench(CHAT, true).await;
    let live = bench.registry.action("echo").unwrap().version.clone();
    bench.replace(b"this is no library");
    let status = bench.apply().await;
    let rejection = status.last_rejection.unwrap();
    assert_eq!(status.version.as_deref(), Some(live.as_ref()));
    assert!(rejection.reason.contains("text file"), "{}", rejection.reason);
    assert_eq!(rejection.version.len(), 64);
    bench.replace(b"this is no library");
    assert_eq!(bench.apply().await.last_rejection.unwrap(), rejection, "the same bytes are not tried again");
    let mut holed = fs::read(chat_library()).unwrap();
    let (from, to) = (holed.len() / 8, holed.len() / 2);
    holed[from..to].fill(0);
    bench.replace(&holed);
    let status = bench.apply().await;
    let holed = status.last_rejection.unwrap();
    assert_ne!(holed.version, rejection.version);
    assert_eq!(status.version.as_deref(), Some(live.as_ref()), "{}", holed.reason);
    echo(&bench.registry.action("echo").unwrap()).await;
    fs::remove_file(bench.file()).unwrap();
    let status = bench.apply().await;
    assert_eq!((status.state, status.version.as_deref()), (PluginState::Live, Some(live.as_ref())), "a deleted file unloads nothing");
    bench.rebuild("repaired");
    let status = bench.apply().await;
    assert_ne!(status.version.as_deref(), Some(live.as_ref()));
    assert_eq!(status.last_rejection, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_config_decides_what_is_loaded() {
    let bench = bench("[actions]\necho = \"chat\"\nnonsense = \"chat\"", true).await;
    let status = bench.registry.snapshot()[0].clone();
    assert!(bench.registry.action("echo").is_some(), "other actions stay live");
    assert!(bench.registry.action("nonsense").is_none() && bench.registry.handler().is_none());
    let reason = &status.refused_actions["nonsense"];
    assert!(reason.contains("does not export the action `nonsense`; it exports: ") && reason.contains("echo"), "{reason}");

    bench.configure("[actions]\necho = \"chat\"\n[plugins.chat.config]\nhistory_limit = 5");
    let configured = bench.apply().await;
    assert_ne!(configured.version, status.version, "the config table belongs to the version");

    bench.configure("[actions]\necho = \"chat\"\n[plugins.chat.config]\nhistory_limit = 100000");
    let refused = bench.apply().await;
    assert_eq!(refused.version, configured.version);
    let reason = refused.last_rejection.unwrap().reason;
    assert!(reason.starts_with("its constructor failed: ") && reason.contains("history_limit"), "{reason}");

    bench.configure("[actions]\nhistory = \"chat\"");
    let unmapped = bench.apply().await;
    let served = bench.registry.action("echo").expect("jobs that are queued already still run");
    assert_eq!(unmapped.version.as_deref(), Some(served.version.as_ref()));
    drop(served);

    bench.configure("");
    time::timeout(SOON, bench.registry.apply()).await.unwrap();
    assert!(bench.registry.snapshot().is_empty() && bench.registry.action("echo").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_file_is_named_and_found_when_it_comes() {
    let bench = bench(CHAT, false).await;
    let status = bench.registry.snapshot()[0].clone();
    assert_eq!(status.state, PluginState::Missing);
    assert!(status.last_rejection.unwrap().reason.contains("plugins/libchat.so"));
    bench.rebuild("");
    assert_eq!(bench.apply().await.state, PluginState::Live);
    assert!(bench.registry.handler().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rename_is_followed_by_calls_on_the_new_build() {
    let bench = bench(CHAT, true).await;
    let before = bench.registry.action("echo").unwrap().version.clone();
    let (_watcher, mut changes) = crate::plugin::Watcher::start(&bench.folder.path().join("plugins"), None).unwrap();
    let started = std::time::Instant::now();
    bench.rebuild("watched");
    assert_eq!(time::timeout(SOON, changes.recv()).await.unwrap(), Some(crate::plugin::Change::PluginsChanged));
    bench.apply().await;
    let live = bench.registry.action("echo").unwrap();
    echo(&live).await;
    assert_ne!(live.version, before);
    println!("rename to first call: {:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_constructor_that_fails_for_outside_reasons_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let (database, calls) = (folder.path().join("database"), folder.path().join("calls"));
    let child = format!("exec {:?} --exact plugin::testing::plays_the_child --nocapture \"$@\"", std::env::current_exe().unwrap());
    let refuse = "cat > /dev/null; echo 'plugsocket-manifest: no database' >&2; exit 2";
    let script = format!("echo >> {calls:?}; if [ -e {database:?} ]; then {child}; else {refuse}; fi");
    let launcher = Launcher::program_at("/bin/sh".into()).with_arguments(["-c".into(), script.into(), "sh".into()]);
    let bench = bench_with(&format!("{CHAT}\n[plugins.chat]\nisolation = \"in-process\""), true, launcher).await;
    let status = bench.apply().await;
    assert_eq!(status.state, PluginState::Rejected);
    assert_eq!(status.last_rejection.unwrap().reason, "its constructor failed: no database");
    assert_eq!(fs::read(&calls).unwrap().len(), 1, "applying again does not hurry it");
    fs::write(&database, "").unwrap();
    time::timeout(SOON, async {
        while bench.registry.handler().is_none() {
            time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("it is not tried again");
    assert_eq!(bench.registry.snapshot()[0].state, PluginState::Live);

    // Beside a live version too: a build that came while the database was away is not forgotten.
    fs::remove_file(&database).unwrap();
    bench.rebuild("second");
    let refused = bench.apply().await;
    assert_eq!(refused.last_rejection.unwrap().reason, "its constructor failed: no database");
    fs::write(&database, "").unwrap();
    time::timeout(SOON, async {
        while bench.registry.snapshot()[0].version == refused.version {
            time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the new build is not tried again");
    assert_eq!(bench.registry.snapshot()[0].last_rejection, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_action_that_moves_to_another_plugin_is_served_throughout() {
    let bench = bench(CHAT, true).await;
    fs::copy(chat_library(), bench.folder.path().join("plugins/libother.so")).unwrap();
    bench.configure("[server]\nhandler = \"other\"\n[actions]\necho = \"other\"");
    let registry = Arc::clone(&bench.registry);
    let moved = tokio::spawn(async move { registry.apply().await });
    let plugin = |version: Option<Arc<LiveVersion>>| version.expect("nobody serves it").plugin.to_string();
    while !moved.is_finished() {
        plugin(bench.registry.action("echo"));
        plugin(bench.registry.handler());
        tokio::task::yield_now().await;
    }
    assert_eq!((plugin(bench.registry.action("echo")), plugin(bench.registry.handler())), ("other".to_owned(), "other".to_owned()));
    assert_eq!(bench.registry.snapshot().len(), 1, "the plugin it had is not wanted any more");
}
