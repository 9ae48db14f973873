//! Bytes across the border in both directions: writing into a sink, collecting from one, and asking the host.

use std::ffi::c_void;

use abi_stable::std_types::RSlice;

use super::{HostServices, Sink};
use crate::call::{HostOperation, Status};
use crate::context::HostLink;

/// Runs `call` with a sink and answers what it returned and the bytes that were written meanwhile. The sink is dead afterwards: writing
/// into one that was let out is what [`Sink::write`] forbids.
pub fn collect<T>(call: impl FnOnce(Sink) -> T) -> (T, Vec<u8>) {
    let mut bytes = Vec::new();
    let result = call(Sink { target: (&raw mut bytes).cast(), write: append });
    (result, bytes)
}

unsafe extern "C" fn append(target: *mut c_void, bytes: RSlice<'_, u8>) {
    // SAFETY: `target` is the `Vec<u8>` of the `collect` that is running on this thread's caller: it made the sink, it waits for the
    // callee, and touches the vector only after the callee has returned. The border allows one writer at a time.
    let collected = unsafe { &mut *target.cast::<Vec<u8>>() };
    collected.extend_from_slice(bytes.as_slice());
}

/// The host, asked on behalf of one call (token 0: of none). Lives no longer than that call, or than the instance.
#[derive(Clone, Copy)]
pub(crate) struct HostDoor {
    services: HostServices,
    call: u64,
}

impl HostDoor {
    pub(crate) fn new(services: HostServices, call: u64) -> Self {
        Self { services, call }
    }

    pub(crate) fn outside_of_calls(services: HostServices) -> Self {
        Self::new(services, 0)
    }
}

impl HostLink for HostDoor {
    fn request(&self, operation: HostOperation, input: &[u8]) -> (Status, Vec<u8>) {
        let HostServices { host, invoke } = self.services;
        // SAFETY: the pair came from the host, which keeps it valid until the instance's `shutdown` has returned; this door lives no longer.
        let (status, answer) = collect(|sink| unsafe { invoke(host, self.call, operation as u32, RSlice::from_slice(input), sink) });
        match Status::try_from(status) {
            Ok(status) => (status, answer),
            Err(number) => (Status::Retry, format!("the host answered with status {number}, which this plugin does not know").into_bytes()),
        }
    }
}
