//! `plugsocket-worker`: runs action plugins.

use std::process::ExitCode;

use clap::Parser;
use plugsocket::config::Common;
use plugsocket::run;

/// Takes messages off the queue and runs action plugins.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:
  plugsocket-worker --config /etc/plugsocket.toml
  plugsocket-worker --set worker.slots=16 --set ops.worker_listen=127.0.0.1:8012

Exit codes: 0 drained and ended, 1 failed, 2 the config or a flag is wrong, 143 ended by a second signal."
)]
struct Cli {
    #[command(flatten)]
    common: Common,
}

fn main() -> ExitCode {
    if let Some(code) = run::hidden() {
        return code;
    }
    let Cli { common } = Cli::parse();
    run::block_on(common.threads(), run::worker::run(common))
}
