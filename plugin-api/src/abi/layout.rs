//! Test: the border's layout is what it was at the first release of this major version.

use abi_stable::StableAbi;
use abi_stable::type_layout::TypeLayout;

use super::{HostServices, PluginModule_Ref, Sink};

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
        "The layout of the plugin border differs from plugin-api/src/abi/layout.golden. It must never change within a major version: \
         every plugin that is already compiled carries the old layout and would be refused by the next host, or crash it. Add what is \
         new inside the bytes (src/call.rs) and name it in the manifest's features.\n--- found ---\n{found}"
    );
}
