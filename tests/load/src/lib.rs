//! Measures built Plugsocket binaries end to end, as black boxes: a load generator, the scenarios, references, and a report. Run it by `scripts/bench`.
//! Linux only, as `/proc` and its timers are; elsewhere it is empty.
#![cfg(target_os = "linux")]

mod app;
mod backlog;
mod bench;
mod clock;
mod closed;
mod echo;
mod frame;
mod histogram;
mod net;
mod notice;
mod open;
mod plot;
mod procs;
mod redis;
mod reference;
mod register;
mod report;
mod scenario;
mod sender;
mod targets;
mod usage;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::Parser;

use self::app::Bins;
use self::bench::{Bench, Scale};
use self::redis::Redis;
use self::reference::{echo_server, nats};
use self::report::Outcome;

/// One scenario.
struct Scenario {
    name: &'static str,
    about: &'static str,
    run: fn(&mut Bench) -> anyhow::Result<()>,
}

const SCENARIOS: [Scenario; 9] = [
    Scenario { name: "refs", about: "what figures are held against: a bare echo, Redis alone, redis-benchmark", run: scenario::refs::run },
    Scenario { name: "trip", about: "messages and their answers: every way they can go, closed and open loops", run: scenario::trip::run },
    Scenario { name: "broadcast", about: "to all, a group, a user, a connection; from HTTP and PHP's list", run: scenario::broadcast::run },
    Scenario { name: "slow", about: "handlers that sleep: how much longer all of them take than they must", run: scenario::slow::run },
    Scenario { name: "reload", about: "latency while the plugin's library is replaced", run: scenario::disruption::reload },
    Scenario { name: "crash", about: "latency while the plugin's runner is killed", run: scenario::disruption::crash },
    Scenario { name: "idle", about: "connections that only register: memory, rate, and CPU to keep them", run: scenario::idle::run },
    Scenario { name: "curve", about: "more workers, servers, connections, queued messages (not with --quick)", run: scenario::curve::run },
    Scenario { name: "sweep", about: "rising rates up to saturation (only with --plot)", run: scenario::sweep::run },
];

/// Measures built binaries end to end: a table for people, JSON for machines.
#[derive(Parser)]
#[command(name = "plugsocket-load", after_help = scenarios_help())]
struct Arguments {
    /// Only these scenarios; all of them without any.
    #[arg(value_name = "SCENARIO", value_parser = SCENARIOS.map(|scenario| scenario.name))]
    scenarios: Vec<String>,
    /// The same.
    #[arg(long, value_name = "SCENARIO", value_parser = SCENARIOS.map(|scenario| scenario.name))]
    only: Vec<String>,
    /// Folder with plugsocket, plugsocket-server, plugsocket-worker and libchat.so.
    #[arg(long, value_name = "DIR", default_value = "target/release")]
    bins: PathBuf,
    /// A second folder, measured in turn with the first; the table has the ratios.
    #[arg(long, value_name = "DIR")]
    against: Option<PathBuf>,
    /// Fewer rounds, shorter windows: about two minutes for everything.
    #[arg(long)]
    quick: bool,
    /// Only try that everything runs and nothing gets lost.
    #[arg(long)]
    smoke: bool,
    /// How often everything is measured; the table has the median, the least and the most.
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Take figures of a busy machine too, and mark them.
    #[arg(long)]
    force: bool,
    /// Also rising rates, drawn: latency.svg beside the JSON.
    #[arg(long)]
    plot: bool,
    /// Where the JSON goes; the table goes beside it.
    #[arg(long, value_name = "FILE", default_value = "target/bench/load.json")]
    json: PathBuf,
}

fn scenarios_help() -> String {
    let lines = SCENARIOS.map(|scenario| format!("  {:<11} {}", scenario.name, scenario.about));
    format!("Scenarios:\n{}", lines.join("\n"))
}

