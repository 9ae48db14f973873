//! The scenarios: a file for each.

pub mod broadcast;
pub mod disruption;
pub mod idle;
pub mod refs;
pub mod slow;
pub mod trip;
