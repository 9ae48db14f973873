//! What operators need of a process: signals, logs, metrics, and the ops listener apart from the public one.

pub mod control;
pub mod http;
mod listener;
pub mod logs;
pub mod metrics;
mod queries;
pub mod signals;
