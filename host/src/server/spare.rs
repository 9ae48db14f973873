//! Buffers that the connections of a thread use in turn: who has nothing to read or to write keeps none.

use std::cell::Cell;

/// So much is read at once at most, but for longer frames.
pub(super) const INPUT_BYTES: usize = 16 * 1024;
/// Room for what leaves in one write.
pub(super) const OUTPUT_BYTES: usize = 20 * 1024;

thread_local! {
    static INPUT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static OUTPUT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// [`INPUT_BYTES`] of whatever was in it before.
pub(super) fn input() -> Vec<u8> {
    let buffer = INPUT.try_with(Cell::take).unwrap_or_default();
    if buffer.is_empty() { vec![0; INPUT_BYTES] } else { buffer }
}

/// Gives an input buffer back; any other, and one too many, is freed.
pub(super) fn give_input(buffer: Vec<u8>) {
    if buffer.len() == INPUT_BYTES {
        let _ = INPUT.try_with(|spare| spare.set(buffer));
    }
}

/// An empty one with room for [`OUTPUT_BYTES`].
pub(super) fn output() -> Vec<u8> {
    let buffer = OUTPUT.try_with(Cell::take).unwrap_or_default();
    if buffer.capacity() == 0 { Vec::with_capacity(OUTPUT_BYTES) } else { buffer }
}

/// Gives an output buffer back; any other, and one too many, is freed.
pub(super) fn give_output(mut buffer: Vec<u8>) {
    if buffer.capacity() == OUTPUT_BYTES {
        buffer.clear();
        let _ = OUTPUT.try_with(|spare| spare.set(buffer));
    }
}
