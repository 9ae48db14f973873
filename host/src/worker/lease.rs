//! Whether a job is still ours: before it starts, while it sends, and before its outcome counts.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use plugsocket_plugin::call::HostOperation;
use tokio::time;

use crate::context::ContextSink;
use crate::plugin::{Answer, HostSink};
use crate::queue::{Consumer, Receipt};

/// How often a lease that could not be renewed is looked at again.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a plugin's request waits for it.
const REQUEST_PATIENCE: Duration = Duration::from_secs(10);

/// The consumer's word on who owns a job.
#[derive(Clone)]
pub(super) struct Lease {
    consumer: Arc<dyn Consumer>,
}

impl Lease {
    pub(super) fn new(consumer: Arc<dyn Consumer>) -> Self {
        Self { consumer }
    }

    /// Whether the job is this worker's; waits while that is not known, as when the queue stalls. Cancel-safe.
    pub(super) async fn is_ours(&self, receipt: &Receipt) -> bool {
        while !self.consumer.may_start(receipt) {
            if !self.consumer.holds(receipt) {
                return false;
            }
            time::sleep(PAUSE).await;
        }
        true
    }
}

/// A call's way to the host, closed once its job has passed to another worker: what a worker that was frozen says late would come
/// between the messages of the one that took over.
pub(super) struct Leased {
    pub(super) inner: Arc<ContextSink>,
    pub(super) lease: Lease,
    pub(super) receipt: Receipt,
}

#[async_trait]
impl HostSink for Leased {
    async fn request(&self, operation: HostOperation, input: Bytes) -> Answer {
        match time::timeout(REQUEST_PATIENCE, self.lease.is_ours(&self.receipt)).await {
            Ok(true) => self.inner.request(operation, input).await,
            Ok(false) => Answer::retry("this message has passed to another worker"),
            Err(_) => Answer::retry("the queue can't be reached, so it is not known whether this message is still this worker's"),
        }
    }
}
