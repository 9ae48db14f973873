//! `plugsocket dev`: server, worker and the memory queue in one process, with the demo page.

use std::sync::Arc;

use axum::body::Bytes;
use clap::Args;

use super::dev_tls;
use super::process::{Process, announce, open_redis, plugin_reasons, server_readiness};
use super::{service, sockets};
use crate::config::{Common, Override};
use crate::ops::http::Page;
use crate::plugin::Plugins;
use crate::plugin::{Roles, Trust};
use crate::queue::QueueOptions;
use crate::server::Server;
use crate::{queue, worker};

/// Flags of `dev`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  plugsocket dev                                      # memory queue, no Redis needed
  plugsocket dev --set server.listen=127.0.0.1:9000
  plugsocket dev --tls                                # wss:// with a certificate made for this machine
  plugsocket dev --queue redis://127.0.0.1:6379       # the same with Redis")]
pub struct DevArgs {
    #[command(flatten)]
    common: Common,
    /// The queue: `memory`, or an address as in the config file (whose own `queue` is for server and worker).
    #[arg(long, default_value = "memory", value_name = "QUEUE")]
    queue: String,
    /// Serves wss:// with a certificate of this machine's own, made and kept in `state_dir`, unless the config names one.
    #[arg(long)]
    tls: bool,
}

impl DevArgs {
    /// As [`Common::threads`].
    #[must_use]
    pub fn threads(&self) -> usize {
        self.common.threads()
    }
}

/// Runs both until a signal ends them: the server first, so that what its clients sent is still worked off.
///
/// # Errors
/// A bad config; an address that is taken.
pub async fn run(args: DevArgs) -> anyhow::Result<()> {
    let choice = Override { source: "--queue".to_owned(), key: "queue".to_owned(), value: args.queue };
    let mut first = vec![choice];
    let own = if args.tls { dev_tls::certificate(&args.common, &first)? } else { None };
    first.extend(own.iter().flat_map(dev_tls::Certificate::overrides));
    let process = Process::start(&args.common, first)?;
    let settings = process.settings.load_full();
    let ops = Process::bind_ops(settings.ops.listen, "ops.listen").await?;
    let queue = match settings.queue.as_str() {
        "memory" => queue::memory::open(QueueOptions::from_settings(&settings)),
        _ => open_redis(&process, &settings)?,
    };
    let registry = process.start_plugins(Roles { handler: true, actions: true }, Trust::Warned).await?;
    let plugins: Arc<dyn Plugins> = Arc::clone(&registry) as _;
    let server = match sockets::server()? {
        Some(passed) => {
            Server::listening(passed, queue.clone(), Arc::clone(&plugins), Arc::clone(&process.settings), process.node.clone())?
        }
        None => Server::bind(queue.clone(), Arc::clone(&plugins), Arc::clone(&process.settings), process.node.clone()).await?,
    };
    sockets::check_all_used()?;
    let readiness = server_readiness(server.sessions(), &registry, &queue);
    let ops = process.serve_ops(ops, &queue, readiness, demo_pages(&server.url()))?;
    process.keep_current(&registry)?;
    process.serve_control("dev", &registry).await;
    let worker_stop = process.end.child_token();
    let work = worker::run(queue, plugins, Arc::clone(&process.settings), process.node.clone(), worker_stop.clone());
    let stop = process.stop.clone();
    let work = process.tasks.spawn(async move {
        let worked = work.await;
        // A server whose messages nobody works off would only look alive.
        stop.cancel();
        worked
    });

    announce(&format!("listening on {}", server.url()));
    announce("worker ready");
    if let Some(ops) = ops {
        announce(&format!("ops on http://{ops}/"));
    }
    announce(&format!("plugins from {}: a new build takes over while this runs", settings.plugins_dir.display()));
    announce(&format!("config from {}: actions, plugins, limits and log level apply when it is saved", args.common.config.display()));
    for reason in plugin_reasons(&registry) {
        announce(&format!("not ready: {reason}"));
    }
    if let Some(own) = &own {
        announce(&own.advice(server.local_addr()));
    }
    if let Some(ops) = ops {
        announce(&format!("open http://{ops}/"));
    }
    service::ready(&format!("serving clients on {}", server.url()));
    let drained = server.run(process.stop.clone()).await;
    tracing::info!(?drained, "server ended");
    worker_stop.cancel();
    let drained = work.await??;
    tracing::info!(?drained, "worker ended");
    registry.close().await;
    process.finish(&registry).await
}

/// The demo page of the chat plugin, and where its socket is.
fn demo_pages(url: &str) -> Vec<Page> {
    let page = |path, content_type, body: &'static str| Page { path, content_type, body: Bytes::from_static(body.as_bytes()) };
    let socket = format!("{{\"ws\":\"{url}\"}}");
    vec![
        page("/", "text/html; charset=utf-8", include_str!("../../../plugins/chat/web/index.html")),
        page("/style.css", "text/css; charset=utf-8", include_str!("../../../plugins/chat/web/style.css")),
        page("/connection.js", "text/javascript; charset=utf-8", include_str!("../../../plugins/chat/web/connection.js")),
        page("/chat.js", "text/javascript; charset=utf-8", include_str!("../../../plugins/chat/web/chat.js")),
        page("/people.js", "text/javascript; charset=utf-8", include_str!("../../../plugins/chat/web/people.js")),
        Page { path: "/config.json", content_type: "application/json", body: socket.into() },
    ]
}
