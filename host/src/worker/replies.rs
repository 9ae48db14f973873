//! What goes back to the client of a job.

use std::time::Duration;

use tokio::time;

use crate::context::ContextSink;
use crate::queue::{Outbox, QueueError};
use crate::wire::delivery::{Address, Body, Delivery, MessageName, Origin};
use crate::wire::job::Job;
use crate::wire::json::Json;

/// How often a reply is offered to a queue that fails; each time lasts as long as the queue allows itself.
const TRIES: u32 = 5;
/// A plugin's own code and sentence are cut to these, in bytes.
const CODE_BYTES_MAX: usize = 64;
const SENTENCE_BYTES_MAX: usize = 1024;
const PAUSE: Duration = Duration::from_millis(200);

/// Sends the reply of a call that ends its job, when there is something to say or the client waits for an answer.
pub(super) async fn reply(outbox: &dyn Outbox, job: &mut Job, data: Json, sink: &ContextSink) {
    if job.client_id.is_some() || !data.is_null() {
        let body = Body::Reply { action: std::mem::take(&mut job.action), client_id: job.client_id.take(), data };
        send(outbox, job, body, sink.next_index()).await;
    }
}

/// Tells the client that its message came to nothing; also for messages without an id.
pub(super) async fn failure(outbox: &dyn Outbox, job: &Job, code: &str, message: &str, index: u32) {
    let (code, message) = (cut(code, CODE_BYTES_MAX), cut(message, SENTENCE_BYTES_MAX));
    let body = Body::Failure { client_id: job.client_id.clone(), code: code.to_owned(), message: message.to_owned() };
    send(outbox, job, body, index).await;
}

async fn send(outbox: &dyn Outbox, job: &Job, body: Body, index: u32) {
    let message = job.scheduled_id.clone().map_or(MessageName::Own(job.sequence), MessageName::Id);
    let origin = Some(Origin { message, index });
    let delivery = Delivery { to: vec![Address::Session(job.session.clone())], except: None, body, origin };
    if outbox.try_send(&delivery) {
        return;
    }
    for attempt in 1..=TRIES {
        // The session passes on only the first answer to a message, so offering it again does no harm.
        match outbox.send(delivery.clone()).await {
            Ok(()) => return,
            Err(error @ (QueueError::Invalid(_) | QueueError::Closed)) => {
                tracing::error!(%error, job = job.message_id(), "answer can't be sent");
                return;
            }
            Err(error) => tracing::warn!(%error, attempt, job = job.message_id(), "sending an answer failed"),
        }
        time::sleep(PAUSE).await;
    }
    metrics::counter!("plugsocket_replies_lost_total").increment(1);
}

fn cut(text: &str, bytes_max: usize) -> &str {
    let end = (0..=bytes_max.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(cut("short", 10), "short");
        assert_eq!(cut("ääää", 5), "ää");
        assert_eq!(cut("", 0), "");
    }
}