/// Everything: what the program does with its arguments.
#[must_use]
pub fn main() -> ExitCode {
    let mut hidden = std::env::args().skip(1);
    let (first, second) = (hidden.next().unwrap_or_default(), hidden.next().unwrap_or_default());
    let ended = match first.as_str() {
        echo_server::ARGUMENT => echo_server::serve(&second).map(|()| true),
        nats::ARGUMENT => nats::respond(&second).map(|()| true),
        _ => run(&Arguments::parse()),
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("no figures: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every scenario has figures.
fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let scale = match (arguments.smoke, arguments.quick) {
        (true, _) => Scale::Smoke,
        (_, true) => Scale::Quick,
        _ => Scale::Full,
    };
    let rounds = arguments.rounds.unwrap_or(match scale {
        Scale::Smoke => 1,
        Scale::Quick => 2,
        Scale::Full => 3,
    });
    let sides =
        std::iter::once(&arguments.bins).chain(&arguments.against).map(|folder| Bins::new(folder)).collect::<Result<Vec<_>, _>>()?;
    ensure!(sides.iter().skip(1).all(|side| side.name != sides[0].name), "two folders of one name: tables tell them apart by it");
    end_with_signals();
    raise_descriptors()?;
    let mut bench = Bench::new(scale, rounds.max(1), arguments.force, sides)?;
    let mut refused = Vec::new();
    let chosen = |name: &str| {
        let mut names = arguments.scenarios.iter().chain(&arguments.only).peekable();
        match name {
            "sweep" if arguments.plot => true,
            "sweep" => names.any(|chosen| chosen == name),
            "curve" if scale == Scale::Quick => names.any(|chosen| chosen == name),
            _ => names.peek().is_none() || names.any(|chosen| chosen == name),
        }
    };
    for scenario in SCENARIOS.iter().filter(|scenario| chosen(scenario.name)) {
        let started = Instant::now();
        if let Err(error) = rounds_of(&mut bench, scenario) {
            // Figures of a scenario that lost something are none.
            bench.samples.retain(|sample| sample.scenario != scenario.name);
            eprintln!("{}: refused: {error:#}", scenario.name);
            refused.push(format!("{}: refused: {error:#}", scenario.name));
            bench.redis.flush()?;
        }
        eprintln!("{}: {:.1} s", scenario.name, started.elapsed().as_secs_f64());
    }
    let sides: Vec<&str> = bench.sides.iter().map(|bins| bins.name.as_str()).collect();
    let outcome = Outcome { scale, sides, samples: &bench.samples, refused: &refused };
    println!("{}", report::to_markdown(&outcome));
    write(arguments, &outcome, &bench.redis.version()?)?;
    Ok(refused.is_empty())
}

/// All rounds; both sides take turns, and the one that begins changes.
fn rounds_of(bench: &mut Bench, scenario: &Scenario) -> anyhow::Result<()> {
    for round in 0..bench.rounds {
        bench.round = round;
        for turn in 0..bench.sides.len() {
            // A fresh one: its memory and settings are those of this scenario.
            bench.redis = Redis::start()?;
            bench.side = if round % 2 == 0 { turn } else { bench.sides.len() - 1 - turn };
            (scenario.run)(bench).with_context(|| bench.sides[bench.side].name.clone())?;
        }
    }
    Ok(())
}

fn write(arguments: &Arguments, outcome: &Outcome, redis: &str) -> anyhow::Result<()> {
    let json = arguments.json.clone();
    let mut files = vec![
        (json.clone(), serde_json::to_string_pretty(&report::to_json(outcome, redis))?),
        (json.with_extension("md"), report::to_markdown(outcome)),
    ];
    for (side, (name, file)) in outcome.sides.iter().zip(["latency.svg", "latency-against.svg"]).enumerate() {
        files.extend(
            plot::svg(outcome.samples, side, &format!("Latency against offered load: {name}")).map(|svg| (json.with_file_name(file), svg)),
        );
    }
    if let Some(folder) = json.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("folder {}", folder.display()))?;
    }
    for (path, text) in files {
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        eprintln!("written: {}", path.display());
    }
    Ok(())
}

/// As many connections as the system lets us have, here and in everything that is started.
fn raise_descriptors() -> anyhow::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).context("raising the limit of descriptors")
}

/// A signal ends everything that was started, and then this.
fn end_with_signals() {
    std::thread::spawn(|| {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else { return };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        procs::end_all();
        std::process::exit(130);
    });
}
