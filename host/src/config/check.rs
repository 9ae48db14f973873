//! Rules that types can't say: names, and limits that must not be zero.

use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::actions::{ActionSettings, ListAction};
use super::server::{ConnectOn, ServerSettings};
use super::settings::Settings;
use super::token::TokenPlace;
use crate::wire::codes::SYSTEM_ACTIONS;
use crate::wire::http::is_word;
use crate::wire::job::JOB_DATA_BYTES_MAX;

/// Most partitions of a queue.
pub const PARTITIONS_MAX: u32 = 4096;
const THREADS_MAX: usize = 1024;
const RUNTIME_THREADS_MAX: usize = 256;
/// A process has 1 024 thread-local keys and each library may take one; the load beyond them ends it.
const RETIRED_MAX: u64 = 900;
const RUNNERS_MAX: usize = 64;
/// A runner needs some of it for itself.
const MEMORY_MIN: u64 = 16 * 1024 * 1024;
const LEASE_MIN: Duration = Duration::from_millis(500);
/// Longer times can't be added to a clock.
const DURATION_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// One frame counts for at most half of the limit, so a tiny limit would bound nothing.
const OUTGOING_MIN: u64 = 1024;
/// What one counter holds has room for frames beyond it.
const OUTGOING_TOTAL_MAX: u64 = 256 << 30;
const TOKEN_KEYS_MAX: usize = 16;
const TOKEN_LEEWAY_MAX: Duration = Duration::from_secs(3600);
const QUEUES: [&str; 4] = ["redis://", "redis+unix://", "unix://", "rediss://"];

