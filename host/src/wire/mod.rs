//! Pure bytes, no I/O: what stands in frames, in the queue, and the ids and codes in them.

pub mod codes;
pub mod delivery;
pub mod envelope;
pub mod flat;
pub mod frame;
pub mod http;
pub mod ids;
pub mod job;
pub mod json;
pub mod packed;
pub mod php;
pub mod php_job;
pub mod protocol;
