//! Counters, gauges and histograms of this process, in Prometheus text.

use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// Seconds; calls and waits span microseconds to minutes.
const SECONDS_BUCKETS: [f64; 13] = [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0];

/// The process's metrics.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// Begins to collect. Call once per process.
    ///
    /// # Errors
    /// When something else in the process collects already.
    pub fn start() -> Result<Self, BuildError> {
        PrometheusBuilder::new().set_buckets(&SECONDS_BUCKETS)?.install_recorder().map(Self)
    }

    /// The present values.
    #[must_use]
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Keeps histograms bounded until `stop` fires; without it they grow between scrapes.
    pub async fn upkeep(self, stop: CancellationToken) {
        while tokio::time::timeout(UPKEEP_INTERVAL, stop.cancelled()).await.is_err() {
            self.0.run_upkeep();
        }
    }
}
