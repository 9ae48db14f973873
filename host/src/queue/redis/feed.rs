//! A node's deliveries: its own stream and the one for all, read together and kept in order.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use redis::Value;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use super::Redis;
use super::answers::{Fields, raw_entry, refusal, stream_id};
use super::bridge;
use super::commands::Packing;
use super::connect::{BLOCK, BLOCKING_TIMEOUT, Fence};
use super::lease::RENEWALS_PER_LEASE;
use super::link::Link;
use super::pauses::{Backoff, Complaint};
use super::presence::{Renewal, Renewed};
use super::resp::{Token, Walk};
use crate::queue::{NodeFeed, NodeLease, QueueError};
use crate::wire::delivery::Delivery;
use crate::wire::ids::{NodeId, StreamId};
use crate::wire::packed::{DELIVERIES_FIELD, Deliveries};
use crate::wire::php;

/// Entries per read and stream.
const READ_COUNT: usize = 256;
/// Reads that may wait for the server to take them.
const READS_WAITING_MAX: usize = 4;
/// An unneeded route stays this long: a join may be on its way to the node, announced before its connection is.
const ROUTE_IDLE: Duration = if cfg!(test) { Duration::from_secs(1) } else { Duration::from_secs(30) };
/// Longest pause before a renewal that failed is tried again.
const RENEWAL_RETRY_MAX: Duration = Duration::from_millis(500);
/// The share of a lease in which calls for the node's own connections begin: the rest is for them to end, and to be noted, before others may
/// make them too.
const SURE_SHARE: f64 = 0.5;
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The feed as the server holds it.
pub(super) struct RedisFeed {
    redis: Arc<Redis>,
    node: NodeId,
    deliveries: mpsc::Receiver<Vec<Delivery>>,
    lease: watch::Receiver<NodeLease>,
    stop: CancellationToken,
}

impl RedisFeed {
    /// Starts reading from the present end of both streams. The node's lease was last renewed by a call sent at `renewal_sent`.
    pub(super) async fn start(redis: Arc<Redis>, node: NodeId, renewal_sent: Instant) -> Result<Self, QueueError> {
        let stop = redis.connector.stop().child_token();
        let (sender, deliveries) = mpsc::channel(READS_WAITING_MAX);
        let mut newest = redis::cmd("XREVRANGE");
        newest.arg(redis.connector.keys().all()).arg("+").arg("-").arg("COUNT").arg(1);
        let all = match redis.connector.call(&newest).await? {
            Value::Array(entries) => entries.first().and_then(entry_id).unwrap_or_default(),
            _ => StreamId::default(),
        };
        let cursors = Arc::new(Mutex::new(Cursors { own: StreamId::default(), all }));
        let reader = FeedReader { redis: Arc::clone(&redis), node: node.clone(), cursors: Arc::clone(&cursors), deliveries: sender };
        let reader_stop = stop.clone();
        redis.tasks.spawn(async move {
            tokio::select! {
                () = reader_stop.cancelled() => {}
                () = reader.read() => {}
            }
        });
        let (held, lease) = watch::channel(NodeLease::Until(renewal_sent + redis.options.lease.mul_f64(SURE_SHARE)));
        let (keeper, keeper_node, keeper_stop) = (Arc::clone(&redis), node.clone(), stop.clone());
        redis.tasks.spawn(async move {
            let owed = Notify::new();
            tokio::select! {
                () = keeper_stop.cancelled() => {}
                () = keep(&keeper, &keeper_node, &cursors, &owed, &held) => {
                    keeper_stop.cancel();
                    keeper.drop_routes(&keeper_node).await;
                }
                () = repair(&keeper, &keeper_node, &owed) => {}
            }
        });
        for list in redis.options.php_lists.clone() {
            redis.tasks.spawn(bridge::run(Arc::clone(&redis), list, stop.clone()));
        }
        Ok(Self { redis, node, deliveries, lease, stop })
    }

    /// That of a node which is a cleaner's: it has ended.
    pub(super) fn lost(redis: Arc<Redis>, node: NodeId) -> Self {
        let stop = redis.connector.stop().child_token();
        Self { redis, node, deliveries: mpsc::channel(1).1, lease: watch::channel(NodeLease::Lost).1, stop }
    }
}

