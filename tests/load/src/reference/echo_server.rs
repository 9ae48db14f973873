//! The bare echo: tokio-tungstenite as its documentation shows it, a task for each connection, default settings, nothing behind it.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use anyhow::Context;
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use crate::procs::Process;

/// The hidden argument that makes this program the server.
pub const ARGUMENT: &str = "__echo-server";

/// The argument behind it that sets TCP_NODELAY: answers leave at once instead of together.
const NO_DELAY: &str = "no-delay";

/// Starts this program once more, as the server; gives back where it listens.
pub fn start(no_delay: bool) -> anyhow::Result<(Process, SocketAddr)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([ARGUMENT, if no_delay { NO_DELAY } else { "" }]);
    let process = Process::start("the echo server", command)?;
    let address = process.wait_for("listening on ")?;
    Ok((process, address.parse()?))
}

/// Serves until it is killed.
pub fn serve(option: &str) -> anyhow::Result<()> {
    let no_delay = option == NO_DELAY;
    // Whatever happens to the program that started this one, no server is left behind.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        println!("listening on {}", listener.local_addr()?);
        let tasks = TaskTracker::new();
        loop {
            let (stream, _) = listener.accept().await.context("accept")?;
            stream.set_nodelay(no_delay)?;
            tasks.spawn(async move {
                let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
                while let Some(Ok(message)) = socket.next().await {
                    if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                        return;
                    }
                }
            });
        }
    })
}
