//! Whether a job is still ours: before it starts, while it sends, and before its outcome counts.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use plugsocket_plugin::call::HostOperation;

use crate::context::ContextSink;
use crate::plugin::{Answer, HostSink};
use crate::queue::{Consumer, Receipt};

/// The consumer's word on who owns a job.
#[derive(Clone)]
pub(super) struct Lease {
    consumer: Arc<dyn Consumer>,
}

impl Lease {
    pub(super) fn new(consumer: Arc<dyn Consumer>) -> Self {
        Self { consumer }
    }

    /// Whether the job is this worker's. After a no it is delivered again, here or elsewhere: drop it.
    pub(super) fn is_ours(&self, receipt: &Receipt) -> bool {
        self.consumer.may_start(receipt)
    }

    /// Whether the job is still in hand; it does not start yet.
    pub(super) fn is_in_hand(&self, receipt: &Receipt) -> bool {
        self.consumer.is_in_hand(receipt)
    }
}

/// A call's way to the host, closed once its job has passed to another worker: what a worker that was frozen says late would come
/// between the messages of the one that took over.
pub(super) struct Leased {
    pub(super) inner: ContextSink,
    pub(super) lease: Lease,
    pub(super) receipt: Receipt,
}

#[async_trait]
impl HostSink for Leased {
    async fn request(&self, operation: HostOperation, input: Bytes) -> Answer {
        if !self.lease.is_ours(&self.receipt) {
            return Answer::retry("this message may have passed to another worker: the lease was not renewed in time");
        }
        self.inner.request(operation, input).await
    }
}