#[async_trait]
impl NodeFeed for RedisFeed {
    async fn receive(&mut self) -> Option<Vec<Delivery>> {
        self.deliveries.recv().await
    }

    fn lease(&self) -> watch::Receiver<NodeLease> {
        self.lease.clone()
    }

    async fn close(self: Box<Self>) {
        self.stop.cancel();
        match time::timeout(CLOSE_TIMEOUT, self.redis.withdraw_node(&self.node)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(node = %self.node, %error, "node could not be withdrawn; it ends with its lease"),
            Err(_) => tracing::warn!(node = %self.node, "node could not be withdrawn in time; it ends with its lease"),
        }
    }
}

impl Drop for RedisFeed {
    fn drop(&mut self) {
        self.stop.cancel();
        self.redis.nodes.close(&self.node);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cursors {
    own: StreamId,
    all: StreamId,
}

/// Renews the node's lease, and notes what Redis lost. Returns when the node is lost.
async fn keep(redis: &Arc<Redis>, node: &NodeId, cursors: &Mutex<Cursors>, owed: &Notify, held: &watch::Sender<NodeLease>) {
    let interval = redis.options.lease / RENEWALS_PER_LEASE;
    let mut complaint = Complaint::default();
    let mut pause = interval;
    loop {
        time::sleep(pause).await;
        pause = interval;
        // As they were before the renewal: the reader goes on meanwhile, and what it has read since is no sign of a loss.
        let before = *cursors.lock().unwrap_or_else(PoisonError::into_inner);
        let renewal = match redis.renew_node(node).await {
            Ok(Renewed::Yes(renewal)) => renewal,
            Ok(Renewed::Lost) => {
                held.send_replace(NodeLease::Lost);
                return;
            }
            Err(error) => {
                if complaint.is_due() {
                    tracing::warn!(%node, %error, "node's lease not renewed; tried again");
                }
                // Cleaners with a shorter lease wait for those who come back, but not for the whole interval of a long one.
                pause = interval.min(RENEWAL_RETRY_MAX);
                continue;
            }
        };
        held.send_replace(NodeLease::Until(renewal.sent + redis.options.lease.mul_f64(SURE_SHARE)));
        rewind(cursors, before, &renewal);
        if renewal.cut > 0 {
            metrics::counter!("plugsocket_deliveries_cut_total").increment(renewal.cut);
            tracing::error!(%node, entries = renewal.cut, "this node does not keep up; its oldest unread deliveries were dropped");
        }
        if !renewal.was_there {
            owed.notify_one();
            metrics::counter!("plugsocket_node_streams_lost_total").increment(1);
            tracing::error!(%node, "Redis lost this node's stream (flushed, restarted, or this node was frozen); deliveries may be lost");
        }
    }
}

/// Announces again what Redis lost, and drops routes that are no longer needed: beside the renewals, which must not wait for it.
async fn repair(redis: &Arc<Redis>, node: &NodeId, owed: &Notify) {
    let interval = redis.options.lease / RENEWALS_PER_LEASE;
    let mut is_owed = false;
    loop {
        tokio::select! {
            () = owed.notified() => is_owed = true,
            () = time::sleep(interval) => {}
        }
        if is_owed {
            match redis.announce_again(node).await {
                Ok(connections) => {
                    is_owed = false;
                    tracing::warn!(%node, connections, "node's connections and routes announced again");
                }
                Err(error) => tracing::warn!(%node, %error, "connections could not be announced again yet"),
            }
        }
        if let Err(error) = redis.drop_idle_routes(node, ROUTE_IDLE).await {
            tracing::debug!(%node, %error, "idle routes not dropped");
        }
    }
}

/// After a flush or a failover a stream may end before what was read of it: its cursor goes back.
fn rewind(cursors: &Mutex<Cursors>, before: Cursors, renewal: &Renewal) {
    let mut cursors = cursors.lock().unwrap_or_else(PoisonError::into_inner);
    if StreamId::parse(renewal.last.as_bytes()).is_some_and(|last| before.own > last) {
        cursors.own = StreamId::default();
    }
    if StreamId::parse(renewal.last_of_all.as_bytes()).is_some_and(|last| before.all > last) {
        cursors.all = StreamId::default();
    }
}

struct FeedReader {
    redis: Arc<Redis>,
    node: NodeId,
    cursors: Arc<Mutex<Cursors>>,
    deliveries: mpsc::Sender<Vec<Delivery>>,
}

impl FeedReader {
    /// Reads until nobody receives any more. XREAD changes nothing, so this may be dropped at any time.
    async fn read(self) {
        let mut link: Option<Link> = None;
        let mut fence = None;
        let mut backoff = Backoff::new();
        let mut complaint = Complaint::default();
        while !self.deliveries.is_closed() {
            let result = self.read_once(&mut link, &mut fence).await;
            match result {
                Ok(deliveries) => {
                    backoff = Backoff::new();
                    if !deliveries.is_empty() && self.deliveries.send(deliveries).await.is_err() {
                        return;
                    }
                }
                Err(reason) => {
                    link = None;
                    if complaint.is_due() {
                        tracing::warn!(node = %self.node, reason, "deliveries can't be read; tried again");
                    }
                    self.redis.connector.report_broken();
                    time::sleep(backoff.next()).await;
                }
            }
        }
    }

    async fn read_once(&self, held: &mut Option<Link>, fence: &mut Option<Fence>) -> Result<Vec<Delivery>, String> {
        let mut link = match held.take() {
            Some(link) => link,
            None => self.redis.connector.link(fence).await.map_err(|error| error.to_string())?,
        };
        let keys = self.redis.connector.keys();
        let (own, all) = (keys.outgoing(&self.node), keys.all());
        let before = *self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
        let mut commands = Packing::default();
        if before.own != StreamId::default() {
            // What the previous read handed over is no longer needed.
            let oldest = StreamId { sequence: before.own.sequence.saturating_add(1), ..before.own }.to_string();
            commands.add_arguments(4, [b"XTRIM", own.as_bytes(), b"MINID", oldest.as_bytes()]);
        }
        let is_trimmed = !commands.is_empty();
        let (count, block) = (READ_COUNT.to_string(), BLOCK.as_millis().to_string());
        let (from_own, from_all) = (before.own.to_string(), before.all.to_string());
        let read = ["XREAD", "COUNT", &count, "BLOCK", &block, "STREAMS", &own, &all, &from_own, &from_all];
        commands.add_arguments(read.len(), read.map(str::as_bytes));
        let mut answer = link.call(commands.finish().bytes(), BLOCKING_TIMEOUT).await.map_err(|error| error.to_string())?;
        if is_trimmed {
            answer = link.call(Bytes::new(), BLOCKING_TIMEOUT).await.map_err(|error| error.to_string())?;
        }
        *held = Some(link);
        let (after, entries) = entries(&answer, &own, before)?;
        let mut cursors = self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
        if *cursors == before {
            *cursors = after;
        }
        drop(cursors);
        let mut deliveries = Vec::with_capacity(entries.len());
        for (_, fields) in entries {
            decode(&answer, &fields, self.redis.options.php_item_bytes_max, &mut deliveries);
        }
        Ok(deliveries)
    }
}

/// Entries of an answer to XREAD with their ids, in the order they were made in, and the cursors behind them.
type Entries<'answer> = (Cursors, Vec<(StreamId, Fields<'answer>)>);

