//! Promise: an operator sees what the queue holds and who works on it, and can put back, drop and move what is in it without losing anything.

mod dead;
mod repartition;
mod status;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::app::App;
use crate::harness::config::Config;
use crate::harness::plugin;
use crate::harness::process::Process;
use crate::harness::tool::{self, Said};
use crate::harness::{START_PATIENCE, eventually};

const SOURCE: &str = include_str!("queue_tool/plugin.rs.txt");
const PATIENCE: Duration = Duration::from_secs(30);

fn app(servers: usize, workers: usize, partitions: i64) -> App {
    let library = plugin::from_source("ledger", SOURCE);
    App::start_with(servers, workers, |config| {
        plugin::install_bytes(&library, &config.plugins_dir(), "ledger");
        let dir = config.state_dir().to_str().unwrap().to_owned();
        let config = config.with("plugins.ledger.config.dir", dir).with("actions.work", "ledger").with("actions.soon", "ledger");
        config.with("queue_options.partitions", partitions).with("queue_options.lease", "1s").with("worker.attempts", 1)
    })
}

/// A file that the plugin looks for: `hold` or `fail`.
fn gate(app: &App, name: &str) -> PathBuf {
    app.config.state_dir().join(name)
}

fn close(app: &App, name: &str) {
    fs::write(gate(app, name), "").unwrap();
}

fn open(app: &App, name: &str) {
    fs::remove_file(gate(app, name)).unwrap();
}

fn queue(config: &Config, args: &str) -> Said {
    tool::run(config, &format!("queue {args}"))
}

fn status(app: &App) -> Value {
    queue(&app.config, "status --all --json").ok().json().remove(0)
}

async fn totals_become(app: &App, waiting: u64, in_flight: u64, later: u64, dead: u64) {
    let wanted = json!([waiting, in_flight, later, dead]);
    let counts = |totals: &Value| json!([totals["waiting"], totals["in_flight"], totals["later"], totals["dead"]]);
    eventually(&format!("waiting, in flight, later, dead = {wanted}"), PATIENCE, async || counts(&status(app)["totals"]) == wanted).await;
}

/// What the plugin has done: connection, number, attempt.
fn done(app: &App) -> Vec<[String; 3]> {
    let lines = app.redis.cli(&["LRANGE", "ps:{plugsocket:s:ledger:done}", "0", "-1"]);
    let words = |line: &str| line.split(' ').map(ToOwned::to_owned).collect::<Vec<_>>().try_into().unwrap();
    lines.lines().filter(|line| !line.is_empty()).map(words).collect()
}

/// The numbers done for one connection, in order.
fn numbers(app: &App, connection: &str) -> Vec<String> {
    done(app).into_iter().filter(|line| line[0] == connection).map(|line| line[1].clone()).collect()
}

#[test]
fn wrong_use_exits_with_2_and_says_what_is_right() {
    let app = app(1, 0, 4);
    for (args, words) in [
        ("dead show 7", "expected PARTITION/ID"),
        ("dead show 9/1-1", "there is no partition 9: the queue has 0 to 3"),
        ("dead list --partition 4", "there is no partition 4"),
        ("dead list --newer soon", "--newer"),
        ("dead list --limit 0", "--limit"),
        ("dead replay", "say which: ids, filters"),
        ("dead drop --all --action work", "exclude each other"),
        ("dead replay 0/1-1 --all --yes", "give either ids, or filters, or --all"),
        ("dead drop --all", "add --yes to drop them, or --dry-run"),
        ("peek --count 0", "--count"),
        ("repartition 0", "0 is not in 1.."),
        ("status --watch 1ms", "must be at least 100ms"),
        ("status --set app=other", "Redis has no queue of the app `other`"),
        ("status --set queue=memory", "the memory queue lives inside `plugsocket dev`: `plugsocket queue` is for a queue in Redis"),
    ] {
        queue(&app.config, args).code_is(2).says(words);
    }
    for args in ["--help", "status --help", "peek --help", "dead --help", "dead list --help", "dead show --help", "dead replay --help"] {
        queue(&app.config, args).ok().says("Example");
    }
    for args in ["dead drop --help", "repartition --help"] {
        queue(&app.config, args).ok().says("Example");
    }
}

#[test]
fn an_unreachable_redis_is_a_failure_with_its_reason() {
    let mut app = app(1, 0, 4);
    app.redis.kill();
    for args in ["status", "status --json", "peek", "dead list", "dead drop --all --yes", "repartition 8"] {
        queue(&app.config, args).code_is(1).says("queue is unreachable: redis://127.0.0.1:").says("onnection refused");
    }
}
