//! The integration suite: real processes, a real Redis, a real browser; one file per promise.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test that can't go on shall say so and end.

#[allow(dead_code)] // Each file uses the part of the harness it needs.
mod harness;

mod anew;
mod bad_input;
mod channels;
mod config;
mod config_import;
mod conformance;
mod crash;
mod crowd;
mod door;
mod drain;
mod faults;
mod flat;
mod flow;
mod from_laravel;
mod hostile;
mod identity;
mod nodes;
mod page;
mod php_actions;
mod php_input;
mod plugins_tool;
mod poison;
mod queries;
mod queue_tool;
mod reload;
mod runners;
mod send;
mod slow;
mod smoke;
mod systemd;
mod tidy;
mod tls;
mod wire_floods;
mod wire_input;
