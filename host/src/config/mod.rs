//! The config file: its keys, its errors, and what of it applies live.

mod settings;

pub use settings::*;

/// The settings in force; `load` them anew for every use, so that live edits take effect.
pub type LiveSettings = std::sync::Arc<arc_swap::ArcSwap<Settings>>;
