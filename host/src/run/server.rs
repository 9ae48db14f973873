//! `plugsocket-server`.

use std::sync::Arc;

use super::process::{Process, announce, open_redis, server_readiness};
use super::{descriptors, service, sockets};
use crate::config::{Common, Settings};
use crate::plugin::Plugins;
use crate::plugin::{Roles, Trust};
use crate::server::{Echo, Server, check_certificate, check_token_keys};

/// Whether the certificate and the token keys can be served, without serving them.
///
/// # Errors
/// What is wrong with which file.
pub fn check_files(settings: &Settings) -> anyhow::Result<()> {
    check_certificate(&settings.server.tls, 0)?;
    check_token_keys(&settings.server.token)?;
    Ok(())
}

/// Runs a server until a signal ends it.
///
/// # Errors
/// A bad config; an address that is taken.
pub async fn run(common: Common) -> anyhow::Result<()> {
    let process = Process::start(&common, Vec::new())?;
    let settings = process.settings.load_full();
    descriptors::check(settings.limits.connections_max);
    let ops = Process::bind_ops(settings.ops.listen, "ops.listen").await?;
    let queue = open_redis(&process, &settings)?;
    let registry = process.start_plugins(Roles { handler: true, actions: false }, Trust::Enforced).await?;
    let plugins: Arc<dyn Plugins> = Arc::clone(&registry) as _;
    let server = match sockets::server()? {
        Some(passed) => Server::listening(passed, queue.clone(), plugins, Arc::clone(&process.settings), process.node.clone())?,
        None => Server::bind(queue.clone(), plugins, Arc::clone(&process.settings), process.node.clone()).await?,
    };
    sockets::check_all_used()?;
    let readiness = server_readiness(server.sessions(), &registry, &queue);
    let ops = process.serve_ops(ops, &queue, readiness, Vec::new())?;
    process.keep_current(&registry)?;
    process.serve_control("server", &registry).await;
    announce(&format!("listening on {}", server.url()));
    if let Some(ops) = ops {
        announce(&format!("ops on http://{ops}/"));
    }
    service::ready(&format!("serving clients on {}", server.url()));
    let drained = server.run(process.stop.clone()).await;
    tracing::info!(?drained, "server ended");
    registry.close().await;
    process.finish(&registry).await
}

/// Runs an echo of raw frames until a signal ends it: the server's handshake and socket for conformance tests, without queue and plugins.
///
/// # Errors
/// A bad config; an address that is taken.
pub async fn echo_frames(common: Common) -> anyhow::Result<()> {
    let process = Process::start(&common, Vec::new())?;
    let echo = Echo::bind(Arc::clone(&process.settings)).await?;
    announce(&format!("listening on ws://{}/ (echoing frames)", echo.local_addr()));
    echo.run(process.stop.clone()).await;
    process.end.cancel();
    Ok(())
}
