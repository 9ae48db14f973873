//! Who is to blame for a runner's end, and the line in the log that says so.

use super::RunnersOptions;
use super::link::Numbered;
use super::speech::Speech;
use crate::plugin::blame::Subject;
use crate::plugin::crumbs::Crumbs;

/// The calls that ended a runner, or may have.
#[derive(Default)]
pub(super) struct Verdict {
    pub(super) culprit: Option<u64>,
    pub(super) suspects: Vec<u64>,
}

/// Who is to blame. Without a noted fault it can't be told, unless the only one that ran was a suspect before. One that has ended
/// and could not be heard of any more counts as well: it may have seen to that.
pub(super) fn judge(crumbs: &Crumbs, open: &Numbered) -> Verdict {
    if let Some(number) = crumbs.fault().and_then(|fault| fault.call).filter(|number| open.contains_key(number)) {
        return Verdict { culprit: Some(number), suspects: Vec::new() };
    }
    let begun: Vec<u64> = crumbs.begun().into_iter().filter(|number| open.contains_key(number)).collect();
    match begun.as_slice() {
        [only] if open.get(only).is_some_and(|call| call.suspicions > 0) => Verdict { culprit: Some(*only), suspects: Vec::new() },
        _ => Verdict { culprit: None, suspects: begun },
    }
}

/// Logs and counts an end that nobody wanted.
pub(super) fn tell(options: &RunnersOptions, runner: u32, reason: &str, subject: Option<&Subject>, open: usize, speech: &Speech) {
    let (plugin, version) = (&options.plugin, &options.version);
    let others = open.saturating_sub(usize::from(subject.is_some()));
    metrics::counter!("plugsocket_runner_crashes_total", "plugin" => plugin.to_string()).increment(1);
    let said = speech.last();
    match subject {
        Some(Subject { operation, action, connection_id, message_id }) => tracing::warn!(
            %plugin, %version, runner, reason, ?operation, action, connection = connection_id, message_id, others, said,
            "runner ended: this call did it"
        ),
        None if open == 0 => tracing::warn!(%plugin, %version, runner, reason, said, "runner ended while no call ran"),
        None => tracing::warn!(%plugin, %version, runner, reason, others, said, "runner ended: no call is to blame for certain"),
    }
}