fn entries<'answer>(answer: &'answer [u8], own: &str, before: Cursors) -> Result<Entries<'answer>, String> {
    let mut after = before;
    let mut entries = Vec::new();
    let mut walk = Walk::new(answer);
    let streams = match walk.next() {
        Some(Token::Array(streams)) => streams,
        Some(Token::Error(_)) => return Err(refusal(answer).to_string()),
        _ => 0,
    };
    for _ in 0..streams {
        walk.array();
        let is_own = walk.bulk() == Some(own.as_bytes());
        let cursor = if is_own { &mut after.own } else { &mut after.all };
        for _ in 0..walk.array().unwrap_or(0) {
            if let Some((id, fields)) = raw_entry(&mut walk) {
                *cursor = (*cursor).max(id);
                entries.push((id, fields));
            }
        }
    }
    // One producer's order across both streams: ids are Redis's clock.
    entries.sort_by_key(|(id, _)| *id);
    Ok((after, entries))
}

/// The deliveries of one entry: packed ones, pairs of `h` and `d`, or a PHP item `p`. What they keep is a part of the answer.
fn decode(answer: &Bytes, fields: &[(&[u8], &[u8])], php_item_bytes_max: usize, deliveries: &mut Vec<Delivery>) {
    let mut header: Option<&[u8]> = None;
    let mut take = |delivery: Result<Delivery, String>| match delivery {
        Ok(delivery) => deliveries.push(delivery),
        Err(reason) => {
            metrics::counter!("plugsocket_deliveries_unreadable_total").increment(1);
            tracing::error!(reason, "delivery can't be read; left out");
        }
    };
    for (name, value) in fields {
        match (*name, header.take()) {
            (b"h", _) => header = Some(value),
            (b"d", Some(header)) => take(Delivery::from_fields(header, answer.slice_ref(value)).map_err(|error| error.to_string())),
            (b"p", _) => take(php::parse(value, php_item_bytes_max).map_err(|error| error.to_string())),
            (name, _) if name == DELIVERIES_FIELD.as_bytes() => match Deliveries::of(&answer.slice_ref(value)) {
                Ok(packed) => packed.for_each(|delivery| take(delivery.map_err(|error| error.to_string()))),
                Err(error) => take(Err(error.to_string())),
            },
            _ => {}
        }
    }
}

