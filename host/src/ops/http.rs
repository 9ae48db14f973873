//! The ops listener: health, metrics, the HTTP API, and pages for `plugsocket dev`. Guarded so that no web page can use it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Json as JsonBody;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use plugsocket_plugin::Id;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::listener::Bounded;
use super::metrics::Metrics;
use super::queries;
use crate::config::{LiveSettings, Settings};
use crate::queue::{Outbox, Presence, QueueError};
use crate::wire::delivery::{Address, Body, Delivery};
use crate::wire::json::Json;

/// Longer than a send may be tried (`queue_options.confirm_timeout`, 10 s by default).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Why the process is not ready; empty when it is.
pub type Readiness = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// A file served as it is.
#[derive(Debug, Clone)]
pub struct Page {
    /// Its path.
    pub path: &'static str,
    /// Its content type.
    pub content_type: &'static str,
    /// Its content.
    pub body: Bytes,
}

/// What the listener serves.
pub struct Ops {
    /// Where sends go.
    pub outbox: Arc<dyn Outbox>,
    /// Who is asked for connections.
    pub presence: Arc<dyn Presence>,
    /// What `/readyz` says.
    pub readiness: Readiness,
    /// What `/metrics` says.
    pub metrics: Metrics,
    /// Bearer token, when one is configured.
    pub token: Option<String>,
    /// Largest request body, in bytes.
    pub body_bytes_max: usize,
    /// For the limits of names.
    pub settings: LiveSettings,
    /// Pages.
    pub pages: Vec<Page>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SendBody {
    to: SendTo,
    action: String,
    #[serde(default)]
    data: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct SendTo {
    connection_id: Option<Id>,
    user_id: Option<Id>,
    group: Option<String>,
    all: bool,
    except: Option<Id>,
}

impl Ops {
    /// Serves `listener` until `stop` fires; requests on their way are finished.
    ///
    /// # Errors
    /// When the listener fails for good.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) -> std::io::Result<()> {
        let body_bytes_max = self.body_bytes_max;
        let pages = self.pages.clone();
        let state = Arc::new(self);
        let mut router = Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .route("/metrics", get(|State(ops): State<Arc<Ops>>| async move { ops.metrics.render() }))
            .route("/v1/send", post(send))
            .merge(queries::routes())
            .method_not_allowed_fallback(|| async {
                refusal(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "method",
                    "this path is not served with this method; the header `Allow` has those that are",
                )
            })
            .fallback(|| async { refusal(StatusCode::NOT_FOUND, "no_such_path", "nothing is served at this path") });
        for Page { path, content_type, body } in pages {
            let serve = move || async move { ([(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "no-cache")], body) };
            router = router.route(path, get(serve));
        }
        let router = router
            .layer(middleware::from_fn_with_state(Arc::clone(&state), guard))
            .layer(DefaultBodyLimit::max(body_bytes_max))
            .with_state(state);
        axum::serve(Bounded::new(listener), router).with_graceful_shutdown(stop.cancelled_owned()).await
    }
}

/// Health is for load balancers and stays open. Everything else wants the token, or, without one, a Host that no foreign web page can have.
async fn guard(State(ops): State<Arc<Ops>>, request: Request, next: Next) -> Response {
    let is_health = matches!(request.uri().path(), "/healthz" | "/readyz");
    let allowed =
        is_health || ops.token.as_ref().map_or_else(|| has_local_host(request.headers()), |token| has_token(request.headers(), token));
    if allowed {
        // The body is read in there: one that trickles in must not hold its connection.
        return match timeout(REQUEST_TIMEOUT, next.run(request)).await {
            Ok(response) => response,
            Err(_) => refusal(StatusCode::REQUEST_TIMEOUT, "timeout", "the request took too long; a message in it may have been sent"),
        };
    }
    match ops.token {
        Some(_) => refusal(StatusCode::UNAUTHORIZED, "unauthorized", "send `Authorization: Bearer <ops.token>`"),
        None => refusal(StatusCode::FORBIDDEN, "forbidden_host", "the Host header must be localhost or a loopback address"),
    }
}

fn has_local_host(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else { return false };
    let is_local = |ip: IpAddr| ip.is_loopback();
    host.parse::<SocketAddr>().map(|address| address.ip()).is_ok_and(is_local)
        || host.trim_matches(['[', ']']).parse().is_ok_and(is_local)
        || host.split(':').next().is_some_and(|name| name.eq_ignore_ascii_case("localhost"))
}

fn has_token(headers: &HeaderMap, token: &str) -> bool {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| value.strip_prefix("Bearer "));
    // Compares every byte, so that the time taken does not tell how much of a guess was right.
    given.is_some_and(|given| {
        given.len() == token.len() && given.bytes().zip(token.bytes()).fold(0, |differs, (one, two)| differs | (one ^ two)) == 0
    })
}

