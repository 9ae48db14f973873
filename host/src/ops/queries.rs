//! The questions of the HTTP API: who is connected where, and how many there are.

use std::sync::Arc;

use axum::Json as JsonBody;
use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use plugsocket_plugin::call::ConnectionInfo;
use serde::Serialize;
use serde_json::json;

use super::http::{Ops, not_served, refusal};
use crate::queue::{LOOKUP_MAX, QueueError};

/// One part of a path, percent-decoded; or why it can't be.
type Id = Result<Path<String>, PathRejection>;

#[derive(Serialize)]
struct Connection {
    connection_id: String,
    user_id: Option<String>,
    node: String,
    groups: Vec<String>,
}

impl From<ConnectionInfo> for Connection {
    fn from(info: ConnectionInfo) -> Self {
        Self { connection_id: info.connection_id, user_id: info.user_id, node: info.node, groups: info.groups }
    }
}

/// The paths that ask.
pub(super) fn routes() -> Router<Arc<Ops>> {
    Router::new()
        .route("/v1/connections/{id}", get(connection))
        .route("/v1/users/{id}/connections", get(user_connections))
        .route("/v1/groups/{name}/connections", get(members))
        .route("/v1/online", get(online))
}

/// `GET /v1/connections/{id}`: the connection with this public id or session id.
async fn connection(State(ops): State<Arc<Ops>>, id: Id) -> Response {
    let id = match given(id) {
        Ok(id) => id,
        Err(reason) => return bad_path(&reason),
    };
    match ops.presence.connection(&id).await {
        Ok(Some(info)) => JsonBody(Connection::from(info)).into_response(),
        Ok(None) => refusal(StatusCode::NOT_FOUND, "not_found", "no connection has this id"),
        Err(error) => failed(&error),
    }
}

/// `GET /v1/users/{id}/connections`
async fn user_connections(State(ops): State<Arc<Ops>>, id: Id) -> Response {
    match given(id) {
        Ok(id) => list(ops.presence.user_connections(&id).await),
        Err(reason) => bad_path(&reason),
    }
}

/// `GET /v1/groups/{name}/connections`
async fn members(State(ops): State<Arc<Ops>>, name: Id) -> Response {
    match given(name) {
        Ok(name) => list(ops.presence.members(&name).await),
        Err(reason) => bad_path(&reason),
    }
}

/// `GET /v1/online`
async fn online(State(ops): State<Arc<Ops>>) -> Response {
    match ops.presence.online().await {
        Ok(connections) => JsonBody(json!({"connections": connections})).into_response(),
        Err(error) => failed(&error),
    }
}

fn list(found: Result<Vec<ConnectionInfo>, QueueError>) -> Response {
    match found {
        Ok(found) => JsonBody(listed(found)).into_response(),
        Err(error) => failed(&error),
    }
}

/// A full lookup can't tell whether there is more.
fn listed(found: Vec<ConnectionInfo>) -> serde_json::Value {
    let truncated = found.len() >= LOOKUP_MAX;
    let connections: Vec<Connection> = found.into_iter().map(Connection::from).collect();
    if truncated { json!({"connections": connections, "truncated": true}) } else { json!({"connections": connections}) }
}

fn failed(error: &QueueError) -> Response {
    match error {
        QueueError::Invalid(reason) => refusal(StatusCode::BAD_REQUEST, "bad_request", reason),
        error => not_served(error),
    }
}

fn given(id: Id) -> Result<String, String> {
    match id {
        Ok(Path(id)) if id.is_empty() => Err("the id in the path is empty".to_owned()),
        Ok(Path(id)) => Ok(id),
        Err(rejection) => Err(format!("the id in the path must be percent-encoded UTF-8 ({})", rejection.body_text())),
    }
}

fn bad_path(reason: &str) -> Response {
    refusal(StatusCode::BAD_REQUEST, "bad_request", reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn someone() -> ConnectionInfo {
        ConnectionInfo { connection_id: "c".to_owned(), user_id: None, node: "n".to_owned(), groups: vec!["g".to_owned()] }
    }

    #[test]
    fn a_list_says_when_it_is_full() {
        assert_eq!(listed(Vec::new()), json!({"connections": []}));
        let one = json!({"connection_id": "c", "user_id": null, "node": "n", "groups": ["g"]});
        assert_eq!(listed(vec![someone()]), json!({"connections": [one]}));
        assert_eq!(listed(vec![someone(); LOOKUP_MAX - 1]).get("truncated"), None);
        assert_eq!(listed(vec![someone(); LOOKUP_MAX])["truncated"], true);
    }
}
