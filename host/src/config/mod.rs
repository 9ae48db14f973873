//! The config file: its keys, its errors, and what of it applies live.

mod actions;
mod check;
mod flags;
mod limits;
mod live;
mod load;
mod server;
mod settings;
mod token;
mod versions;

pub use actions::{ActionSettings, Isolation, ListAction, Ordering, PluginAction, PluginSettings};
pub use check::PARTITIONS_MAX;
pub use flags::{Common, LogFormat};
pub use limits::{Limits, SlowConsumer};
pub use live::{Follower, LiveSettings, Source};
pub use load::{ConfigError, Override, check_text, environment, load};
pub use server::*;
pub use settings::*;
pub use token::TokenPlace;
pub use versions::{ProbationSettings, Reload};