/// What is wrong with a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// The key, dotted.
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Checks the whole.
pub(super) fn check(settings: &Settings) -> Result<(), Fault> {
    let fault = |key: &str, reason: &str| Err(Fault { key: key.to_owned(), reason: reason.to_owned() });
    if !is_name(&settings.app) {
        return fault("app", "must have 1 to 64 of the characters A-Z a-z 0-9 _ -");
    }
    if settings.server.handler.as_deref().is_some_and(|name| !is_name(name)) {
        return fault("server.handler", "must be a plugin's name: the file name without `lib` and ending");
    }
    // Never with the value: it may hold a password.
    if settings.queue != "memory" && !QUEUES.iter().any(|scheme| settings.queue.starts_with(scheme)) {
        return fault(
            "queue",
            "must be redis:// or rediss://[user:password@]host[:port][/db], unix:///path, or memory (for `plugsocket dev`)",
        );
    }
    if settings.queue.contains('#') {
        return fault(
            "queue",
            "must not end in #insecure, which would let anybody play Redis: name its CA's file in `queue_options.tls_ca_file` instead \
             (a `#` in a password is written %23)",
        );
    }
    check_tls_files(settings)?;
    check_server(settings)?;
    if let Err(reason) = check_log_level(&settings.log_level) {
        return fault("log_level", &reason);
    }
    if let Some(origin) = settings.limits.origins.iter().find(|origin| !is_origin(origin)) {
        return fault("limits.origins", &format!("`{origin}` is no origin: write it as https://example.org, or \"*\" for all"));
    }
    for (action, entry) in &settings.actions {
        let key = format!("actions.{action}");
        let is_reserved = match (settings.server.protocol, entry) {
            (protocol, ActionSettings::List(_)) => protocol.reserves(action),
            // No plugin has such actions, whatever its clients speak.
            (_, ActionSettings::Plugin(_)) => SYSTEM_ACTIONS.contains(&action.as_str()),
        };
        if is_reserved {
            return fault(&key, "is a system action, which the server answers itself; choose another name");
        }
        if action.is_empty() || action.len() > settings.limits.action_bytes_max || action.chars().any(char::is_control) {
            return fault(&key, "is not a usable action name: empty, too long, or with control characters");
        }
        if let Some(reason) = fault_of(settings, entry) {
            return fault(&key, reason);
        }
    }
    for (name, plugin) in &settings.plugins {
        if !is_name(name) {
            return fault(&format!("plugins.{name}"), "must be a plugin's name: the file name without `lib` and ending");
        }
        if !(1..=THREADS_MAX).contains(&plugin.threads) {
            return fault(&format!("plugins.{name}.threads"), "must be 1 to 1024");
        }
        if !(1..=RUNNERS_MAX).contains(&plugin.runners) {
            return fault(&format!("plugins.{name}.runners"), "must be 1 to 64");
        }
        let memory = plugin.memory_max.as_u64();
        if memory > 0 && memory < MEMORY_MIN {
            return fault(&format!("plugins.{name}.memory_max"), "must be at least 16MiB, or 0B for no limit");
        }
    }
    if !(0.0..=1.0).contains(&settings.probation.errors_max) {
        return fault("probation.errors_max", "must be a share from 0 to 1, such as 0.05");
    }
    if !(1..=RETIRED_MAX).contains(&settings.retired_max) {
        return fault("retired_max", "must be 1 to 900");
    }
    if !(1..=RUNTIME_THREADS_MAX).contains(&settings.threads) {
        return fault("threads", "must be 1 to 256");
    }
    if !(1..=PARTITIONS_MAX).contains(&settings.queue_options.partitions) {
        return fault("queue_options.partitions", "must be 1 to 4096");
    }
    if settings.queue_options.lease < LEASE_MIN {
        return fault("queue_options.lease", "must be at least 500ms");
    }
    if settings.ops.listen.is_some_and(|address| !address.ip().is_loopback()) && settings.ops.token.is_none() {
        return fault("ops.listen", "is not a loopback address: set `ops.token` too, or listen on 127.0.0.1");
    }
    if settings.ops.worker_listen.is_some_and(|address| !address.ip().is_loopback()) && settings.ops.token.is_none() {
        return fault("ops.worker_listen", "is not a loopback address: set `ops.token` too, or listen on 127.0.0.1");
    }
    if settings.limits.ping_interval >= settings.limits.idle_timeout {
        return fault("limits.ping_interval", "must be shorter than `limits.idle_timeout`, or quiet clients are closed");
    }
    if settings.limits.outgoing_max.as_u64() < OUTGOING_MIN {
        return fault("limits.outgoing_max", "must be at least 1KiB");
    }
    if settings.limits.outgoing_total_max.as_u64() > OUTGOING_TOTAL_MAX {
        return fault("limits.outgoing_total_max", "must be at most 256GiB");
    }
    if settings.limits.frame_in_max.as_u64() > JOB_DATA_BYTES_MAX as u64 {
        return fault("limits.frame_in_max", "must be at most 16MiB");
    }
    positive(settings)
}

fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// What is wrong with what serves an action.
fn fault_of(settings: &Settings, entry: &ActionSettings) -> Option<&'static str> {
    let ListAction { list, handle } = match entry {
        ActionSettings::Plugin(action) => {
            let faults = [
                (!is_name(&action.plugin), "must name a plugin: the file name without `lib` and ending"),
                (action.attempts == Some(0), "`attempts` must be at least 1"),
                (action.concurrency == Some(0), "`concurrency` must be at least 1"),
            ];
            return faults.into_iter().find_map(|(is_fault, reason)| is_fault.then_some(reason));
        }
        ActionSettings::List(action) => action,
    };
    let faults = [
        (
            settings.queue == "memory",
            "a `list` needs Redis, and the queue is in memory: name a plugin instead, or start `plugsocket dev` with \
             --queue redis://127.0.0.1:6379",
        ),
        (list.is_empty(), "`list` is empty; the PHP package's is queues:NAME_in"),
        (handle.is_empty(), "`handle` is empty: name the PHP class that handles it"),
        (
            is_out_list(settings, list),
            "`list` is one of `[php] lists`, by which PHP sends to clients: messages would go in a circle; the PHP package's is queues:NAME_in",
        ),
    ];
    faults.into_iter().find_map(|(is_fault, reason)| is_fault.then_some(reason))
}

/// Whether PHP sends by this list.
fn is_out_list(settings: &Settings, list: &str) -> bool {
    settings
        .php
        .out_lists(&settings.app)
        .iter()
        .any(|known| list.strip_prefix(known.as_str()).is_some_and(|rest| rest.is_empty() || rest == ":notify"))
}

