//! `plugsocket config`: what helps to write the config file; one file per subcommand.

mod import;
mod package;
mod php;
mod queue_url;
mod steps;
mod text;

use clap::{Args, Subcommand};

/// Flags of `config`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  plugsocket config import -o config/plugsocket.toml      # in the Laravel application's folder")]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Makes a config file from the one of the PHP package, `config/websocket.php`.
    Import(import::ImportArgs),
}

/// Runs one of them.
///
/// # Errors
/// As the subcommand says.
pub async fn run(args: ConfigArgs) -> anyhow::Result<()> {
    match args.command {
        ConfigCommand::Import(args) => import::run(args).await,
    }
}
