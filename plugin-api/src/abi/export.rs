//! The functions behind the root module: raw pointers in, safe calls inside, every panic caught before it reaches the border.

use std::ffi::c_void;
use std::ptr;

use abi_stable::library::{__call_root_module_loader, CheckTypeLayout, LibHeader, RootModuleResult};
use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::std_types::RSlice;

use super::link::HostDoor;
use super::{HostServices, PluginModule, PluginModule_Ref, Sink};
use crate::call::{Operation, Status};
use crate::dispatch::Instance;
use crate::export::Definition;
use crate::{log, panics};

/// What `export_plugin!` implements for a type of its own.
pub trait Exported: Sized + 'static {
    /// What the macro was told.
    const DEFINITION: Definition;

    /// The root module, as the host gets it from the library. For tests that link the plugin instead of loading it.
    #[must_use]
    fn module() -> PluginModule_Ref {
        PluginModule { describe: describe::<Self>, create: create::<Self>, call, shutdown }.leak_into_prefix()
    }
}

/// The value of the symbol the host looks up.
#[must_use]
pub const fn header<P: Exported>() -> LibHeader {
    // SAFETY: `root_module::<P>` answers a `PluginModule_Ref`, the type named here.
    unsafe { LibHeader::from_constructor::<PluginModule_Ref>(root_module::<P>, CheckTypeLayout::Yes) }
}

extern "C" fn root_module<P: Exported>() -> RootModuleResult {
    __call_root_module_loader(P::module)
}

/// One instance, as the host's pointer holds it.
struct Held {
    instance: Instance,
    services: HostServices,
    logged_as: u64,
}

unsafe extern "C" fn describe<P: Exported>(answer: Sink) -> u8 {
    let (status, bytes) = match panics::guard(|| P::DEFINITION.manifest()) {
        Ok(Ok(manifest)) => (Status::Done, manifest),
        Ok(Err(error)) => (Status::Retry, error.into_bytes()),
        Err(panic) => (Status::Panicked, panic.into_bytes()),
    };
    // SAFETY: the call it was passed to is this one.
    unsafe { answer.write(&bytes) };
    status as u8
}

unsafe extern "C" fn create<P: Exported>(request: RSlice<'_, u8>, host: HostServices, answer: Sink) -> *mut c_void {
    let built = panics::guard(|| {
        let logged_as = log::introduce(host);
        let _entered = log::enter(HostDoor::outside_of_calls(host));
        match panics::guard(|| Instance::create(&P::DEFINITION, request.as_slice())) {
            Ok(Ok(instance)) => Ok(Box::into_raw(Box::new(Held { instance, services: host, logged_as }))),
            Ok(Err(error)) => {
                log::retire(logged_as);
                Err(error)
            }
            Err(panic) => {
                log::retire(logged_as);
                Err(format!("the constructor panicked: {panic}"))
            }
        }
    });
    match built {
        Ok(Ok(held)) => held.cast(),
        Ok(Err(error)) | Err(error) => {
            // SAFETY: the call it was passed to is this one.
            unsafe { answer.write(error.as_bytes()) };
            ptr::null_mut()
        }
    }
}

unsafe extern "C" fn call(instance: *const c_void, call: u64, operation: u32, input: RSlice<'_, u8>, answer: Sink) -> u8 {
    // SAFETY: null, or the pointer `create` answered, which the host keeps alive until no call runs and `shutdown` takes it back.
    // Many calls share it: `Held` is only read, and `Instance` is `Sync`.
    let Some(held) = (unsafe { instance.cast::<Held>().as_ref() }) else {
        // SAFETY: the call it was passed to is this one.
        unsafe { answer.write(b"called without an instance") };
        return Status::Retry as u8;
    };
    let Ok(operation) = Operation::try_from(operation) else {
        return Status::Unsupported as u8;
    };
    let door = HostDoor::new(held.services, call);
    let ended = panics::guard(|| {
        let _entered = log::enter(door);
        held.instance.call(operation, input.as_slice(), Box::new(door))
    });
    let (status, bytes) = ended.unwrap_or_else(|panic| (Status::Panicked, panic.into_bytes()));
    // SAFETY: as above.
    unsafe { answer.write(&bytes) };
    status as u8
}

unsafe extern "C" fn shutdown(instance: *mut c_void) {
    if instance.is_null() {
        return;
    }
    // SAFETY: the pointer `create` answered; the host calls this once, when no call is running, and never uses it again.
    let held = unsafe { Box::from_raw(instance.cast::<Held>()) };
    let Held { instance, services, logged_as } = *held;
    // A panic outside of the instance's own guards has nowhere to be told; the instance is gone either way.
    let _ = panics::guard(|| {
        let _entered = log::enter(HostDoor::outside_of_calls(services));
        instance.shutdown();
    });
    log::retire(logged_as);
}

/// `Held` crosses threads behind the host's pointer.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Held>();
};
