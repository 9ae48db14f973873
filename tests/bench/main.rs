//! Measures the queue, and calls of plugins, against references on the same machine, in one run: a table for people, JSON for machines. Run it by `scripts/bench`.

mod backlog;
mod batcher;
mod call;
mod codec;
mod cycle;
mod deliveries;
mod isolation;
mod latency;
mod load;
mod php;
mod processes;
mod redis;
mod report;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use clap::Parser;

use self::redis::Redis;
use self::report::{Report, Row};

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Only that every row runs and loses nothing; the figures mean little.
    Smoke,
    /// Enough for a first look.
    Quick,
    /// What the documentation shows.
    Full,
}

/// What a scenario runs on.
pub struct Bench {
    /// The server that everything runs on.
    pub redis: Redis,
    /// How much is measured.
    pub scale: Scale,
    /// Jobs offered and not settled at any time.
    pub window: usize,
}

impl Bench {
    /// Picks by scale.
    pub fn pick<T>(&self, smoke: T, quick: T, full: T) -> T {
        match self.scale {
            Scale::Smoke => smoke,
            Scale::Quick => quick,
            Scale::Full => full,
        }
    }

    /// How often a measurement and its reference take turns: what else runs on the machine disturbs both alike.
    pub fn rounds(&self) -> usize {
        self.pick(1, 3, 5)
    }
}

/// One scenario: a file of this folder. It measures one or more rows.
struct Scenario {
    name: &'static str,
    about: &'static str,
    run: fn(&Bench) -> anyhow::Result<Vec<Row>>,
}

const SCENARIOS: [Scenario; 10] = [
    Scenario { name: "batcher", about: "storing jobs, against redis-benchmark XADD", run: batcher::run },
    Scenario { name: "cycle", about: "storing, taking and acknowledging, against one XADD", run: cycle::against_xadd },
    Scenario { name: "partitions", about: "the same over 64 partitions, against 1", run: cycle::partitions },
    Scenario { name: "send", about: "deliveries to connections, against PUBLISH", run: deliveries::run },
    Scenario { name: "wakeup", about: "an idle worker gets a job, against one XADD round trip", run: latency::wakeup },
    Scenario { name: "php", about: "an item of PHP reaches its server, against a delivery of our own", run: php::run },
    Scenario { name: "call", about: "one call of a plugin: in-process and in a runner, against a plain function call", run: call::run },
    Scenario {
        name: "isolation",
        about: "a round trip through server, worker and Redis: with runners, against in-process",
        run: isolation::run,
    },
    Scenario { name: "wire", about: "reading and writing one frame, job or delivery", run: codec::run },
    Scenario { name: "backlog", about: "a million queued jobs: memory, and how fast they drain (not with --quick)", run: backlog::run },
];

/// Measures the queue on a private redis-server and prints a Markdown table; the same as JSON goes to a file.
#[derive(Parser)]
#[command(name = "scripts/bench", after_help = scenarios_help())]
struct Arguments {
    /// Fewer jobs and rounds: about half a minute.
    #[arg(long)]
    quick: bool,
    /// Only try that each row runs and that nothing gets lost; needs no release build.
    #[arg(long)]
    smoke: bool,
    /// Only these rows.
    #[arg(long, value_name = "ROW", value_parser = SCENARIOS.map(|scenario| scenario.name))]
    only: Vec<String>,
    /// Jobs of the cycle that are offered and not settled at any time.
    #[arg(long, value_name = "JOBS", default_value_t = 1_024)]
    window: usize,
    /// A setting for the private redis-server, such as stream-node-max-bytes=1024.
    #[arg(long, value_name = "NAME=VALUE")]
    redis: Vec<String>,
    /// Where the JSON goes.
    #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bench/queue.json"))]
    json: PathBuf,
    /// `cargo bench` adds it.
    #[arg(long, hide = true)]
    bench: bool,
}

fn scenarios_help() -> String {
    let lines = SCENARIOS.map(|scenario| format!("  {:<11} {}", scenario.name, scenario.about));
    format!("Rows:\n{}", lines.join("\n"))
}

fn main() -> ExitCode {
    // Runners are this executable, started again.
    if let Some(code) = plugsocket::run::hidden() {
        return code;
    }
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("no figures: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let scale = match (arguments.smoke, arguments.quick) {
        (true, _) => Scale::Smoke,
        (_, true) => Scale::Quick,
        _ => Scale::Full,
    };
    let bench = Bench { redis: Redis::start(&arguments.redis)?, scale, window: arguments.window.max(1) };
    let mut report = Report::new(scale, bench.redis.version()?);
    for scenario in &SCENARIOS {
        let chosen = arguments.only.is_empty() || arguments.only.iter().any(|name| name == scenario.name);
        let is_too_long = scale == Scale::Quick && scenario.name == "backlog" && arguments.only.is_empty();
        if !chosen || is_too_long {
            continue;
        }
        let started = Instant::now();
        let rows = (scenario.run)(&bench).with_context(|| format!("row {}", scenario.name))?;
        bench.redis.flush()?;
        eprintln!("{}: {:.1} s", scenario.name, started.elapsed().as_secs_f64());
        report.add(scenario.name, rows);
    }
    println!("{}", report.to_markdown());
    report.write_json(&arguments.json)?;
    eprintln!("JSON: {}", arguments.json.display());
    Ok(())
}
