//! The config file: its keys, its errors, and what of it applies live.

mod check;
mod live;
mod load;
mod settings;

pub use live::{LiveSettings, Source};
pub use load::{ConfigError, Override, environment, load};
pub use settings::*;
