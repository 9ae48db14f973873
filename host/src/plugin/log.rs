//! What plugins say, in the host's log.

use bytes::Bytes;
use plugsocket_plugin::call::{LogEvent, Status};

use super::Answer;

/// Longest event of a plugin that is logged, in bytes.
const LOG_BYTES_MAX: usize = 64 * 1024;

/// Logs one event.
pub(super) fn log(plugin: &str, input: &[u8]) -> Answer {
    if input.len() > LOG_BYTES_MAX {
        tracing::warn!(plugin, bytes = input.len(), "event of a plugin is too long for the log");
        return Answer { status: Status::Done, bytes: Bytes::new() };
    }
    let event: LogEvent = match serde_json::from_slice(input) {
        Ok(event) => event,
        Err(error) => return Answer::retry(format!("log event can't be read: {error}")),
    };
    let fields = event.fields.iter().map(|(name, value)| format!("{name}={value:?}")).collect::<Vec<_>>().join(" ");
    let fields = Some(fields.as_str()).filter(|fields| !fields.is_empty());
    let (message, module) = (event.message.as_str(), event.target.as_str());
    match event.level.as_str() {
        "ERROR" => tracing::error!(target: "plugin", plugin, module, fields, "{message}"),
        "WARN" => tracing::warn!(target: "plugin", plugin, module, fields, "{message}"),
        "DEBUG" => tracing::debug!(target: "plugin", plugin, module, fields, "{message}"),
        "TRACE" => tracing::trace!(target: "plugin", plugin, module, fields, "{message}"),
        _ => tracing::info!(target: "plugin", plugin, module, fields, "{message}"),
    }
    Answer { status: Status::Done, bytes: Bytes::new() }
}