fn check_tls_files(settings: &Settings) -> Result<(), Fault> {
    let options = &settings.queue_options;
    let files = [
        ("tls_ca_file", options.tls_ca_file.is_some()),
        ("tls_cert_file", options.tls_cert_file.is_some()),
        ("tls_key_file", options.tls_key_file.is_some()),
    ];
    let fault = |key: &str, reason: &str| Err(Fault { key: format!("queue_options.{key}"), reason: reason.to_owned() });
    match files.iter().find(|(_, is_set)| *is_set) {
        // `plugsocket dev` puts `memory` in the place of whatever the file says.
        Some((key, _)) if !settings.queue.starts_with("rediss://") && settings.queue != "memory" => {
            return fault(key, "is only for rediss:// in `queue`");
        }
        _ => {}
    }
    match (files[1].1, files[2].1) {
        (true, false) => fault("tls_cert_file", "needs its key too: `queue_options.tls_key_file`"),
        (false, true) => fault("tls_key_file", "needs its certificate too: `queue_options.tls_cert_file`"),
        _ => Ok(()),
    }
}

fn check_server(settings: &Settings) -> Result<(), Fault> {
    let fault = |key: &str, reason: &str| Err(Fault { key: format!("server.{key}"), reason: reason.to_owned() });
    let server = &settings.server;
    match (&server.tls.cert_file, &server.tls.key_file) {
        (Some(_), None) => return fault("tls.cert_file", "needs its key too: `server.tls.key_file`"),
        (None, Some(_)) => return fault("tls.key_file", "needs its certificate too: `server.tls.cert_file`"),
        _ => {}
    }
    if server.paths.is_empty() || server.paths.iter().any(|path| !path.starts_with('/') || path.contains(['?', '#', ' '])) {
        return fault("paths", "must name at least one path, each beginning with / and without a query");
    }
    if let Some(name) = server.subprotocols.iter().find(|name| !is_word(name)) {
        return fault("subprotocols", &format!("`{name}` can't stand in a header: use letters, digits and - . _"));
    }
    check_token(server)
}

fn check_token(server: &ServerSettings) -> Result<(), Fault> {
    let fault = |key: &str, reason: &str| Err(Fault { key: format!("server.token.{key}"), reason: reason.to_owned() });
    let token = &server.token;
    let mut places = Vec::new();
    for entry in &token.from {
        match entry.parse::<TokenPlace>() {
            Ok(place) if places.contains(&place) => return fault("from", &format!("`{entry}` is there twice")),
            Ok(place) => places.push(place),
            Err(reason) => return fault("from", &reason),
        }
    }
    let registers = places.iter().filter(|place| matches!(place, TokenPlace::Register(_))).count();
    if registers > 1 {
        return fault("from", "may name one register:MEMBER");
    }
    if token.keys.is_empty() {
        return Ok(());
    }
    if places.is_empty() {
        return fault("from", "must say where a token may be, such as header:Authorization");
    }
    if server.connect_on == ConnectOn::Upgrade && registers == places.len() {
        return fault(
            "from",
            "has register:MEMBER only, which comes too late for connect_on = \"upgrade\"; add header:Authorization or another place",
        );
    }
    if token.keys.len() > TOKEN_KEYS_MAX {
        return fault("keys", "may be at most 16: each may be tried for a token");
    }
    if token.leeway > TOKEN_LEEWAY_MAX {
        return fault("leeway", "must be at most 1h: it lengthens every token's life");
    }
    if token.expiry_warning > DURATION_MAX {
        return fault("expiry_warning", "must be at most 100 years");
    }
    Ok(())
}

/// A word alone must be a level: the filter would take a misspelt one for the name of a module, and log nothing.
fn check_log_level(level: &str) -> Result<(), String> {
    const EXPECTED: &str = "use error, warn, info, debug, trace, off, or a filter like info,plugsocket::server=debug";
    for part in level.split(',').map(str::trim) {
        if !part.contains(['=', '[']) && part.parse::<LevelFilter>().is_err() {
            return Err(format!("`{part}` is no level; {EXPECTED}"));
        }
    }
    EnvFilter::builder().parse(level).map(drop).map_err(|error| format!("{error}; {EXPECTED}"))
}

