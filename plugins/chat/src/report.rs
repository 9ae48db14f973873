//! `report`: slow on purpose; shows that a slow handler delays only its own connection, and how to stream progress.

use std::thread;
use std::time::Duration;

use plugsocket_plugin::prelude::*;
use serde::Deserialize;

use crate::settings::Settings;

const SECONDS_MIN: f64 = 0.05;
const SECONDS_MAX: f64 = 30.0;
const STEPS_DEFAULT: u32 = 10;
const STEPS_MAX: u32 = 100;

#[derive(Deserialize)]
struct Request {
    seconds: f64,
    steps: Option<u32>,
}

/// Takes the time it is told to, with `report_progress` to the sender after every step.
pub struct Report;

impl Report {
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        Settings::read(config).map(|_| Self)
    }
}

impl Action for Report {
    fn handle(&self, message: &Message, context: &Context) -> Outcome {
        let Request { seconds, steps } = message.data()?;
        let steps = steps.unwrap_or(STEPS_DEFAULT);
        if !(SECONDS_MIN..=SECONDS_MAX).contains(&seconds) || !(1..=STEPS_MAX).contains(&steps) {
            let limits = format!("`seconds` is {SECONDS_MIN} to {SECONDS_MAX}, `steps` 1 to {STEPS_MAX}");
            return Err(Failure::reject("bad_data", limits));
        }
        let step = Duration::from_secs_f64(seconds) / steps;
        for done in 0..steps {
            // Another attempt would be too slow as well, so this is no `retry`.
            if context.time_left().is_some_and(|left| left < step * (steps - done)) {
                let message = format!("{seconds} s do not fit into this action's time limit; ask for fewer, or raise its `timeout`");
                return Err(Failure::reject("too_slow", message));
            }
            // Blocking is the point: it stands for a database or a slow library, and holds one of the plugin's threads.
            thread::sleep(step);
            let (done, percent) = (done + 1, (done + 1) * 100 / steps);
            context.to(message.connection_id()).send("report_progress", &json!({ "done": done, "total": steps, "percent": percent }))?;
        }
        Ok(Reply::json(json!({ "seconds": seconds, "finished": true })))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use plugsocket_plugin::call::Target;
    use plugsocket_plugin::testing::{self, MockContext};

    use super::*;

    fn report(context: &MockContext, data: Value) -> Outcome {
        Report.handle(&testing::message("report").data(data).build(), context)
    }

    #[test]
    fn takes_its_time_and_streams_its_progress() {
        let (context, started) = (MockContext::new(), Instant::now());
        let reply = report(&context, json!({ "seconds": 0.1, "steps": 4 }));
        assert!(started.elapsed() >= Duration::from_millis(100));
        assert_eq!(reply, Ok(Reply::json(json!({ "seconds": 0.1, "finished": true }))));
        assert!(context.sent().iter().all(|sent| sent.to == Target::Connection("c1".to_owned())));
        let percents: Vec<_> = context.sent_as("report_progress").iter().map(|progress| progress["percent"].clone()).collect();
        assert_eq!(percents, [25, 50, 75, 100]);
    }

    #[test]
    fn a_deadline_that_is_too_near_is_no_retry() {
        let context = MockContext::new().with_time_left(Duration::from_secs(2));
        assert!(matches!(report(&context, json!({ "seconds": 30 })), Err(Failure::Reject { code, .. }) if code == "too_slow"));
        assert!(context.sent().is_empty());
    }

    #[test]
    fn limits_hold() {
        for data in [
            json!({ "seconds": 0.04 }),
            json!({ "seconds": 31 }),
            json!({ "seconds": 1, "steps": 101 }),
            json!({ "seconds": 1, "steps": 0 }),
        ] {
            assert!(matches!(report(&MockContext::new(), data), Err(Failure::Reject { code, .. }) if code == "bad_data"));
        }
    }
}
