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

/// Exports a crate as a plugin: once per crate, in a `cdylib`.
///
/// `handler` and `actions` are both optional. Each constructor is a `fn(&Config) -> Result<Self, E>` with any `E: Display`; it gets the
/// table `[plugins.<name>.config]`, and its error refuses the load with that text. One that can't fail says
/// `Result<Self, std::convert::Infallible>`. The server builds the handler, each worker its own set of actions: they share nothing but
/// [`Context::store`](crate::Context::store), in `plugsocket dev` too.
///
/// Action names: 1 to 128 bytes without control characters, each once, none of the protocol's own (`register`, `ping`, …); the load is
/// refused otherwise.
///
/// ```
/// use std::convert::Infallible;
///
/// use plugsocket_plugin::prelude::*;
///
/// struct Wave;
///
/// impl Wave {
///     fn new(_config: &Config) -> Result<Self, Infallible> {
///         Ok(Self)
///     }
/// }
///
/// impl Action for Wave {
///     fn handle(&self, message: &Message, context: &Context) -> Outcome {
///         context.all().except(message.connection_id()).send("wave", &message.connection_id())?;
///         Ok(Reply::none())
///     }
/// }
///
/// export_plugin! {
///     name: "wave",
///     actions: { "wave" => Wave::new },
/// }
/// # fn main() {}
/// ```
///
/// The library's entry symbol has the same name in every plugin. Programs that link plugin crates as ordinary dependencies (a test
/// binary with the `rlib`) may therefore link one of them, not two; they reach it through `plugin_crate::PlugsocketExport`.
#[macro_export]
macro_rules! export_plugin {
    (
        name: $name:expr
        $(, handler: $handler:expr)?
        $(, actions: { $($action:expr => $constructor:expr),* $(,)? })?
        $(,)?
    ) => {
        #[doc(hidden)]
        pub struct PlugsocketExport;

        impl $crate::__export::Exported for PlugsocketExport {
            const DEFINITION: $crate::__export::Definition = $crate::__export::Definition {
                name: $name,
                version: ::core::env!("CARGO_PKG_VERSION"),
                panic: if ::core::cfg!(panic = "abort") { "abort" } else { "unwind" },
                handler: $crate::__handler!($($handler)?),
                actions: &[$($((
                    $action,
                    (|config| $crate::__export::action($constructor(config))) as $crate::__export::ActionConstructor,
                )),*)?],
            };
        }

        const _: () = {
            // The name abi_stable looks up; a test of plugsocket-plugin compares it with abi_stable's own constant.
            #[unsafe(export_name = "_1as_0lib_1header_0root_20module_20loader")]
            pub static PLUGSOCKET_ROOT_MODULE: $crate::__export::LibHeader = $crate::__export::header::<PlugsocketExport>();
        };
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __handler {
    () => {
        ::core::option::Option::None
    };
    ($handler:expr) => {
        ::core::option::Option::Some(|config| $crate::__export::handler($handler(config)))
    };
}
