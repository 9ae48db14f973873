//! The queue inside one process.
