//! `plugsocket-server`: holds the clients' WebSocket connections.

use std::process::ExitCode;

use clap::Parser;
use plugsocket::config::Common;
use plugsocket::run;

/// Holds WebSocket connections; passes messages to workers through Redis.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:
  plugsocket-server --config /etc/plugsocket.toml
  plugsocket-server --set server.listen=0.0.0.0:8000 --set queue=redis://10.0.0.5:6379

Exit codes: 0 drained and ended, 1 failed, 2 the config or a flag is wrong, 143 ended by a second signal."
)]
struct Cli {
    #[command(flatten)]
    common: Common,
    /// Send every WebSocket message back as it came, text or binary, for conformance tests; without Redis, plugins and clients' registration.
    #[arg(long)]
    echo_frames: bool,
}

fn main() -> ExitCode {
    if let Some(code) = run::hidden() {
        return code;
    }
    let Cli { common, echo_frames } = Cli::parse();
    let threads = common.threads();
    if echo_frames { run::block_on(threads, run::server::echo_frames(common)) } else { run::block_on(threads, run::server::run(common)) }
}
