//! One loaded library and its instances: the raw border, made safe.
#![allow(unsafe_code)] // Loading foreign code and passing pointers over the border; each block states why it may.

use std::any::Any;
use std::error::Error as _;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use abi_stable::library::{LibraryError, RawLibrary, lib_header_from_raw_library};
use abi_stable::std_types::RSlice;
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use plugsocket_plugin::abi::{HostServices, PluginModule_Ref, Sink};
use plugsocket_plugin::call::{CreateRequest, Manifest, Operation, Status};

use super::Answer;
use super::check::{TEXT_BYTES_MAX, end_of};
use super::error::PluginError;

/// Longest answer either side may write, in bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

static LOADED: AtomicU64 = AtomicU64::new(0);

/// Libraries loaded since this process started; none is ever unloaded.
pub(super) fn loaded_count() -> u64 {
    LOADED.load(Ordering::Relaxed)
}

/// The host's side of an instance. Called from the plugin's threads; may block them.
pub(super) trait Host: Send + Sync + 'static {
    /// Answers one request of the call with this token; 0 = outside of any call.
    fn invoke(&self, token: u64, operation: u32, input: Bytes) -> Answer;
}

/// A loaded library. It stays in memory until the process ends.
#[derive(Clone, Copy)]
pub(super) struct Library {
    module: PluginModule_Ref,
}

impl Library {
    /// Loads a private copy and checks its interface. Runs the library's static constructors: check it in a throw-away process first.
    ///
    /// `path` must be one that this process has not loaded before and that nobody writes to any more.
    ///
    /// # Errors
    /// [`PluginError::Load`]
    pub(super) fn load(path: &Path) -> Result<Self, PluginError> {
        let raw = RawLibrary::load_at(path).map_err(|error| PluginError::Load(load_text(&error)))?;
        LOADED.fetch_add(1, Ordering::Relaxed);
        // Never dlclose: abi_stable's checker keeps pointers into the library, and thread-locals of Rust either pin it or leave a
        // destructor in memory that is unmapped when the thread ends. Both crash.
        let raw: &'static RawLibrary = Box::leak(Box::new(raw));
        // SAFETY: the header lives as long as the library, and that is leaked.
        let header = unsafe { lib_header_from_raw_library(raw) }.map_err(|error| PluginError::Load(load_text(&error)))?;
        // Never `RootModule::load_from*`: it remembers per type, so the second plugin would be the first one again.
        let module = header.init_root_module::<PluginModule_Ref>().map_err(|error| PluginError::Load(load_text(&error)))?;
        Ok(Self { module })
    }

    /// What the library says of itself.
    ///
    /// # Errors
    /// [`PluginError::Manifest`]
    pub(super) fn describe(self) -> Result<Manifest, PluginError> {
        let mut buffer = Buffer::default();
        // SAFETY: the buffer outlives the call.
        let status = unsafe { (self.module.describe())(buffer.sink()) };
        let bytes = buffer.into_bytes().map_err(PluginError::Manifest)?;
        match Status::try_from(status) {
            Ok(Status::Done) => serde_json::from_slice(&bytes).map_err(|error| PluginError::Manifest(error.to_string())),
            _ => Err(PluginError::Manifest(String::from_utf8_lossy(&bytes).into_owned())),
        }
    }

    /// Runs the plugin's constructor.
    ///
    /// # Errors
    /// [`PluginError::Constructor`] with the plugin's own text.
    pub(super) fn create(self, request: &CreateRequest, host: Arc<dyn Host>) -> Result<Instance, PluginError> {
        let request = serde_json::to_vec(request).map_err(|error| PluginError::Constructor(error.to_string()))?;
        // Leaked: threads a plugin leaves behind may still call in after `shutdown`, and then find the door shut instead of freed memory.
        let door: &'static Door = Box::leak(Box::new(Door { host: ArcSwapOption::from_pointee(host) }));
        let services = HostServices { host: std::ptr::from_ref(door).cast(), invoke };
        let mut buffer = Buffer::default();
        // SAFETY: request and buffer outlive the call; the door is leaked, so the services outlive every instance.
        let pointer = unsafe { (self.module.create())(RSlice::from_slice(&request), services, buffer.sink()) };
        if pointer.is_null() {
            door.host.store(None);
            let text = buffer.into_bytes().unwrap_or_else(Into::into);
            return Err(PluginError::Constructor(end_of(&String::from_utf8_lossy(&text))));
        }
        Ok(Instance { module: self.module, pointer, door })
    }
}

/// One instance of a plugin. Must be ended with [`Self::shutdown`]; merely dropped, it is left in memory.
pub(super) struct Instance {
    module: PluginModule_Ref,
    pointer: *mut c_void,
    door: &'static Door,
}

// SAFETY: the border's contract lets `call` run on many threads at once and `shutdown` on any; the pointer is only passed to those.
unsafe impl Send for Instance {}
// SAFETY: as for `Send`.
unsafe impl Sync for Instance {}