async fn ready(State(ops): State<Arc<Ops>>) -> Response {
    let reasons = (ops.readiness)();
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, JsonBody(json!({"ready": reasons.is_empty(), "reasons": reasons}))).into_response()
}

/// `POST /v1/send {"to": {"connection_id" | "user_id" | "group" | "all", "except"?}, "action", "data"?}`
async fn send(State(ops): State<Arc<Ops>>, headers: HeaderMap, body: Bytes) -> Response {
    // A page may post a form or plain text to any address without being asked; JSON it may not.
    let is_json = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")));
    if !is_json {
        return refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", "send `Content-Type: application/json`");
    }
    let delivery =
        match serde_json::from_slice(&body).map_err(|error| error.to_string()).and_then(|body| delivery(body, &ops.settings.load())) {
            Ok(delivery) => delivery,
            Err(reason) => return refusal(StatusCode::BAD_REQUEST, "bad_request", &reason),
        };
    let sent = match ops.outbox.send(delivery).await {
        Ok(()) => ops.outbox.flush().await,
        Err(error) => Err(error),
    };
    match sent {
        Ok(()) => (StatusCode::ACCEPTED, JsonBody(json!({"accepted": true}))).into_response(),
        Err(QueueError::Invalid(reason)) => refusal(StatusCode::BAD_REQUEST, "bad_request", &reason),
        Err(error) => not_served(&error),
    }
}

fn delivery(body: SendBody, settings: &Settings) -> Result<Delivery, String> {
    let SendTo { connection_id, user_id, group, all, except } = body.to;
    let mut to = Vec::new();
    to.extend(connection_id.map(|id| Address::Connection(id.to_string())));
    to.extend(user_id.map(|id| Address::User(id.to_string())));
    to.extend(group.map(Address::Group));
    to.extend(all.then_some(Address::All));
    if to.is_empty() {
        return Err("`to` needs at least one of `connection_id`, `user_id`, `group`, `all`".to_owned());
    }
    settings.server.protocol.check_action(&body.action, settings.limits.action_bytes_max)?;
    let data = body.data.as_deref().map_or(Json::NULL, Json::from);
    let except = except.map(|id| id.to_string());
    Ok(Delivery { to, except, body: Body::Message { action: body.action, data }, origin: None })
}

/// The queue can't be reached, or refuses.
pub(super) fn not_served(error: &QueueError) -> Response {
    let mut response = refusal(StatusCode::SERVICE_UNAVAILABLE, "busy", &error.to_string());
    response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    response
}

pub(super) fn refusal(status: StatusCode, code: &str, message: &str) -> Response {
    (status, JsonBody(json!({"error": {"code": code, "message": message}}))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn only_local_hosts_pass() {
        for host in ["127.0.0.1:8001", "127.0.0.1", "[::1]:8001", "[::1]", "localhost", "LOCALHOST:8001"] {
            assert!(has_local_host(&headers(header::HOST, host)), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "10.0.0.1:8001", ""] {
            assert!(!has_local_host(&headers(header::HOST, host)), "{host}");
        }
        assert!(!has_local_host(&HeaderMap::new()));
    }

    #[test]
    fn the_token_must_be_the_whole_one() {
        let given = |value: &str| has_token(&headers(header::AUTHORIZATION, value), "secret");
        assert!(given("Bearer secret"));
        assert!(!given("Bearer secre") && !given("Bearer secrets") && !given("secret") && !given("Bearer "));
    }

    #[test]
    fn a_send_needs_an_address_and_a_usable_action() {
        let settings = Settings::default();
        let parse = |text: &str| delivery(serde_json::from_str(text).unwrap(), &settings);
        assert!(parse(r#"{"to":{},"action":"a"}"#).unwrap_err().contains("`to` needs"));
        assert!(parse(r#"{"to":{"all":true},"action":"error"}"#).unwrap_err().contains("system action"));
        let good = parse(r#"{"to":{"user_id":7,"except":"c"},"action":"a","data":{"x":1}}"#).unwrap();
        assert_eq!(good.to, [Address::User("7".to_owned())]);
        assert_eq!(good.except.as_deref(), Some("c"));
    }
}
