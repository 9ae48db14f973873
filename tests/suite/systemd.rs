//! Promise: under a service manager a restart refuses nobody: the manager listens, and is told what the process does.

use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::anew;
use crate::harness::client::Client;
use crate::harness::config::Config;
use crate::harness::process::Process;
use crate::harness::redis::Redis;
use crate::harness::{PATIENCE, START_PATIENCE, http, plugin, procfs, uninterrupted};

const SERVER: &str = env!("CARGO_BIN_EXE_plugsocket-server");
const DEV: &str = env!("CARGO_BIN_EXE_plugsocket");

/// A command that gets its standard input as descriptor 3, as a service manager passes sockets; the process id is known to itself alone.
fn activated(program: &str, arguments: &[&str], name: &str) -> Command {
    let mut command = Command::new("sh");
    let script = "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\" 3<&0 </dev/null";
    command.args(["-c", script, program]).args(arguments).env("LISTEN_FDNAMES", name);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PLUGSOCKET_")) {
        command.env_remove(name);
    }
    command
}

fn pass(socket: impl Into<OwnedFd>) -> Stdio {
    Stdio::from(socket.into())
}

fn listen() -> (TcpListener, String) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", socket.local_addr().unwrap());
    (socket, url)
}

/// Connects until it is served. Who is told to come back does; a connection that is refused is an error at once.
async fn enter(url: &str, nickname: &str) -> Result<Client, String> {
    let end = Instant::now() + START_PATIENCE;
    let mut last = String::new();
    while Instant::now() < end {
        match Client::try_connect(url, &[]).await {
            Ok(mut client) => {
                let id = json!("1");
                client.send("register", json!({"nickname": nickname}), Some(&id)).await;
                match client.next_or_closed(&id).await {
                    Some(frame) if frame["action"] == "registered" => return Ok(client),
                    other => last = format!("{other:?}, {:?}", client.closed()),
                }
            }
            Err(error) if error.contains("refused") => return Err(error),
            Err(error) => last = error,
        }
        sleep(Duration::from_millis(20)).await;
    }
    Err(last)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_refuses_no_connection() {
    let redis = Redis::start();
    let config = Config::chat(&redis.url()).with("log_level", "info").with("server.drain_timeout", "3s").with("queue_options.lease", "1s");
    plugin::install(&plugin::chat(), &config.plugins_dir(), "chat");
    let (socket, url) = listen();
    let start = || {
        let command = activated(SERVER, &["--config", config.path()], "server");
        Process::spawn_with("server", command, pass(socket.try_clone().unwrap()))
    };
    let mut server = start();
    assert_eq!(server.ws_url(), url, "the passed socket is served, not server.listen");
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|client| {
            let (url, stop, served) = (url.clone(), Arc::clone(&stop), Arc::clone(&served));
            tokio::spawn(async move {
                let mut round = 0;
                while !stop.load(Relaxed) {
                    round += 1;
                    drop(enter(&url, &format!("c{client}x{round}")).await?);
                    served.fetch_add(1, Relaxed);
                }
                Ok::<_, String>(())
            })
        })
        .collect();
    for _ in 0..2 {
        let before = served.load(Relaxed);
        crate::harness::eventually("clients are served", START_PATIENCE, async || served.load(Relaxed) > before + 8).await;
        assert!(server.terminate(START_PATIENCE).success());
        server = start();
        server.ws_url();
    }
    let before = served.load(Relaxed);
    crate::harness::eventually("clients are served again", START_PATIENCE, async || served.load(Relaxed) > before + 8).await;
    stop.store(true, Relaxed);
    for client in clients {
        client.await.unwrap().unwrap();
    }
    let runners = procfs::runners(server.pid(), "chat");
    assert!(!runners.is_empty());
    for runner in runners {
        let is_own = |variable: &String| ["LISTEN_", "NOTIFY_", "WATCHDOG_"].iter().any(|own| variable.starts_with(own));
        let kept: Vec<_> = procfs::environment(runner).into_iter().filter(is_own).collect();
        assert_eq!(kept, Vec::<String>::new(), "a runner has them too");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_starts_anew_keeps_the_socket() {
    let config = anew::in_process(Config::chat("memory"));
    plugin::install(&plugin::chat(), &config.plugins_dir(), "chat");
    let (socket, url) = listen();
    let command = activated(DEV, &["dev", "--config", config.path()], "");
    let mut dev = Process::spawn_with("plugsocket", command, pass(socket));
    assert_eq!(dev.ws_url(), url);
    for _ in 0..2 {
        let (mark, pid) = (dev.lines().len(), dev.pid());
        anew::wear_out(&config, &[&dev]);
        dev.wait_line_after(mark, "starting anew", START_PATIENCE);
        enter(&url, "ada").await.expect("never refused");
        assert_eq!(dev.pid(), pid);
        let line = dev.wait_line_after(mark, "listening on ws://", START_PATIENCE);
        assert!(line.ends_with(&url), "{line}");
    }
    assert!(dev.terminate(START_PATIENCE).success());
}

#[test]
fn a_socket_that_can_not_be_used_is_said() {
    let config = Config::chat("memory");
    let start = |socket: Stdio, name: &str| {
        let command = activated(DEV, &["dev", "--config", config.path()], name);
        let mut process = Process::spawn_with("plugsocket", command, socket);
        assert_eq!(process.wait_exit(START_PATIENCE).code(), Some(1));
        process.lines().join("\n")
    };
    let udp = start(pass(UdpSocket::bind("127.0.0.1:0").unwrap()), "server");
    assert!(udp.contains("the socket `server` that the service manager passed can't be used") && udp.contains("ListenStream="), "{udp}");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connected = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let connected = start(pass(connected), "ops");
    assert!(connected.contains("the socket `ops`") && connected.contains("it does not listen"), "{connected}");
}

#[test]
fn the_ops_socket_may_be_passed_too() {
    let config = Config::chat("memory");
    plugin::install(&plugin::chat(), &config.plugins_dir(), "chat");
    let (socket, url) = listen();
    let command = activated(DEV, &["dev", "--config", config.path()], "ops");
    let dev = Process::spawn_with("plugsocket", command, pass(socket));
    assert_eq!(dev.ops_url(), url.replace("ws://", "http://"));
    assert_eq!(http::get(&format!("{}healthz", dev.ops_url())).status, 200);
}

/// Waits for a message that holds this line.
fn wait_told(manager: &UnixDatagram, line: &str) -> String {
    let mut bytes = [0; 4096];
    loop {
        let length = uninterrupted(|| manager.recv(&mut bytes)).unwrap_or_else(|error| panic!("not told {line}: {error}"));
        let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
        if text.lines().any(|told| told == line) {
            return text;
        }
    }
}

#[test]
fn the_manager_is_told_when_it_is_ready_alive_and_stopping() {
    let config = Config::chat("memory");
    plugin::install(&plugin::chat(), &config.plugins_dir(), "chat");
    let path = config.state_dir().join("notify.sock");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(START_PATIENCE)).unwrap();
    let mut command = Command::new(DEV);
    command.args(["dev", "--config", config.path()]).env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
    let mut dev = Process::spawn("plugsocket", command);
    let ready = wait_told(&manager, "READY=1");
    let url = dev.ws_url();
    assert!(ready.contains(&format!("STATUS=serving clients on {url}")), "{ready}");
    assert!(std::net::TcpStream::connect(url.trim_start_matches("ws://").trim_end_matches('/')).is_ok());
    for _ in 0..3 {
        wait_told(&manager, "WATCHDOG=1");
    }
    dev.signal("TERM");
    assert!(wait_told(&manager, "STOPPING=1").contains("STATUS=draining"));
    assert!(dev.wait_exit(PATIENCE).success());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_log_format_json_every_line_of_the_log_is_json() {
    let config = Config::chat("memory");
    plugin::install(&plugin::chat(), &config.plugins_dir(), "chat");
    // Its standard output has the ready lines, for people; the log is on standard error.
    let mut dev = Process::tool(&["dev", "--config", config.path(), "--log-format", "json"]);
    let mut client = Client::enter(&dev.ws_url(), "ada").await;
    client.request("echo", json!(1)).await;
    assert!(dev.terminate(START_PATIENCE).success());
    let is_ready_line = |line: &str| {
        ["listening on ws://", "worker ready", "ops on http://", "plugins from ", "config from ", "not ready: ", "open http://"]
            .iter()
            .any(|words| line.starts_with(words))
    };
    let logged: Vec<_> = dev.lines().into_iter().filter(|line| !is_ready_line(line)).collect();
    assert!(logged.len() > 3);
    for line in &logged {
        assert!(serde_json::from_str::<Value>(line).is_ok_and(|line| line["level"].is_string()), "no JSON: {line}");
    }

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = Config::chat("memory").with("server.listen", taken.local_addr().unwrap().to_string());
    let mut dev = Process::tool(&["dev", "--config", config.path(), "--log-format", "json"]);
    assert_eq!(dev.wait_exit(START_PATIENCE).code(), Some(1));
    let last: Value = serde_json::from_str(dev.lines().last().unwrap()).unwrap();
    assert!(last["message"].as_str().unwrap().contains("can't listen on"), "{last}");
}
