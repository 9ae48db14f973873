//! `plugsocket`: run everything in one process, send, look after the queue, check, begin a plugin.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use plugsocket::run;
use plugsocket::tool::{check, config, new, plugins, queue, send};

/// A WebSocket server whose message handlers are native plugins.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:
  plugsocket dev                                           # try it: server, worker and demo page in one process
  plugsocket new hello                                     # begin a plugin
  plugsocket check                                         # would config and plugins be accepted?
  plugsocket config import -o config/plugsocket.toml       # from the PHP package's config/websocket.php
  plugsocket send --to-user 7 chat_text '{\"text\": \"hi\"}'   # to clients, through Redis
  plugsocket queue status                                  # what waits where, who works, what is dead
  plugsocket plugins list                                  # which builds run where, and why one was refused

For production: plugsocket-server and plugsocket-worker."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs server, worker and an embedded queue in one process, with the demo page: the way to begin.
    Dev(run::dev::DevArgs),
    /// Sends a message to connected clients, through Redis.
    Send(send::SendArgs),
    /// Shows and mends the queue in Redis.
    Queue(queue::QueueArgs),
    /// Shows the plugins of the processes that run; reloads, takes back, tries again, allows.
    Plugins(plugins::PluginsArgs),
    /// Checks the config file, the certificate and keys it names, and every plugin in it, without running them.
    Check(check::CheckArgs),
    /// Makes a config file from the PHP package's.
    Config(config::ConfigArgs),
    /// Makes the folder of a new plugin.
    New(new::NewArgs),
}

fn main() -> ExitCode {
    if let Some(code) = run::hidden() {
        return code;
    }
    match Cli::parse().command {
        Command::Dev(args) => run::block_on(args.threads(), run::dev::run(args)),
        Command::Send(args) => run::block_on(1, send::send(args)),
        Command::Queue(args) => run::block_on(1, queue::run(args)),
        Command::Plugins(args) => run::block_on(1, plugins::run(args)),
        Command::Check(args) => run::block_on(1, check::check(args, run::server::check_files)),
        Command::Config(args) => run::block_on(1, config::run(args)),
        Command::New(args) => run::exit_code(new::new(&args)),
    }
}