fn entry_id(entry: &Value) -> Option<StreamId> {
    match entry {
        Value::Array(parts) => stream_id(parts.first()?),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::delivery::{Address, Body};
    use crate::wire::json::Json;

    fn text(text: &str) -> String {
        format!("${}\r\n{text}\r\n", text.len())
    }

    fn array(parts: &[String]) -> String {
        format!("*{}\r\n{}", parts.len(), parts.concat())
    }

    fn pair(action: &str) -> [String; 4] {
        let body = Body::Message { action: action.to_owned(), data: Json::NULL };
        let (header, data) = Delivery { to: vec![Address::All], except: None, body, origin: None }.to_fields();
        [&b"h"[..], &header, b"d", &data].map(|part| text(std::str::from_utf8(part).unwrap()))
    }

    fn entry(id: &str, fields: &[String]) -> String {
        array(&[text(id), array(fields)])
    }

    #[test]
    fn entries_of_both_streams_come_in_the_order_they_were_made_in() {
        let bad = ["h", "?", "d", "1"].map(text);
        let own = [entry("5-1", &[pair("second"), bad, pair("third")].concat())];
        let all = [entry("4-9", &pair("first")), entry("4-10", &[]), entry("6-0", &pair("fourth"))];
        let answer = array(&[array(&[text("all"), array(&all)]), array(&[text("own"), array(&own)])]);
        let answer = Bytes::from(answer);
        let (before, mut deliveries) = (Cursors { own: StreamId::default(), all: StreamId { ms: 3, sequence: 0 } }, Vec::new());
        let (after, entries) = entries(&answer, "own", before).unwrap();
        entries.iter().for_each(|(_, fields)| decode(&answer, fields, 100, &mut deliveries));
        let actions: Vec<_> =
            deliveries.iter().map(|delivery| if let Body::Message { action, .. } = &delivery.body { action } else { "" }).collect();
        assert_eq!(actions, ["first", "second", "third", "fourth"], "one that can't be read leaves the others");
        assert_eq!(after, Cursors { own: StreamId { ms: 5, sequence: 1 }, all: StreamId { ms: 6, sequence: 0 } });
    }

    #[test]
    fn without_entries_the_cursors_stay_and_an_error_is_one() {
        let before = Cursors { own: StreamId { ms: 7, sequence: 1 }, all: StreamId::default() };
        let (after, found) = entries(b"*-1\r\n", "own", before).unwrap();
        assert_eq!((after, found.len()), (before, 0));
        assert!(entries(b"-WRONGTYPE no stream\r\n", "own", before).is_err());
    }
}