fn is_origin(text: &str) -> bool {
    let is_host = |host: &str| !host.is_empty() && !host.contains(['/', '@', '*', ' ', '?', '#']);
    matches!(text, "*" | "null")
        || text.trim_end_matches('/').split_once("://").is_some_and(|(scheme, host)| !scheme.is_empty() && is_host(host))
}

fn positive(settings: &Settings) -> Result<(), Fault> {
    let Settings { server, worker, limits, queue_options, .. } = settings;
    let times = [
        ("server.loop_interval", server.loop_interval),
        ("server.handler_timeout", server.handler_timeout),
        ("worker.timeout", worker.timeout),
        ("limits.registration_timeout", limits.registration_timeout),
        ("limits.ping_interval", limits.ping_interval),
        ("limits.handshake_timeout", limits.handshake_timeout),
        ("limits.write_timeout", limits.write_timeout),
        ("queue_options.confirm_timeout", queue_options.confirm_timeout),
    ];
    let counts = [
        ("server.handler_calls_max", server.handler_calls_max),
        ("server.handler_attempts", server.handler_attempts as usize),
        ("server.fallback_waiting_max", server.fallback_waiting_max),
        ("worker.slots", worker.slots),
        ("worker.attempts", worker.attempts as usize),
        ("limits.connections_max", limits.connections_max),
        ("limits.connections_per_ip_max", limits.connections_per_ip_max),
        ("limits.accepts_burst", limits.accepts_burst as usize),
        ("limits.frames_per_message", limits.frames_per_message as usize),
        ("limits.unanswered_max", limits.unanswered_max),
        ("limits.json_depth_max", limits.json_depth_max),
        ("limits.action_bytes_max", limits.action_bytes_max),
        ("limits.frame_in_max", usize::try_from(limits.frame_in_max.as_u64()).unwrap_or(usize::MAX)),
        ("limits.outgoing_max", usize::try_from(limits.outgoing_max.as_u64()).unwrap_or(usize::MAX)),
        ("limits.outgoing_total_max", usize::try_from(limits.outgoing_total_max.as_u64()).unwrap_or(usize::MAX)),
        ("limits.user_messages_burst", limits.user_messages_burst as usize),
        ("limits.headers_max", usize::try_from(limits.headers_max.as_u64()).unwrap_or(usize::MAX)),
        ("queue_options.jobs_max", queue_options.jobs_max),
        ("queue_options.batcher_items_max", queue_options.batcher_items_max),
    ];
    let too_long = [
        ("server.drain_timeout", server.drain_timeout),
        ("server.drain_window", server.drain_window),
        ("worker.drain_timeout", worker.drain_timeout),
        ("worker.retry_backoff", worker.retry_backoff),
        ("worker.retry_in_lane_max", worker.retry_in_lane_max),
        ("worker.unserved_timeout", worker.unserved_timeout),
        ("limits.idle_timeout", limits.idle_timeout),
        ("limits.queue_wait", limits.queue_wait),
        ("queue_options.lease", queue_options.lease),
        ("probation.time", settings.probation.time),
        ("queue_options.store_ttl", queue_options.store_ttl),
        ("queue_options.dead_age_max", queue_options.dead_age_max),
    ];
    if let Some((key, _)) = times.iter().chain(&too_long).find(|(_, time)| *time > DURATION_MAX) {
        return Err(Fault { key: (*key).to_owned(), reason: "must be at most 100 years".to_owned() });
    }
    let zero_time = times.into_iter().find(|(_, time)| time.is_zero()).map(|(key, _)| key);
    let zero_count = counts.into_iter().find(|(_, count)| *count == 0).map(|(key, _)| key);
    match zero_time.or(zero_count) {
        Some(key) => Err(Fault { key: key.to_owned(), reason: "must be more than zero".to_owned() }),
        None => Ok(()),
    }
}
