//! The frozen door between host and plugin: four functions over bytes. It never changes.
//!
//! `abi_stable` refuses a library whose root module has fewer fields than the host expects, so a module that grows would turn away
//! every plugin that is already compiled. What evolves, evolves inside the bytes (`plugsocket_plugin::call`) and in the manifest's
//! features.
//!
//! A crate of its own because abi_stable also compares the version of the crate that defines a type: here it stays 1.x, while
//! `plugsocket-plugin` takes whatever version it needs and loads into the same hosts.
#![allow(non_camel_case_types)] // abi_stable names the reference type by its own pattern.
#![allow(unsafe_code)] // Raw pointers cross the border: what passes them on is `unsafe`, and says what it needs.

#[cfg(test)]
mod layout;

use std::ffi::c_void;

use abi_stable::StableAbi;
use abi_stable::library::RootModule;
use abi_stable::package_version_strings;
use abi_stable::sabi_types::VersionStrings;
use abi_stable::std_types::RSlice;

/// Where the callee writes the bytes it answers with; owned by the caller, valid only during the call it is passed to.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct Sink {
    /// Opaque to the callee; given back to `write`.
    pub target: *mut c_void,
    /// Appends bytes to `target`.
    pub write: unsafe extern "C" fn(*mut c_void, RSlice<'_, u8>),
}

impl Sink {
    /// Appends bytes to whatever the caller collects.
    ///
    /// # Safety
    /// Only during the call the sink was passed to, and on one thread at a time.
    pub unsafe fn write(&self, bytes: &[u8]) {
        // SAFETY: the target goes back to the function it came with, while it lives, as promised.
        unsafe { (self.write)(self.target, RSlice::from_slice(bytes)) }
    }
}

/// The host's side of every call a plugin makes: one function, an operation number and bytes.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct HostServices {
    /// Opaque to the plugin; given back to `invoke`. Valid until the instance's `shutdown` has returned.
    pub host: *const c_void,
    /// `invoke(host, call, operation, input, answer) -> status`: numbers and bytes are `plugsocket_plugin::call`'s.
    /// `call` is the token of the call that asks, 0 outside of any call. May block the calling thread; never called from the host's async threads.
    pub invoke: unsafe extern "C" fn(*const c_void, u64, u32, RSlice<'_, u8>, Sink) -> u8,
}

// SAFETY: the host hands out a pointer to a `Sync` object that outlives every instance, and `invoke` may be called from any thread.
unsafe impl Send for HostServices {}
// SAFETY: as for `Send`.
unsafe impl Sync for HostServices {}

/// The root module every plugin exports through `export_plugin!`. FROZEN: see the module's own words.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginModule_Ref)))]
#[sabi(missing_field(panic))]
pub struct PluginModule {
    /// Writes the manifest (`plugsocket_plugin::call::Manifest`, JSON).
    pub describe: unsafe extern "C" fn(Sink) -> u8,
    /// `create(request, host, answer)`: builds one instance from a `plugsocket_plugin::call::CreateRequest`; null and an error text in `answer` when it can't.
    pub create: unsafe extern "C" fn(RSlice<'_, u8>, HostServices, Sink) -> *mut c_void,
    /// `call(instance, call, operation, input, answer) -> status`; callable from many threads at once. `call` is a token for [`HostServices::invoke`].
    pub call: unsafe extern "C" fn(*const c_void, u64, u32, RSlice<'_, u8>, Sink) -> u8,
    /// Runs the plugin's shutdown and frees the instance; the pointer is dead afterwards. Called once, when no call is running.
    #[sabi(last_prefix_field)]
    pub shutdown: unsafe extern "C" fn(*mut c_void),
}

impl RootModule for PluginModule_Ref {
    abi_stable::declare_root_module_statics! {PluginModule_Ref}
    const BASE_NAME: &'static str = "plugsocket_plugin";
    const NAME: &'static str = "plugsocket_plugin";
    const VERSION_STRINGS: VersionStrings = package_version_strings!();
}
