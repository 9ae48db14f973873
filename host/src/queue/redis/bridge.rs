//! The PHP package's lists: waits for items and has a script hand them to the nodes they are for.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use super::Redis;
use super::answers::{integer, text};
use super::connect::{BLOCK, BLOCKING_TIMEOUT};
use super::pauses::Backoff;
use super::scripts::{BRIDGE, evalsha};

/// Items per script run: each is decoded while Redis does nothing else.
const ITEMS_MAX: usize = 128;
const COMPLAIN_INTERVAL: Duration = Duration::from_secs(60);
/// How often a list is looked at when it can't be waited for, because Redis is full.
const FULL_INTERVAL: Duration = Duration::from_millis(200);

/// Serves one list until stopped.
pub(super) async fn run(redis: Arc<Redis>, list: String, stop: CancellationToken) {
    let mut connection = None;
    let mut backoff = Backoff::new();
    let mut complained: Option<Instant> = None;
    while !stop.is_cancelled() {
        // Neither the wait (it moves an item onto its own place) nor the script loses anything when it is dropped.
        let served = tokio::select! {
            () = stop.cancelled() => return,
            served = serve(&redis, &list, &mut connection) => served,
        };
        match served {
            Ok(()) => (backoff, complained) = (Backoff::new(), None),
            Err(reason) => {
                connection = None;
                if complained.is_none_or(|last| last.elapsed() >= COMPLAIN_INTERVAL) {
                    complained = Some(Instant::now());
                    tracing::error!(list, reason, "PHP list can't be served; tried again");
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = time::sleep(backoff.next()) => {}
                }
            }
        }
    }
}

async fn serve(redis: &Redis, list: &str, held: &mut Option<MultiplexedConnection>) -> Result<(), String> {
    let mut connection = match held.take() {
        Some(connection) => connection,
        None => redis.connector.connect(BLOCKING_TIMEOUT).await.map_err(|error| error.to_string())?,
    };
    let mut wait = redis::cmd("BLMOVE");
    wait.arg(list).arg(list).arg("LEFT").arg("LEFT").arg(BLOCK.as_secs());
    let answer = connection.send_packed_command(&wait).await.map_err(|error| error.to_string())?;
    *held = Some(connection);
    match answer {
        Value::Nil => return Ok(()),
        Value::ServerError(error) if error.code() == "OOM" => time::sleep(FULL_INTERVAL).await,
        Value::ServerError(error) if error.code() == "WRONGTYPE" => {
            return Err(format!("`{list}` is not a list; choose another one in [php] lists, or remove it: DEL '{list}'"));
        }
        Value::ServerError(error) => return Err(error.to_string()),
        _ => {}
    }
    while pass_on(redis, list).await? == ITEMS_MAX {}
    Ok(())
}

/// Runs the script once; answers how many items it took.
async fn pass_on(redis: &Redis, list: &str) -> Result<usize, String> {
    let keys = redis.connector.keys();
    let mut command = evalsha(&BRIDGE, 5);
    command.arg(list).arg(format!("{list}:notify")).arg(keys.php_dead()).arg(keys.all()).arg(keys.nodes());
    command.arg(keys.prefix()).arg(ITEMS_MAX).arg(redis.options.php_item_bytes_max).arg(redis.options.dead_max.max(1));
    let answer = redis.connector.call(&command).await.map_err(|error| error.to_string())?;
    let Value::Array(parts) = answer else { return Err(format!("bridge script answered {answer:?}")) };
    let number = |index: usize| parts.get(index).and_then(integer).and_then(|number| u64::try_from(number).ok()).unwrap_or(0);
    let (taken, set_aside) = (number(0), number(1));
    metrics::counter!("plugsocket_php_items_total").increment(taken);
    if set_aside > 0 {
        metrics::counter!("plugsocket_php_items_dead_total").increment(set_aside);
        let reason = parts.get(2).map(text).unwrap_or_default();
        tracing::error!(list, set_aside, reason, dead_list = keys.php_dead(), "PHP items set aside");
    }
    Ok(usize::try_from(taken).unwrap_or(usize::MAX))
}
