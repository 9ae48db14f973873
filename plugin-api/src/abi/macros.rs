//! `export_plugin!`: the one line that makes a library a plugin. Here because it names the unsafe attribute.

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
            #[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
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
