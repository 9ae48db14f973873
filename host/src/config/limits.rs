//! `[limits]`: what clients may do, and how long things may take.

use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;

/// What happens to a client that does not read fast enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlowConsumer {
    /// Close with 4103.
    Close,
    /// Drop the oldest waiting frames.
    DropOldest,
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections at once.
    pub connections_max: usize,
    /// Connections at once from one address, or from one /64 network of IPv6.
    pub connections_per_ip_max: usize,
    /// Connections accepted per second; 0 = no limit. Those beyond get 503 before anything is spent on them.
    pub accepts_per_second: u32,
    /// How many may come at once before that rate holds.
    pub accepts_burst: u32,
    /// Longest message from a client.
    pub frame_in_max: ByteSize,
    /// Longest message to a client.
    pub frame_out_max: ByteSize,
    /// Messages per second and connection; 0 = no limit.
    pub messages_per_second: u32,
    /// How many messages may come at once before the rate holds.
    pub messages_burst: u32,
    /// Frames that a connection may send for each message it may send: fragments, pings and pongs, and the messages themselves. Beyond that
    /// rate, and that burst, it is closed (4008).
    pub frames_per_message: u32,
    /// Messages per second of one user, over all its connections to this node; 0 = no limit.
    pub user_messages_per_second: u32,
    /// How many may come at once before that rate holds.
    pub user_messages_burst: u32,
    /// Requests with an `id` that wait for their answer, per connection.
    pub unanswered_max: usize,
    /// Time to send `register`.
    #[serde(with = "humantime_serde")]
    pub registration_timeout: Duration,
    /// Pings to the client.
    #[serde(with = "humantime_serde")]
    pub ping_interval: Duration,
    /// Silence after which a connection is closed.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// Waiting frames per connection.
    pub outgoing_max: ByteSize,
    /// Waiting frames of all connections of this node together.
    pub outgoing_total_max: ByteSize,
    /// What happens to a connection when one of the two is full.
    pub slow_consumer: SlowConsumer,
    /// How long a client may take nothing while something waits for it.
    #[serde(with = "humantime_serde")]
    pub write_timeout: Duration,
    /// Time for the TLS handshake and the HTTP upgrade request together.
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
    /// Longest HTTP upgrade request.
    pub headers_max: ByteSize,
    /// Deepest nesting of arrays and objects in a frame.
    pub json_depth_max: usize,
    /// Longest action name, in bytes.
    pub action_bytes_max: usize,
    /// Longest group name, in bytes.
    pub group_bytes_max: usize,
    /// Longest user or connection id, in bytes.
    pub user_bytes_max: usize,
    /// How long a full queue makes a socket wait before its client gets `busy`.
    #[serde(with = "humantime_serde")]
    pub queue_wait: Duration,
    /// Origins that may connect, as `https://example.org`; empty = the Origin's host must be the Host; `["*"]` = all.
    pub origins: Vec<String>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 100_000,
            connections_per_ip_max: 1_000,
            accepts_per_second: 1_000,
            accepts_burst: 2_000,
            frame_in_max: ByteSize::kib(64),
            frame_out_max: ByteSize::mib(1),
            messages_per_second: 100,
            messages_burst: 200,
            frames_per_message: 16,
            user_messages_per_second: 0,
            user_messages_burst: 1_000,
            unanswered_max: 64,
            registration_timeout: Duration::from_secs(10),
            ping_interval: Duration::from_secs(25),
            idle_timeout: Duration::from_secs(60),
            outgoing_max: ByteSize::kib(256),
            outgoing_total_max: ByteSize::gib(1),
            slow_consumer: SlowConsumer::Close,
            write_timeout: Duration::from_secs(30),
            handshake_timeout: Duration::from_secs(5),
            headers_max: ByteSize::kib(8),
            json_depth_max: 64,
            action_bytes_max: 128,
            group_bytes_max: 200,
            user_bytes_max: 200,
            queue_wait: Duration::from_secs(2),
            origins: Vec::new(),
        }
    }
}
