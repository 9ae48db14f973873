//! outgoing
