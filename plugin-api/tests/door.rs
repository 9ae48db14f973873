//! A plugin as the host meets it: through the root module's function pointers.
#![allow(unsafe_code)] // The host's half of the border.
#![allow(clippy::unwrap_used, clippy::panic)] // The probe panics on purpose, and what the tests share unwraps.

use std::convert::Infallible;
use std::ffi::c_void;
use std::sync::Mutex;

use abi_stable::std_types::RSlice;
use plugsocket_plugin::__export::Exported;
use plugsocket_plugin::abi::link::collect;
use plugsocket_plugin::abi::{HostServices, PluginModule_Ref, Sink};
use plugsocket_plugin::call::{HostOperation, LogEvent, Manifest, Operation, Status};
use plugsocket_plugin::prelude::*;

struct Probe(&'static str);

impl Probe {
    fn say(_config: &Config) -> Result<Self, Infallible> {
        Ok(Self("say"))
    }

    fn panic(config: &Config) -> Result<Self, ConfigError> {
        match config.get::<String>("refuse")? {
            Some(reason) => Err(ConfigError::new(reason)),
            None => Ok(Self("panic")),
        }
    }

    fn grenade(config: &Config) -> Result<Self, Infallible> {
        assert!(config.get::<bool>("explode") != Ok(Some(true)), "constructor went off");
        Ok(Self("grenade"))
    }
}

/// A panic payload that panics when it is dropped.
struct Grenade;

impl Drop for Grenade {
    fn drop(&mut self) {
        std::panic::panic_any("dropped");
    }
}

impl Action for Probe {
    fn handle(&self, message: &Message, context: &Context) -> Outcome {
        match self.0 {
            "panic" => panic!("no luck with {}", message.connection_id()),
            "grenade" => std::panic::panic_any(Grenade),
            _ => {
                let word: String = message.data()?;
                tracing::warn!(target: "probe", word, count = 2, "heard");
                context.to_user(7).except("c9").send("said", &word)?;
                Ok(Reply::json(json!({ "id": context.message_id(), "attempt": context.attempt() })))
            }
        }
    }

    fn shutdown(&self) {
        tracing::info!(target: "probe", action = self.0, "bye");
        assert!(self.0 != "panic", "one that fails to end");
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        assert!(self.0 != "panic", "one that fails to end, twice");
    }
}

struct Door;

impl Door {
    fn new(_config: &Config) -> Result<Self, Infallible> {
        Ok(Self)
    }
}

impl Handler for Door {
    fn connect(&self, request: &ConnectRequest, context: &Context) -> Result<Identity, Refusal> {
        let name: String = request.data()?;
        context.store().set("name", &name)?;
        Ok(Identity::new().with_user_id(7_i64).with_field("name", name))
    }
}

export_plugin! {
    name: "probe",
    handler: Door::new,
    actions: { "say" => Probe::say, "panic" => Probe::panic, "grenade" => Probe::grenade },
}

/// Records what the plugin asks; `send` and `log` are done, the store is away.
#[derive(Default)]
struct Host {
    asked: Mutex<Vec<(u64, HostOperation, String)>>,
}

unsafe extern "C" fn invoke(host: *const c_void, call: u64, operation: u32, input: RSlice<'_, u8>, answer: Sink) -> u8 {
    // SAFETY: every test keeps its `Host` until its last instance is shut down.
    let host = unsafe { &*host.cast::<Host>() };
    let operation = HostOperation::try_from(operation).unwrap();
    let input = String::from_utf8(input.as_slice().to_vec()).unwrap();
    host.asked.lock().unwrap().push((call, operation, input));
    if operation == HostOperation::Store {
        // SAFETY: the call it was passed to is this one.
        unsafe { answer.write(b"the store is away") };
        return Status::Retry as u8;
    }
    Status::Done as u8
}

impl Host {
    fn services(&self) -> HostServices {
        HostServices { host: std::ptr::from_ref(self).cast(), invoke }
    }

    fn create(&self, request: &str) -> (*mut c_void, String) {
        let create = module().create();
        // SAFETY: the sink is used within the call only; every test keeps its host until its last instance is shut down.
        let (instance, text) = collect(|sink| unsafe { create(RSlice::from_slice(request.as_bytes()), self.services(), sink) });
        (instance, String::from_utf8(text).unwrap())
    }

    fn logged(&self) -> Vec<LogEvent> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|asked| asked.1 == HostOperation::Log).map(|asked| serde_json::from_str(&asked.2).unwrap()).collect()
    }
}

fn module() -> PluginModule_Ref {
    PlugsocketExport::module()
}

fn call(instance: *mut c_void, operation: u32, input: &str) -> (Status, String) {
    // SAFETY: null, or an instance that is not shut down yet.
    let (status, answer) = collect(|sink| unsafe { module().call()(instance, 5, operation, RSlice::from_slice(input.as_bytes()), sink) });
    (Status::try_from(status).unwrap(), String::from_utf8(answer).unwrap())
}

fn shutdown(instance: *mut c_void) {
    // SAFETY: every test ends its instances once, after their last call.
    unsafe { module().shutdown()(instance) }
}

fn act(instance: *mut c_void, input: &str) -> (Status, String) {
    call(instance, Operation::Action as u32, input)
}

#[test]
fn the_symbol_is_the_one_the_host_looks_up() {
    assert_eq!(abi_stable::library::ROOT_MODULE_LOADER_NAME, "_1as_0lib_1header_0root_bmodule_bloader");
}

