//! A node's deliveries: its own stream and the one for all, read together and kept in order.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, Value};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use super::Redis;
use super::answers::text;
use super::bridge;
use super::connect::{BLOCK, BLOCKING_TIMEOUT};
use super::lease::RENEWALS_PER_LEASE;
use super::pauses::{Backoff, Complaint};
use super::presence::{Renewal, Renewed};
use crate::queue::{NodeFeed, NodeLease, QueueError};
use crate::wire::delivery::Delivery;
use crate::wire::ids::NodeId;
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

type StreamId = (u64, u64);

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
    if parse_id(&renewal.last).is_some_and(|last| before.own > last) {
        cursors.own = StreamId::default();
    }
    if parse_id(&renewal.last_of_all).is_some_and(|last| before.all > last) {
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
        let mut connection: Option<MultiplexedConnection> = None;
        let mut backoff = Backoff::new();
        let mut complaint = Complaint::default();
        while !self.deliveries.is_closed() {
            let result = self.read_once(&mut connection).await;
            match result {
                Ok(deliveries) => {
                    backoff = Backoff::new();
                    if !deliveries.is_empty() && self.deliveries.send(deliveries).await.is_err() {
                        return;
                    }
                }
                Err(reason) => {
                    connection = None;
                    if complaint.is_due() {
                        tracing::warn!(node = %self.node, reason, "deliveries can't be read; tried again");
                    }
                    self.redis.connector.report_broken();
                    time::sleep(backoff.next()).await;
                }
            }
        }
    }

    async fn read_once(&self, held: &mut Option<MultiplexedConnection>) -> Result<Vec<Delivery>, String> {
        let mut connection = match held.take() {
            Some(connection) => connection,
            None => self.redis.connector.connect(BLOCKING_TIMEOUT).await.map_err(|error| error.to_string())?,
        };
        let keys = self.redis.connector.keys();
        let (own, all) = (keys.outgoing(&self.node), keys.all());
        let before = *self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pipeline = Pipeline::new();
        // What the previous read handed over is no longer needed.
        pipeline.cmd("XTRIM").arg(&own).arg("MINID").arg(format!("{}-{}", before.own.0, before.own.1.saturating_add(1)));
        pipeline.cmd("XREAD").arg("COUNT").arg(READ_COUNT).arg("BLOCK").arg(u64::try_from(BLOCK.as_millis()).unwrap_or(1000));
        pipeline.arg("STREAMS").arg(&own).arg(&all).arg(id_text(before.own)).arg(id_text(before.all));
        let answers = connection.send_packed_commands(&pipeline, 0, 2).await.map_err(|error| error.to_string())?;
        *held = Some(connection);
        let streams = match answers.into_iter().nth(1) {
            Some(Value::Array(streams)) => streams,
            Some(Value::ServerError(error)) => return Err(error.to_string()),
            _ => return Ok(Vec::new()),
        };
        let mut after = before;
        let mut entries = Vec::new();
        for stream in streams {
            let Value::Array(parts) = stream else { continue };
            let mut parts = parts.into_iter();
            let (Some(key), Some(Value::Array(found))) = (parts.next(), parts.next()) else { continue };
            let cursor = if text(&key) == own { &mut after.own } else { &mut after.all };
            for entry in found {
                if let Some(id) = entry_id(&entry) {
                    *cursor = (*cursor).max(id);
                    entries.push((id, entry));
                }
            }
        }
        // One producer's order across both streams: ids are Redis's clock.
        entries.sort_by_key(|(id, _)| *id);
        let mut cursors = self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
        if *cursors == before {
            *cursors = after;
        }
        drop(cursors);
        let mut deliveries = Vec::with_capacity(entries.len());
        for (_, entry) in entries {
            decode(entry, self.redis.options.php_item_bytes_max, &mut deliveries);
        }
        Ok(deliveries)
    }
}

/// The deliveries of one entry: `h` and `d` pairs, or a PHP item `p`.
fn decode(entry: Value, php_item_bytes_max: usize, deliveries: &mut Vec<Delivery>) {
    let Value::Array(parts) = entry else { return };
    let Some(Value::Array(flat)) = parts.into_iter().nth(1) else { return };
    let mut header: Option<Vec<u8>> = None;
    let mut fields = flat.into_iter();
    while let (Some(Value::BulkString(name)), Some(Value::BulkString(value))) = (fields.next(), fields.next()) {
        let delivery = match (&name[..], header.take()) {
            (b"h", _) => {
                header = Some(value);
                continue;
            }
            (b"d", Some(header)) => Delivery::from_fields(&header, Bytes::from(value)).map_err(|error| error.to_string()),
            (b"p", _) => php::parse(&value, php_item_bytes_max).map_err(|error| error.to_string()),
            _ => continue,
        };
        match delivery {
            Ok(delivery) => deliveries.push(delivery),
            Err(reason) => {
                metrics::counter!("plugsocket_deliveries_unreadable_total").increment(1);
                tracing::error!(reason, "delivery can't be read; left out");
            }
        }
    }
}

fn entry_id(entry: &Value) -> Option<StreamId> {
    match entry {
        Value::Array(parts) => parse_id(&text(parts.first()?)),
        _ => None,
    }
}

fn parse_id(id: &str) -> Option<StreamId> {
    let (time, sequence) = id.split_once('-')?;
    Some((time.parse().ok()?, sequence.parse().ok()?))
}

fn id_text(id: StreamId) -> String {
    format!("{}-{}", id.0, id.1)
}
