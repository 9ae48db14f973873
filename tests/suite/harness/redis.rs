//! A private redis-server: on a free port of the loopback address, without persistence, gone with the test.

use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use super::process::Process;
use super::{PATIENCE, START_PATIENCE};

const START_ATTEMPTS: usize = 20;
const START_PAUSE: Duration = Duration::from_millis(100);

/// One redis-server of its own. Dropping it ends the server.
pub struct Redis {
    process: Option<Process>,
    port: u16,
    options: Vec<String>,
    dir: TempDir,
}

impl Redis {
    /// Starts one.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts one with further arguments, such as `["--maxmemory", "10mb"]`.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_with(options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let mut redis = Self { process: None, port: 0, options, dir };
        for _ in 0..START_ATTEMPTS {
            // Another process may take the port before redis-server does; then the next one is tried.
            redis.port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
            if redis.try_launch().is_ok() {
                return redis;
            }
        }
        panic!("redis-server did not start on any of {START_ATTEMPTS} free ports: {}", redis.try_launch().err().unwrap_or_default());
    }

    fn try_launch(&mut self) -> Result<(), String> {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--save", "", "--appendonly", "no", "--daemonize", "no"]);
        command.arg("--dir").arg(self.dir.path()).args(&self.options);
        let process = Process::spawn("redis-server", command);
        process.try_wait_line(0, "Ready to accept connections", START_PATIENCE).map_err(|why| format!("{why}: {:?}", process.lines()))?;
        self.process = Some(process);
        Ok(())
    }

    /// Its address for the config.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs one command through redis-cli and gives back what it prints, without the last line end.
    ///
    /// # Panics
    /// When redis-cli can't be started or can't connect.
    pub fn cli(&self, args: &[&str]) -> String {
        let output = Command::new("redis-cli").args(["-h", "127.0.0.1", "-p", &self.port.to_string()]).args(args).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned();
        assert!(output.status.success(), "redis-cli {args:?}: {text} {}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// Ends the server at once; its data is lost. [`Self::start_again`] brings it back on the same port.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Starts the server again, empty, on the same port.
    ///
    /// # Panics
    /// When the port stays taken.
    pub fn start_again(&mut self) {
        assert!(self.process.is_none(), "it still runs");
        let mut last = String::new();
        for _ in 0..START_ATTEMPTS {
            match self.try_launch() {
                Ok(()) => return,
                Err(why) => last = why,
            }
            thread::sleep(START_PAUSE); // An outgoing connection may have got the port for a moment.
        }
        panic!("redis-server did not come back on port {}: {last}", self.port);
    }

    /// Ends the server orderly and starts it again, empty, on the same port.
    pub fn restart(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.terminate(PATIENCE);
        }
        self.start_again();
    }

    /// Stops the server without closing a connection: it answers nothing until [`Self::thaw`].
    pub fn freeze(&self) {
        self.process.as_ref().unwrap().signal("STOP");
    }

    /// Lets a frozen server go on.
    pub fn thaw(&self) {
        self.process.as_ref().unwrap().signal("CONT");
    }
}
