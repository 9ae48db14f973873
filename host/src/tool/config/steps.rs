//! What an import did, and what is left to do by hand, step by step.

use std::path::Path;

use super::package::shown;
use super::text::Application;

/// The lines for standard error. `out` is the file that was written.
pub(super) fn steps(application: &Application<'_>, out: Option<&Path>) -> Vec<String> {
    let package = &application.package;
    let name = out.map_or("FILE".to_owned(), |out| out.display().to_string());
    let count = match package.actions.len() {
        1 => "1 action".to_owned(),
        count => format!("{count} actions"),
    };
    let (list, _) = application.lists();
    let done = if out.is_some() { format!("wrote {name}") } else { "written to standard output".to_owned() };
    let mut lines = vec![format!("{done}: {count} by the list {}", shown(&list))];
    lines.extend(application.place.notes.iter().map(|note| format!("note: {}", shown(note))));
    if application.place.has_password {
        lines.push(
            "note: it has the password of Redis in it: keep it from others, and let the user own it that the server runs as".to_owned(),
        );
    }
    lines.push("left to do:".to_owned());
    let mut left = Vec::new();
    if out.is_none() {
        left.push("put it into a file: plugsocket config import -o config/plugsocket.toml".to_owned());
    }
    if application.place.url.is_none() {
        left.push("`queue`: name the application's Redis, if it is not at 127.0.0.1:6379".to_owned());
    }
    match application.place.prefix.as_deref() {
        None => left.push("`[php] prefix`: look whether the application's Redis client has one; the line in the file says how".to_owned()),
        Some("") => {}
        Some(prefix) => left.push(format!("the Redis client has the prefix {}: read what stands at `[php] prefix`", shown(prefix))),
    }
    if let (listen, false) = application.listen() {
        let host = shown(package.host.as_deref().unwrap_or_default());
        left.push(format!("`server.listen` is {listen} because {host} is a name: put in the address that clients reach"));
    }
    if package.ssl {
        left.push(
            "`ssl` was true: name a certificate in [server.tls], or have a proxy speak TLS; as it is, the server speaks ws://".to_owned(),
        );
    }
    match (application.handler(), &package.handler) {
        (Some(plugin), Some(class)) => left.push(format!("port {} to a plugin that admits clients: plugsocket new {plugin}", shown(class))),
        (Some(plugin), None) => left.push(format!("write the plugin that admits clients: plugsocket new {plugin}")),
        (None, _) => left.push("`server.handler`: name the plugin that admits clients".to_owned()),
    }
    left.push(format!("plugsocket check --config {name}"));
    if package.actions.is_empty() {
        left.push("there are no `actions`: add those that plugins serve".to_owned());
    } else {
        left.push("leave `php artisan websocket:work` running: it goes on running every action".to_owned());
    }
    left.push(format!("stop `php artisan websocket:serve`, and start in its place: plugsocket-server --config {name}"));
    left.push("then one action after the other, as docs/from-laravel.md shows".to_owned());
    lines.extend(left.iter().enumerate().map(|(index, step)| format!("  {}. {step}", index + 1)));
    lines
}
