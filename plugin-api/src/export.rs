//! `export_plugin!`: the one line that turns a crate into a plugin, and what it hands over.

use std::fmt;

use crate::action::Action;
use crate::call::Manifest;
use crate::config::Config;
use crate::handler::Handler;

/// Builds the handler from the config table; the error refuses the load.
pub type HandlerConstructor = fn(&Config) -> Result<Box<dyn Handler>, String>;

/// Builds an action from the config table; the error refuses the load.
pub type ActionConstructor = fn(&Config) -> Result<Box<dyn Action>, String>;

/// What `export_plugin!` was told.
pub struct Definition {
    /// The plugin's name.
    pub name: &'static str,
    /// The plugin crate's version.
    pub version: &'static str,
    /// `unwind` or `abort`, as the plugin crate was compiled.
    pub panic: &'static str,
    /// The handler's constructor.
    pub handler: Option<HandlerConstructor>,
    /// The actions' names and constructors.
    pub actions: &'static [(&'static str, ActionConstructor)],
}

impl Definition {
    pub(crate) fn manifest(&self) -> Result<Vec<u8>, String> {
        let manifest = Manifest {
            name: self.name.to_owned(),
            version: self.version.to_owned(),
            sdk: env!("CARGO_PKG_VERSION").to_owned(),
            actions: self.actions.iter().map(|(name, _)| (*name).to_owned()).collect(),
            handler: self.handler.is_some(),
            features: Vec::new(),
            panic: self.panic.to_owned(),
        };
        serde_json::to_vec(&manifest).map_err(|error| error.to_string())
    }
}

/// Puts a constructor's result into the shape of [`HandlerConstructor`].
///
/// # Errors
/// The constructor's own.
pub fn handler<H: Handler + 'static, E: fmt::Display>(built: Result<H, E>) -> Result<Box<dyn Handler>, String> {
    built.map(|handler| Box::new(handler) as Box<dyn Handler>).map_err(|error| error.to_string())
}

/// Puts a constructor's result into the shape of [`ActionConstructor`].
///
/// # Errors
/// The constructor's own.
pub fn action<A: Action + 'static, E: fmt::Display>(built: Result<A, E>) -> Result<Box<dyn Action>, String> {
    built.map(|action| Box::new(action) as Box<dyn Action>).map_err(|error| error.to_string())
}
