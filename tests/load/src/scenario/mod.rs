//! The scenarios: a file for each.

pub mod broadcast;
pub mod curve;
pub mod disruption;
pub mod idle;
pub mod refs;
pub mod slow;
pub mod sweep;
pub mod trip;