#[test]
fn the_manifest_says_what_is_exported() {
    // SAFETY: the sink is used within the call only.
    let (status, manifest) = collect(|sink| unsafe { module().describe()(sink) });
    let manifest: Manifest = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(Status::try_from(status), Ok(Status::Done));
    assert_eq!((manifest.name.as_str(), manifest.handler, manifest.panic.as_str()), ("probe", true, "unwind"));
    assert_eq!(manifest.actions, ["say", "panic", "grenade"]);
}

#[test]
fn a_message_goes_in_and_sends_logs_and_a_reply_come_out() {
    let host = Host::default();
    let (instance, text) = host.create(r#"{"role":"actions","unknown":1}"#);
    assert!(!instance.is_null(), "{text}");
    let message = r#"{"action":"say","connection_id":"c1","data":"hi","meta":{"message_id":"m7","attempt":2},"later":true}"#;
    let (status, reply) = act(instance, message);
    assert_eq!((status, reply.as_str()), (Status::Done, r#"{"attempt":2,"id":"m7"}"#));
    let (status, refused) = act(instance, r#"{"action":"say","data":5}"#);
    assert_eq!(status, Status::Rejected);
    assert!(refused.contains("bad_data") && refused.contains("expected a string"), "{refused}");
    assert_eq!(act(instance, r#"{"action":"other"}"#).0, Status::Rejected);
    assert_eq!(act(instance, "{").0, Status::Retry);
    assert_eq!(call(instance, 99, "").0, Status::Unsupported);
    assert_eq!(call(instance, Operation::Connect as u32, "{}").0, Status::Unsupported);
    assert_eq!(call(std::ptr::null_mut(), Operation::Loop as u32, "").0, Status::Retry);

    let sends: Vec<_> = host.asked.lock().unwrap().iter().filter(|asked| asked.1 == HostOperation::Send).cloned().collect();
    assert_eq!(sends, [(5, HostOperation::Send, r#"{"to":{"user":"7"},"except":"c9","action":"said","data":"hi"}"#.to_owned())]);
    shutdown(instance);
    let logged = host.logged();
    assert_eq!((logged[0].level.as_str(), logged[0].target.as_str(), logged[0].message.as_str()), ("WARN", "probe", "heard"));
    assert_eq!(logged[0].fields["word"], "hi");
    assert_eq!(logged[0].fields["count"], "2");
    assert_eq!(logged.iter().filter(|event| event.message == "bye").count(), 3, "each action was told, also beside one that panics");
    assert!(logged.iter().any(|event| event.message == "shutdown panicked" && event.fields["name"] == "panic"), "{logged:?}");
}

#[test]
fn panics_end_in_the_plugin() {
    let host = Host::default();
    let (instance, _) = host.create(r#"{"role":"actions"}"#);
    let (status, text) = act(instance, r#"{"action":"panic","connection_id":"c1"}"#);
    assert_eq!(status, Status::Panicked);
    assert!(text.starts_with("no luck with c1 (at ") && text.contains("door.rs:"), "{text}");
    let (status, text) = act(instance, r#"{"action":"grenade"}"#);
    assert_eq!(status, Status::Panicked);
    assert!(text.contains("no text"), "{text}");
    assert_eq!(act(instance, r#"{"action":"say","data":"still here"}"#).0, Status::Done);
    shutdown(instance);

    let (instance, text) = host.create(r#"{"role":"actions","config":{"explode":true}}"#);
    assert!(instance.is_null());
    // What was built before it was ended, though that panics in `shutdown` and again when it is dropped.
    assert!(text.starts_with("the constructor of `grenade` panicked: constructor went off"), "{text}");
    assert_eq!(host.logged().iter().filter(|event| event.message == "bye").count(), 5);
}

#[test]
fn a_constructor_refuses_in_its_own_words() {
    let host = Host::default();
    let (instance, text) = host.create(r#"{"role":"actions","config":{"refuse":"no database at db:5432"}}"#);
    assert!(instance.is_null());
    assert_eq!(text, "the constructor of `panic` refused: config: no database at db:5432");
    assert!(host.create("nonsense").0.is_null());
}

#[test]
fn the_handler_is_an_instance_of_its_own() {
    let host = Host::default();
    let (instance, _) = host.create(r#"{"role":"handler"}"#);
    let (status, text) = call(instance, Operation::Connect as u32, r#"{"connection_id":"c1","data":"Ada"}"#);
    assert_eq!((status, text.as_str()), (Status::Retry, "the store is away"), "a store that is away is not the client's fault");
    let (status, text) = call(instance, Operation::Connect as u32, r#"{"connection_id":"c1"}"#);
    assert_eq!(status, Status::Rejected);
    assert!(text.contains(r#""keep_open":true"#), "{text}");
    let gone = r#"{"identity":{"connection_id":"c1"},"reason":"client"}"#;
    assert_eq!(call(instance, Operation::Disconnect as u32, gone), (Status::Done, String::new()));
    assert_eq!(call(instance, Operation::Loop as u32, ""), (Status::Done, String::new()));
    let (status, text) = call(instance, Operation::Fallback as u32, r#"{"action":"what"}"#);
    assert_eq!(status, Status::Rejected);
    assert!(text.contains("unknown_action") && text.contains("what"), "{text}");
    assert_eq!(act(instance, r#"{"action":"say"}"#).0, Status::Rejected);
    shutdown(instance);
}
