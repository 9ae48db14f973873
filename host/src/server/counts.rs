//! Counters of what happens with every message: looked up once, not each time.

use metrics::Counter;

/// The handles. Made when metrics are collected already; what was counted before that is not.
pub(crate) struct Counts {
    /// Text frames from clients.
    pub frames_in: Counter,
    /// Frames of messages to clients, each session's own.
    pub frames_out: Counter,
    /// What came for this node's sessions.
    pub deliveries: Counter,
}

impl Counts {
    /// Those of this process.
    pub fn new() -> Self {
        Self {
            frames_in: metrics::counter!("plugsocket_frames_in_total"),
            frames_out: metrics::counter!("plugsocket_frames_out_total"),
            deliveries: metrics::counter!("plugsocket_deliveries_total"),
        }
    }
}