impl Instance {
    /// Runs one operation on this thread.
    pub(super) fn call(&self, token: u64, operation: Operation, input: &[u8]) -> Answer {
        let mut buffer = Buffer::default();
        // SAFETY: only `shutdown` ends the instance, and that takes `self`; input and buffer outlive the call.
        let status = unsafe { (self.module.call())(self.pointer, token, operation as u32, RSlice::from_slice(input), buffer.sink()) };
        match (Status::try_from(status), buffer.into_bytes()) {
            // Such a text goes to the log and to dead letters.
            (Ok(status @ (Status::Retry | Status::Panicked)), Ok(bytes)) if bytes.len() > TEXT_BYTES_MAX => {
                Answer { status, bytes: end_of(&String::from_utf8_lossy(&bytes)).into() }
            }
            (Ok(status), Ok(bytes)) => Answer { status, bytes: bytes.into() },
            (Err(number), _) => Answer::retry(format!("plugin answered with the unknown status {number}")),
            (_, Err(reason)) => Answer::retry(reason),
        }
    }

    /// Runs the plugin's shutdown and frees the instance. No call may be running: holding the value itself proves it.
    pub(super) fn shutdown(self) {
        // SAFETY: taken by value, so no call runs and none will; the pointer is not used again.
        unsafe { (self.module.shutdown())(self.pointer) };
        self.door.host.store(None);
    }
}

/// What `HostServices::host` points to.
struct Door {
    host: ArcSwapOption<Arc<dyn Host>>,
}

/// `HostServices::invoke`. Nothing may unwind out of here: that would end the process.
unsafe extern "C" fn invoke(door: *const c_void, token: u64, operation: u32, input: RSlice<'_, u8>, sink: Sink) -> u8 {
    // SAFETY: the pointer was made from a leaked `Door` in `Library::create`; plugins give it back unchanged.
    let door = unsafe { &*door.cast::<Door>() };
    let answered = catch_unwind(AssertUnwindSafe(|| match door.host.load_full() {
        Some(host) => host.invoke(token, operation, Bytes::copy_from_slice(input.as_slice())),
        None => Answer::retry("the instance has been shut down"),
    }));
    let answer = answered.unwrap_or_else(host_panicked);
    // SAFETY: the call the sink was passed to is this one.
    unsafe { sink.write(&answer.bytes) };
    answer.status as u8
}

/// What a plugin hears whose request made the host panic.
pub(super) fn host_panicked(payload: Box<dyn Any + Send>) -> Answer {
    let text = format!("the host panicked: {}", panic_text(payload.as_ref()));
    std::mem::forget(payload); // Its drop might panic as well.
    Answer { status: Status::Panicked, bytes: text.into() }
}

fn panic_text(payload: &(dyn Any + Send)) -> &str {
    payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}

/// Takes what a plugin writes, up to the limit.
#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    is_over: bool,
}

impl Buffer {
    fn sink(&mut self) -> Sink {
        Sink { target: std::ptr::from_mut(self).cast(), write }
    }

    fn into_bytes(self) -> Result<Vec<u8>, String> {
        if self.is_over { Err(format!("plugin wrote more than {ANSWER_BYTES_MAX} bytes")) } else { Ok(self.bytes) }
    }
}

/// `Sink::write` of a [`Buffer`].
unsafe extern "C" fn write(target: *mut c_void, bytes: RSlice<'_, u8>) {
    // SAFETY: the pointer was made from a `Buffer` that outlives the call it was passed to, and the border's contract keeps sinks
    // within their call and on one thread at a time.
    let buffer = unsafe { &mut *target.cast::<Buffer>() };
    if buffer.bytes.len().saturating_add(bytes.len()) > ANSWER_BYTES_MAX {
        buffer.is_over = true;
    } else {
        buffer.bytes.extend_from_slice(bytes.as_slice());
    }
}

/// abi_stable's errors span many lines and say nothing of what to do.
fn load_text(error: &LibraryError) -> String {
    match error {
        LibraryError::OpenError { err, .. } => {
            let mut text = err.to_string();
            if let Some(source) = err.source() {
                text = format!("{text}: {source}");
            }
            if text.contains("failed to map segment") {
                text += " (is state_dir on a file system mounted noexec? choose another one)";
            }
            if text.contains("GLIBC_") {
                text += " (built against a newer C library than this host's: build it on the oldest system it shall run on)";
            }
            format!("the system's loader refused it: {text}")
        }
        LibraryError::GetSymbolError { .. } => "no Plugsocket module in it: is `export_plugin!` there?".to_owned(),
        LibraryError::InvalidAbiHeader(found) => {
            format!("built with abi_stable {}.{}, which this host can't load", found.abi_major, found.abi_minor)
        }
        LibraryError::IncompatibleVersionNumber { expected_version, actual_version, .. } => {
            format!(
                "built with plugsocket-abi {actual_version}, this host needs {expected_version}: rebuild it with a matching plugsocket-plugin"
            )
        }
        other => {
            let words = other.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
            format!("its interface is not the one of this host: {}", words.chars().take(2000).collect::<String>())
        }
    }
}
