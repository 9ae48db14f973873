//! Test: the border is what it was at its first release, its version too.

use abi_stable::StableAbi;
use abi_stable::type_layout::TypeLayout;

use crate::{HostServices, PluginModule_Ref, Sink};

const GOLDEN: &str = include_str!("layout.golden");

/// abi_stable's own description, without what may change: versions, line numbers, empty lines.
fn describe(layout: &TypeLayout) -> String {
    let text = layout.to_string();
    let kept = text.lines().map(str::trim_end).filter(|line| {
        let line = line.trim_start();
        !line.is_empty() && !line.starts_with("package:") && !line.starts_with("line:")
    });
    kept.map(|line| format!("{line}\n")).collect()
}

#[test]
#[cfg(target_pointer_width = "64")]
fn the_border_is_frozen() {
    let module = PluginModule_Ref::LAYOUT;
    let fields = module.phantom_fields().iter().map(|field| describe(field.layout())).collect::<String>();
    let found = [describe(module), fields, describe(HostServices::LAYOUT), describe(Sink::LAYOUT)].concat();
    assert!(
        found == GOLDEN,
        "The layout of the plugin border differs from plugin-api/abi/src/layout.golden. It must never change: \
         every plugin that is already compiled carries the old layout and would be refused by the next host, or crash it. Add what is \
         new inside the bytes (plugin-api/src/call.rs) and name it in the manifest's features.\n--- found ---\n{found}"
    );
}

/// abi_stable compares these before anything else: with another major version every compiled plugin would be refused.
#[test]
fn the_version_stays() {
    let major = env!("CARGO_PKG_VERSION").split('.').next();
    assert_eq!((env!("CARGO_PKG_NAME"), major), ("plugsocket-abi", Some("1")));
}
