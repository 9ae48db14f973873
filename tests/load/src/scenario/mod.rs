//! The scenarios: a file for each.

pub mod broadcast;
pub mod idle;
pub mod refs;
pub mod trip;
