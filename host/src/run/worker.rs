//! `plugsocket-worker`.

use std::sync::Arc;

use super::process::{Process, announce, open_redis, worker_readiness};
use super::{service, sockets};
use crate::config::Common;
use crate::plugin::Plugins;
use crate::plugin::{Roles, Trust};
use crate::worker;

/// Runs a worker until a signal ends it.
///
/// # Errors
/// A bad config; an address that is taken; a Redis that can't serve workers.
pub async fn run(common: Common) -> anyhow::Result<()> {
    let process = Process::start(&common, Vec::new())?;
    let settings = process.settings.load_full();
    let ops = Process::bind_ops(settings.ops.worker_listen, "ops.worker_listen").await?;
    sockets::check_all_used()?;
    let queue = open_redis(&process, &settings)?;
    let registry = process.start_plugins(Roles { handler: false, actions: true }, Trust::Enforced).await?;
    let readiness = worker_readiness(&registry, &queue);
    let ops = process.serve_ops(ops, &queue, readiness, Vec::new())?;
    process.keep_current(&registry)?;
    process.serve_control("worker", &registry).await;
    if let Some(ops) = ops {
        announce(&format!("ops on http://{ops}/"));
    }
    announce("worker ready");
    service::ready("working");
    let plugins: Arc<dyn Plugins> = Arc::clone(&registry) as _;
    let drained = worker::run(queue, plugins, Arc::clone(&process.settings), process.node.clone(), process.stop.clone()).await?;
    tracing::info!(?drained, "worker ended");
    registry.close().await;
    process.finish(&registry).await
}
