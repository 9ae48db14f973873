//! The scenarios: a file for each.

pub mod trip;
