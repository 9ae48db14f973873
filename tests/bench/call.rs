//! One call of a plugin and nothing else: as a function of this program, in this process, and in a runner.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use plugsocket::config::Settings;
use plugsocket::plugin::{Answer, Call, HostSink, Launcher, LiveVersion, Plugins, Registry, RegistryOptions, Roles, Trust};
use plugsocket_plugin::call::{HostOperation, Operation, Status};
use plugsocket_plugin::testing::{self, MockContext};
use plugsocket_plugin::{Action, Config};
use serde_json::json;
use tokio_util::task::TaskTracker;

use crate::load::{own_cpu_us, runtime};
use crate::redis::per;
use crate::report::{Figure, Reference, Row, Target, median};
use crate::{Bench, processes};

/// Calls that run at the same time where it says so.
const AT_ONCE: usize = 64;
const SIZES: [(usize, &str, &str); 2] = [
    (1024, "an echo of 1 KiB: in-process", "an echo of 1 KiB: in a runner"),
    (64 * 1024, "an echo of 64 KiB: in-process", "an echo of 64 KiB: in a runner"),
];

/// Of one call, in microseconds.
#[derive(Clone, Copy)]
struct Cost {
    wall: f64,
    /// Of this process and its runners.
    cpu: f64,
}

/// What one way of calling costs: one call after the other, and many at once.
#[derive(Default)]
struct Costs {
    alone: Vec<Cost>,
    many: Vec<Cost>,
}

impl Costs {
    fn alone(&self, figure: fn(&Cost) -> f64) -> f64 {
        median(self.alone.iter().map(figure).collect())
    }

    fn many(&self, figure: fn(&Cost) -> f64) -> f64 {
        median(self.many.iter().map(figure).collect())
    }
}

/// The chat plugin that cargo built beside this program.
pub fn chat_library() -> anyhow::Result<PathBuf> {
    let name = format!("{}chat{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let program = std::env::current_exe()?;
    let found = program.ancestors().skip(1).take(2).map(|folder| folder.join(&name)).find(|path| path.is_file());
    found.with_context(|| format!("no {name} beside {}", program.display()))
}

pub fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let runtime = runtime()?;
    let mut rows = Vec::new();
    for (bytes, in_process, in_runner) in SIZES {
        let count = bench.pick(64, 4_000, 20_000);
        let plugins = [runtime.block_on(Started::open("in-process"))?, runtime.block_on(Started::open("process"))?];
        let (mut direct, mut costs) = (Vec::new(), [Costs::default(), Costs::default()]);
        for _ in 0..bench.rounds() {
            direct.push(call_directly(bytes, count)?);
            for (costs, plugin) in costs.iter_mut().zip(&plugins) {
                runtime.block_on(measure(plugin, bytes, count / 10, 1))?;
                costs.alone.push(runtime.block_on(measure(plugin, bytes, count, 1))?);
                costs.many.push(runtime.block_on(measure(plugin, bytes, count, AT_ONCE))?);
            }
        }
        let wall = median(direct.iter().map(|cost| cost.wall).collect());
        let cpu = median(direct.iter().map(|cost| cost.cpu).collect());
        for (what, costs) in [in_process, in_runner].into_iter().zip(&costs) {
            let measured = costs.alone(|cost| cost.wall);
            let reference = Reference { what: "the same as a function of this program", figure: Figure::new(wall, "µs") };
            rows.push(Row::ratio(what, Figure::new(measured, "µs"), reference, measured / wall, Target::None).noting(format!(
                "CPU {:.1} µs, of the function {cpu:.1} µs; {AT_ONCE} at once: {:.1} µs each, CPU {:.1} µs",
                costs.alone(|cost| cost.cpu),
                costs.many(|cost| cost.wall),
                costs.many(|cost| cost.cpu),
            )));
        }
        for plugin in plugins {
            runtime.block_on(plugin.close());
        }
    }
    Ok(rows)
}

fn text(bytes: usize) -> String {
    "x".repeat(bytes)
}

fn call_directly(bytes: usize, count: usize) -> anyhow::Result<Cost> {
    let definition = <chat::PlugsocketExport as plugsocket_plugin::__export::Exported>::DEFINITION;
    let (_, constructor) = definition.actions.iter().find(|(name, _)| *name == "echo").context("the chat has no echo")?;
    let echo: Box<dyn Action> = constructor(&Config::default()).map_err(anyhow::Error::msg)?;
    let (message, context) = (testing::message("echo").data(json!(text(bytes))).build(), MockContext::new());
    let (cpu, started) = (own_cpu_us(), Instant::now());
    for _ in 0..count {
        ensure!(std::hint::black_box(echo.handle(&message, &context)).is_ok(), "the echo fails");
    }
    Ok(Cost { wall: started.elapsed().as_secs_f64() * 1e6 / per(count), cpu: (own_cpu_us() - cpu) / per(count) })
}

/// Wants nothing, and gets nothing.
struct Quiet;

#[async_trait]
impl HostSink for Quiet {
    async fn request(&self, _operation: HostOperation, _input: Bytes) -> Answer {
        Answer { status: Status::Done, bytes: Bytes::new() }
    }
}

/// The chat plugin, live.
struct Started {
    registry: Arc<Registry>,
    version: Arc<LiveVersion>,
    _folder: tempfile::TempDir,
}

impl Started {
    async fn open(isolation: &str) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let plugins_dir = folder.path().join("plugins");
        std::fs::create_dir(&plugins_dir)?;
        let library = chat_library()?;
        std::fs::copy(&library, plugins_dir.join(library.file_name().context("no name")?))?;
        let text = format!("[actions]\necho = \"chat\"\n[plugins.chat]\nisolation = \"{isolation}\"\n");
        let settings = Settings { plugins_dir, state_dir: folder.path().join("var"), ..toml::from_str(&text)? };
        let roles = Roles { handler: false, actions: true };
        let settings = Arc::new(ArcSwap::from_pointee(settings));
        let registry =
            Registry::start(RegistryOptions { roles, settings, launcher: Launcher::own_executable()?, trust: Trust::Warned }).await?;
        let version = registry.action("echo").with_context(|| format!("the chat is not live: {:?}", registry.snapshot()))?;
        Ok(Self { registry, version, _folder: folder })
    }

    async fn close(self) {
        drop(self.version); // A version that is held for a call does not end.
        self.registry.close().await;
    }
}

async fn measure(plugin: &Started, bytes: usize, count: usize, at_once: usize) -> anyhow::Result<Cost> {
    let input = Bytes::from(json!({ "action": "echo", "connection_id": "c", "data": text(bytes) }).to_string());
    let runners = processes::runners(std::process::id());
    let cpu = || own_cpu_us() + runners.iter().map(|runner| processes::cpu_us(*runner)).sum::<f64>();
    let (before, started) = (cpu(), Instant::now());
    let tracker = TaskTracker::new();
    let mut calling = Vec::new();
    for _ in 0..at_once {
        let (callee, input) = (Arc::clone(&plugin.version.callee), input.clone());
        calling.push(tracker.spawn(async move {
            for _ in 0..count.div_ceil(at_once) {
                let answer = callee.call(Call::new(Operation::Action, input.clone(), Arc::new(Quiet))).await?;
                ensure!(answer.status == Status::Done && answer.bytes.len() > bytes, "the echo answered {:?}", answer.status);
            }
            anyhow::Ok(())
        }));
    }
    for task in calling {
        task.await??;
    }
    let made = per(count.div_ceil(at_once) * at_once);
    Ok(Cost { wall: started.elapsed().as_secs_f64() * 1e6 / made, cpu: (cpu() - before) / made })
}
