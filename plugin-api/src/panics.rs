//! Where panics end: inside the plugin. One that reached the border would end the host's process.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;

/// Longest panic text handed to the host, in bytes.
const PANIC_BYTES_MAX: usize = 4096;

thread_local! {
    /// How many guards this thread is in; above 0 a panic is reported to the host, not to stderr.
    static GUARDS: Cell<u32> = const { Cell::new(0) };
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `work`; a panic comes back as its text, with where it happened.
pub(crate) fn guard<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    install_hook();
    GUARDS.set(GUARDS.get() + 1);
    LAST.take();
    // Shared state behind `&self` may be left half-changed: std's own locks poison, and the instance is the author's to keep sound.
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    let outcome = outcome.map_err(|payload| {
        let text = LAST.take().unwrap_or_else(|| payload_text(payload.as_ref()).to_owned());
        discard(payload);
        text
    });
    GUARDS.set(GUARDS.get() - 1);
    outcome
}

/// Drops a panic's payload. Its `Drop` is the author's code and may panic too, with a payload of its own: that one is leaked.
fn discard(payload: Box<dyn Any + Send>) {
    if let Err(second) = panic::catch_unwind(AssertUnwindSafe(move || drop(payload))) {
        std::mem::forget(second);
        LAST.take();
    }
}

/// The plugin has its own copy of std and so its own hook; in a test binary the hook of before still sees every other panic.
fn install_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if GUARDS.try_with(Cell::get).unwrap_or(0) > 0 {
                let _ = LAST.try_with(|last| last.replace(Some(describe(info))));
            } else {
                before(info);
            }
        }));
    });
}

fn describe(info: &PanicHookInfo<'_>) -> String {
    let mut text = payload_text(info.payload()).to_owned();
    if text.len() > PANIC_BYTES_MAX {
        let end = (0..=PANIC_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
    match info.location() {
        Some(location) => format!("{text} (at {}:{}:{})", location.file(), location.line(), location.column()),
        None => text,
    }
}

fn payload_text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("panicked with a value that is no text")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Grenade;

    impl Drop for Grenade {
        fn drop(&mut self) {
            panic::panic_any(Self);
        }
    }

    #[test]
    fn text_and_place_come_back() {
        let text = guard(|| panic!("no {}", "luck")).unwrap_err();
        assert!(text.starts_with("no luck (at ") && text.contains("panics.rs:"), "{text}");
        assert_eq!(guard(|| 7), Ok(7));
    }

    #[test]
    fn a_payload_that_panics_in_its_drop_ends_here_too() {
        let text = guard(|| panic::panic_any(Grenade)).unwrap_err();
        assert!(text.contains("no text"), "{text}");
        assert_eq!(guard(|| 7), Ok(7), "nothing is left behind");
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let text = guard(|| panic!("{}", "é".repeat(PANIC_BYTES_MAX))).unwrap_err();
        assert!(text.len() < PANIC_BYTES_MAX + 200);
    }
}
