//! Promise: whatever fails, what was accepted is handled, in order, and nobody is cut off. One test per fault, each on real processes.

mod data;
mod full;
mod lists;
mod php;
mod redis;
mod workers;

use std::time::Duration;

use crate::harness::app::App;
use crate::harness::redis::Redis;
use crate::harness::sequence::{self, Plan, Running};

/// The workers' lease in these tests.
const LEASE: Duration = Duration::from_secs(2);
/// Messages that are handled before a fault and after it.
const STEADY: u64 = 1_500;

/// As [`start`], on a Redis with these arguments.
fn start_on(arguments: &[&str], servers: usize, workers: usize) -> App {
    App::start_on(Redis::start_with(arguments), servers, workers, |config| sequence::with_tracer(config).with("queue_options.lease", "2s"))
}

/// Servers and workers with the plugin that tells what ran.
fn start(servers: usize, workers: usize) -> App {
    start_on(&[], servers, workers)
}

/// The load of the checker on all servers of an app.
async fn begin(app: &App, change: impl FnOnce(&mut Plan)) -> Running {
    let mut plan = Plan::new(app.urls(), &app.config);
    change(&mut plan);
    Running::start(plan).await
}

/// As [`begin`], running steadily.
async fn load(app: &App, change: impl FnOnce(&mut Plan)) -> Running {
    let running = begin(app, change).await;
    running.go_on(STEADY).await;
    running
}
