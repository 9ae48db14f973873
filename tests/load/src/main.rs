//! The program around the library of the same name.

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    return plugsocket_load::main();
    #[cfg(not(target_os = "linux"))]
    {
        eprintln!("plugsocket-load needs Linux: it reads /proc");
        ExitCode::FAILURE
    }
}
