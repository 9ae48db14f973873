//! Runners that somebody kills, hosts that somebody kills, and what a runner gets from its host: a socket, and nothing else.

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{NEIGHBOUR_MS, Neighbours, PATIENCE, PLUGIN, app, app_of, dead, enter, kill, settled};
use crate::harness::app::App;
use crate::harness::process::Process;
use crate::harness::{eventually, procfs};

const SECRET: &str = "hush-hush";
/// How long a runner may outlive its host.
const ORPHAN_MAX: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_runner_that_is_killed_while_idle_or_busy_is_replaced_and_no_message_pays_for_it() {
    let mut app = app(|config| config);
    let url = app.urls().remove(0);
    let (mut client, _) = enter(&url, "ada").await;
    let mut neighbours = Neighbours::enter(&url).await;
    for is_busy in [false, true, true, false] {
        let before = client.request("act", Value::Null).await["process"].clone();
        let mark = app.workers[0].lines().len();
        if is_busy {
            neighbours.ask("act").await;
            tokio::time::sleep(Duration::from_millis(NEIGHBOUR_MS / 2)).await; // In the middle of their calls.
        }
        kill(u32::try_from(before.as_u64().unwrap()).unwrap());
        let killed = Instant::now();
        let answer = client.request("act", json!({ "text": "next" })).await;
        println!("killed while {}: next answer after {:.1?}", if is_busy { "busy" } else { "idle" }, killed.elapsed());
        assert_ne!(answer["process"], before);
        assert_eq!(answer["attempt"], 1);
        if is_busy {
            neighbours.answered("kill -9 of their runner").await;
        }
        let line = app.workers[0].wait_line_after(mark, "runner ended", PATIENCE);
        assert!(line.contains("SIGKILL") && line.contains(PLUGIN), "{line}");
        settled(&app.workers[0], 1).await;
    }
    assert_eq!(dead(&app), Vec::<String>::new());
    assert!(app.workers[0].is_running());
}

fn runners_of(app: &App) -> Vec<u32> {
    let hosts = app.servers.iter().chain(&app.workers).map(Process::pid);
    hosts.flat_map(|host| [procfs::runners(host, PLUGIN), procfs::runners(host, "chat")].concat()).collect()
}

async fn all_end(runners: &[u32]) -> Duration {
    let started = Instant::now();
    eventually("the end of every runner", ORPHAN_MAX, async || runners.iter().all(|pid| !procfs::is_running(*pid))).await;
    started.elapsed()
}

#[tokio::test]
async fn no_runner_outlives_its_host() {
    for way in ["kill -9", "kill -9 with calls that never end", "SIGTERM"] {
        let mut app = app(|config| config);
        let (mut client, _) = enter(&app.urls()[0], "ada").await;
        client.request("act", Value::Null).await;
        let runners = runners_of(&app);
        assert!(runners.len() >= 3, "chat twice and the villain: {runners:?}");
        if way.contains("calls") {
            client.send_request("act", json!({ "do": "loop" })).await;
            client.send_request("act", json!({ "milliseconds": 600_000 })).await;
            tokio::time::sleep(Duration::from_millis(NEIGHBOUR_MS)).await; // Until they run.
        }
        for host in app.servers.iter_mut().chain(&mut app.workers) {
            if way == "SIGTERM" {
                assert!(host.terminate(PATIENCE).success(), "{:?}", host.lines().last());
            } else {
                host.kill();
            }
        }
        println!("{way} of the hosts: {} runners had ended {:.1?} later", runners.len(), all_end(&runners).await);
    }
}

/// What a process holds of these kinds, such as `socket:` and `pipe:`.
fn held(pid: u32, kind: &str) -> HashSet<PathBuf> {
    procfs::descriptors(pid).into_iter().map(|(_, what)| what).filter(|what| what.to_string_lossy().starts_with(kind)).collect()
}

/// A host with a secret in its environment and a file of its parent's open as descriptor 9.
fn holder(name: &str, program: &str, app: &App, queue: &str) -> Process {
    let mut command = Command::new("sh");
    command.args(["-c", "exec 9<\"$2\" && exec \"$0\" --config \"$1\"", program, app.config.path(), app.config.path()]);
    Process::spawn(name, {
        command.env("PLUGSOCKET_QUEUE", queue);
        command
    })
}

#[tokio::test]
async fn a_runner_gets_one_socket_and_no_secret() {
    let mut app = app_of(0, 0, |config| config);
    app.redis.cli(&["ACL", "SETUSER", "keeper", "on", &format!(">{SECRET}"), "~*", "&*", "+@all"]);
    let url = app.redis.url().replace("redis://", &format!("redis://keeper:{SECRET}@"));
    app.config.unset("queue");
    app.servers.push(holder("server", env!("CARGO_BIN_EXE_plugsocket-server"), &app, &url));
    app.workers.push(holder("worker", env!("CARGO_BIN_EXE_plugsocket-worker"), &app, &url));
    app.workers[0].wait_worker_ready();
    // Sockets of clients and of Redis are open in the hosts when the replacement is started.
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(enter(&app.servers[0].ws_url(), "ada").await.0);
    }
    for _ in 0..2 {
        let answer = clients[0].request("act", Value::Null).await;
        kill(u32::try_from(answer["process"].as_u64().unwrap()).unwrap());
        assert_ne!(clients[0].request("act", Value::Null).await["process"], answer["process"]);
    }
    settled(&app.workers[0], 1).await;
    for host in [&app.servers[0], &app.workers[0]] {
        let runners = [procfs::runners(host.pid(), PLUGIN), procfs::runners(host.pid(), "chat")].concat();
        assert!(!runners.is_empty());
        assert!(procfs::environment(host.pid()).iter().any(|entry| entry.contains(SECRET)), "the host itself has it");
        assert!(procfs::descriptors(host.pid()).iter().any(|(number, _)| *number == 9), "and its parent's descriptor");
        for runner in runners {
            let descriptors = procfs::descriptors(runner);
            assert_eq!(held(runner, "socket:").len(), 1, "{descriptors:?}");
            assert!(held(runner, "socket:").is_disjoint(&held(host.pid(), "socket:")), "{descriptors:?}");
            let own = |(number, what): &(u32, PathBuf)| {
                let what = what.to_string_lossy();
                *number <= 2 || ["socket:", "anon_inode:", "/memfd:"].iter().any(|kind| what.starts_with(kind))
            };
            assert!(descriptors.iter().all(own), "{descriptors:?}");
            assert_eq!(descriptors.first().map(|(_, what)| what.clone()), Some("/dev/null".into()), "standard input: {descriptors:?}");
            let told = [procfs::environment(runner), procfs::arguments(runner)].concat();
            assert!(!told.iter().any(|entry| entry.contains(SECRET) || entry.starts_with("PLUGSOCKET_")), "{told:?}");
        }
    }
}
