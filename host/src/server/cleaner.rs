//! Cleans up after nodes that died: every connection they had registered gets its `disconnect`, called by this server's handler.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::handler_calls::{Orphan, Told};
use super::node::{Current, Node};
use crate::queue::{Adoption, Estate, Health, QueueError};
use crate::wire::ids::SessionId;

/// Pause while there is no handler or no queue, and after a failure.
const PAUSE: Duration = Duration::from_millis(500);

/// Looks for dead nodes, cleans up after one at a time, until `stop` fires.
///
/// Dropping the future leaves the rest to another cleaner, once this one's claim has ended.
pub(crate) async fn run(current: Current, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let node = current.load_full();
        let can_call = node.plugins.handler().is_some() && *node.queue.health.borrow() == Health::Up;
        let pause = if can_call { look(&node, &stop).await } else { PAUSE };
        let _ = stop.run_until_cancelled(sleep(pause)).await;
    }
}

async fn look(node: &Arc<Node>, stop: &CancellationToken) -> Duration {
    match node.queue.presence.adopt(&node.id).await {
        Ok(Adoption::Nothing { again }) => again,
        Ok(Adoption::Node(estate)) => {
            if clean(node, &estate, stop).await {
                Duration::ZERO
            } else {
                PAUSE
            }
        }
        Err(error) => {
            tracing::debug!(%error, "dead nodes can't be looked for");
            PAUSE
        }
    }
}

/// Calls that were asked for and whose end was not heard yet.
type Waiting = VecDeque<(SessionId, oneshot::Receiver<Told>)>;

/// What was done for one dead node.
#[derive(Debug, Default)]
struct Tally {
    told: u64,
    given_up: u64,
}

impl Tally {
    fn count(&mut self, given_up: bool) {
        let (counter, outcome) = if given_up { (&mut self.given_up, "given_up") } else { (&mut self.told, "told") };
        *counter += 1;
        metrics::counter!("plugsocket_orphans_total", "outcome" => outcome).increment(1);
    }
}

/// Whether the node is done with.
async fn clean(node: &Arc<Node>, estate: &Arc<dyn Estate>, stop: &CancellationToken) -> bool {
    let (began, mut tally, mut waiting) = (Instant::now(), Tally::default(), VecDeque::new());
    tracing::warn!(dead = %estate.node(), "a node's lease has ended; `disconnect` is called for the connections it left behind");
    let ended = tokio::select! {
        ended = bury_all(node, estate, (&mut tally, &mut waiting), stop) => ended,
        () = estate.keep() => Ok(false),
    };
    // Calls under way are not given up: this server may adopt the node again, and would make them a second time. Others find it not ours.
    if ended.is_err() {
        tokio::select! {
            () = hear(&mut tally, &mut waiting) => {}
            () = estate.keep() => {}
        }
    }
    hear(&mut tally, &mut waiting).await;
    let Tally { told, given_up } = tally;
    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let dead = estate.node();
    match &ended {
        Ok(true) => tracing::info!(%dead, told, given_up, took_ms, "a dead node has been cleaned up after"),
        Ok(false) => tracing::warn!(%dead, told, given_up, took_ms, "cleaning up after a dead node is left to another server, or to later"),
        Err(error) => tracing::warn!(%dead, told, given_up, took_ms, %error, "cleaning up after a dead node was interrupted"),
    }
    ended.unwrap_or(false)
}

/// Waits for the end of all calls that were asked for.
async fn hear(tally: &mut Tally, waiting: &mut Waiting) {
    while let Some((_, told)) = waiting.front_mut() {
        if let Ok(Told::Buried { given_up } | Told::Unburied { given_up }) = told.await {
            tally.count(given_up);
        }
        waiting.pop_front();
    }
}

async fn bury_all(
    node: &Arc<Node>,
    estate: &Arc<dyn Estate>,
    (tally, waiting): (&mut Tally, &mut Waiting),
    stop: &CancellationToken,
) -> Result<bool, QueueError> {
    // Told, but the queue did not confirm that they are buried: they may come again, and must not be told again.
    let mut unburied = HashSet::new();
    loop {
        while let Some(orphans) = estate.next().await? {
            for entry in orphans {
                if unburied.contains(&entry.session) {
                    estate.bury(&entry).await?;
                    continue;
                }
                let (done, told) = oneshot::channel();
                waiting.push_back((entry.session.clone(), told));
                node.calls.push_orphan(node, Orphan { entry, estate: Arc::clone(estate), done });
            }
            let mut is_served = true;
            while let Some((session, told)) = waiting.front_mut() {
                match told.await {
                    Ok(Told::Buried { given_up }) => tally.count(given_up),
                    Ok(Told::Unburied { given_up }) => {
                        tally.count(given_up);
                        unburied.insert(session.clone());
                    }
                    Ok(Told::NoHandler) | Err(_) => is_served = false,
                }
                waiting.pop_front();
            }
            if !is_served || !estate.is_ours() || stop.is_cancelled() {
                estate.release().await;
                return Ok(false);
            }
        }
        if estate.finish().await? {
            return Ok(true);
        }
    }
}
