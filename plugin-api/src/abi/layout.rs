//! Test: the border's layout is what it was at the first release of this major version.

use std::fmt::Write as _;

use abi_stable::StableAbi;
use abi_stable::type_layout::TypeLayout;

use super::{HostServices, PluginModule_Ref, Sink};

#[test]
fn dump() {
    for layout in [PluginModule_Ref::LAYOUT, HostServices::LAYOUT, Sink::LAYOUT] {
        println!("{}", layout);
        println!("phantom: {:#}", layout.phantom_fields().iter().map(|f| f.layout().to_string()).collect::<String>());
    }
}
