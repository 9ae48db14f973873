//! The config file: its keys, its errors, and what of it applies live.

mod settings;

pub use settings::*;
