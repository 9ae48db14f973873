//! `plugsocket send`: a message to connected clients, through Redis.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::reach;
use crate::config::Common;
use crate::queue::{self, Health, QueueOptions};
use crate::wire::delivery::{Address, Body, Delivery};
use crate::wire::json::Json;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Flags of `send`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  plugsocket send --all notice '{\"text\": \"back in five minutes\"}'
  plugsocket send --to-user 7 chat_text '{\"text\": \"hi\"}'
  plugsocket send --to-group room:lobby --except alice chat_text '{\"text\": \"hi\"}'

A message for nobody who is connected is accepted and lost, as for any sender.")]
pub struct SendArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    to: To,
    /// A connection to leave out.
    #[arg(long, value_name = "CONNECTION")]
    except: Option<String>,
    /// The frame's action.
    action: String,
    /// The frame's data, as JSON.
    #[arg(default_value = "null")]
    data: String,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct To {
    /// To this connection; may be repeated.
    #[arg(long, value_name = "CONNECTION")]
    to_connection: Vec<String>,
    /// To every connection of this user; may be repeated.
    #[arg(long, value_name = "USER")]
    to_user: Vec<String>,
    /// To every connection in this group; may be repeated.
    #[arg(long, value_name = "GROUP")]
    to_group: Vec<String>,
    /// To every registered connection.
    #[arg(long)]
    all: bool,
}

/// Sends and waits until the message is stored.
///
/// # Errors
/// A bad config or message; Redis unreachable.
pub async fn send(args: SendArgs) -> anyhow::Result<()> {
    let settings = reach::settings(&args.common, |settings| {
        let ops = settings.ops.listen.map_or_else(|| "ops.listen".to_owned(), |ops| ops.to_string());
        format!("send with POST http://{ops}/v1/send instead")
    })?;
    settings.server.protocol.check_action(&args.action, settings.limits.action_bytes_max).map_err(anyhow::Error::msg)?;
    let data = Json::parse(Bytes::from(args.data)).context("DATA is not JSON; quote it for the shell: '{\"text\": \"hi\"}'")?;
    let mut to: Vec<_> = args.to.to_connection.into_iter().map(Address::Connection).collect();
    to.extend(args.to.to_user.into_iter().map(Address::User));
    to.extend(args.to.to_group.into_iter().map(Address::Group));
    to.extend(args.to.all.then_some(Address::All));

    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let queue = queue::redis::open(&settings.queue, QueueOptions::from_settings(&settings), stop.clone(), &tasks)?;
    let mut health = queue.health.clone();
    let up = tokio::time::timeout(CONNECT_TIMEOUT, health.wait_for(|health| *health == Health::Up)).await.is_ok_and(|up| up.is_ok());
    if !up {
        let Health::Down(reason) = queue.health.borrow().clone() else { bail!("the queue did not come up") };
        bail!("{reason}; nothing was sent");
    }
    queue.outbox.send(Delivery { to, except: args.except, body: Body::Message { action: args.action, data }, origin: None }).await?;
    queue.outbox.flush().await?;
    stop.cancel();
    tasks.close();
    // What is stored is stored: a connection that is slow to close need not hold up the shell.
    let _ = tokio::time::timeout(Duration::from_secs(1), tasks.wait()).await;
    Ok(())
}
