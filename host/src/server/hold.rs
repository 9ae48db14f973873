//! Whether this server's node is surely its own, as the queue's feed of the node says.

use std::future::pending;

use tokio::sync::watch;

use crate::queue::NodeLease;

/// The node's lease, once its feed is open.
pub(crate) struct Hold {
    lease: watch::Sender<Option<watch::Receiver<NodeLease>>>,
}

impl Default for Hold {
    fn default() -> Self {
        Self { lease: watch::channel(None).0 }
    }
}

impl Hold {
    /// The feed is open.
    pub fn open(&self, lease: watch::Receiver<NodeLease>) {
        self.lease.send_replace(Some(lease));
    }

    /// Resolves when the feed is open.
    pub async fn opened(&self) {
        // The sender is ours: this does not fail.
        let _ = self.lease.subscribe().wait_for(Option::is_some).await;
    }

    /// Whether the node is surely ours at this moment.
    pub fn is_held(&self) -> bool {
        self.last().is_some_and(NodeLease::is_held)
    }

    /// Whether a cleaner has the node.
    pub fn is_lost(&self) -> bool {
        self.last() == Some(NodeLease::Lost)
    }

    fn last(&self) -> Option<NodeLease> {
        self.lease.borrow().as_ref().map(|lease| *lease.borrow())
    }

    /// Resolves when it is known whether the node is ours: false when it is lost. Never, when the feed is closed before.
    pub async fn is_ours(&self) -> bool {
        self.opened().await;
        let lease = self.lease.borrow().clone();
        let Some(mut lease) = lease else { return pending().await };
        loop {
            let state = *lease.borrow_and_update();
            if state.is_held() {
                return true;
            }
            if state == NodeLease::Lost {
                return false;
            }
            if lease.changed().await.is_err() {
                return pending().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, timeout};

    use super::*;

    #[tokio::test]
    async fn an_unsure_lease_is_waited_for() {
        let hold = Hold::default();
        let unknown = timeout(Duration::from_millis(20), hold.is_ours()).await;
        assert!(unknown.is_err(), "no feed yet");
        let (sender, lease) = watch::channel(NodeLease::Until(Instant::now()));
        hold.open(lease);
        assert!(timeout(Duration::from_millis(20), hold.is_ours()).await.is_err(), "it has ended, and may be renewed or lost");
        sender.send_replace(NodeLease::Until(Instant::now() + Duration::from_secs(60)));
        assert!(hold.is_ours().await);
        sender.send_replace(NodeLease::Lost);
        assert!(!hold.is_ours().await && hold.is_lost());
    }
}
