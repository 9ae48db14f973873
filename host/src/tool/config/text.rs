//! From the PHP package's config to the text of a config file: every line says where it comes from.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::package::{Package, shown};
use super::queue_url::Place;

/// What is known of an application.
pub(super) struct Application<'call> {
    /// The PHP package's config.
    pub package: Package,
    /// Where its Redis is.
    pub place: Place,
    /// Where the config stands, for the first line.
    pub source: &'call str,
    /// The plugin that shall admit clients; without it a name is made from the class.
    pub handler: Option<&'call str>,
}

/// Column of the comments, as in the shipped file.
const COLUMN: usize = 39;
/// A comment that would stand further behind than this has a line of its own.
const LINE_CHARS_MAX: usize = 150;
const NAME_CHARS_MAX: usize = 64;
const PORT: u16 = 8000;
const APP: &str = "plugsocket";
/// Where the ops listeners are, unless the application's socket is there.
const OPS_PORTS: [u16; 2] = [8001, 8002];

/// The package's limits, which our own are not tightened to: (key with our default, what the package did).
const LIMITS: [(&str, &str); 6] = [
    ("connections_max = 100000", "the PHP package took 100 clients, counting those whose upgrade had not come yet"),
    ("connections_per_ip_max = 1000", "it took 100 from one address"),
    (
        "messages_per_second = 100",
        "it took 2000 messages a minute of one connection (33 a second) and then closed it; here the message is dropped",
    ),
    ("messages_burst = 200", "beside that rate"),
    ("frame_in_max = \"64KiB\"", "it had no limit; a longer message closes the connection (1009)"),
    (
        "origins = []",
        "it took pages of every site; [] = pages of the host they connect to, on any port. Others by name, [\"https://www.example.org\"]",
    ),
];

impl Application<'_> {
    /// The name in the keys: `queue_name`, made usable.
    pub fn app(&self) -> String {
        let name = self.package.queue_name.as_deref().unwrap_or_default();
        let usable = |character: char| if character.is_ascii_alphanumeric() || matches!(character, '_' | '-') { character } else { '_' };
        let app: String = name.chars().take(NAME_CHARS_MAX).map(usable).collect();
        if app.is_empty() { APP.to_owned() } else { app }
    }

    /// The plugin that admits clients.
    pub fn handler(&self) -> Option<String> {
        self.handler.map(ToOwned::to_owned).or_else(|| self.package.handler.as_deref().map(plugin_name))
    }

    /// Where the server listens, and whether that is what the package's `host` said.
    pub fn listen(&self) -> (SocketAddr, bool) {
        let port = self.package.port.unwrap_or(PORT);
        let host = self.package.host.as_deref().unwrap_or("localhost").trim();
        let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let is_meant = ip.is_ok() || host.is_empty() || host.eq_ignore_ascii_case("localhost");
        (SocketAddr::new(ip.unwrap_or(Ipv4Addr::LOCALHOST.into()), port), is_meant)
    }

    /// The two lists, without a prefix: from clients, and those to clients.
    pub fn lists(&self) -> (String, [String; 2]) {
        // Without a name the package's lists are these too.
        let name = self.package.queue_name.as_deref().unwrap_or_default();
        (format!("queues:{name}_in"), [format!("queues:{name}_out"), format!("queues:{{{name}_out}}")])
    }

    /// The text of the config file.
    pub fn text(&self) -> String {
        let mut text = format!(
            "# Made by `plugsocket config import` from {}. Keys that are not here have their defaults, which config/plugsocket.toml shows.\n\
             # The way on, one action at a time: docs/from-laravel.md. Relative paths are relative to this file's folder.\n\n",
            shown(self.source)
        );
        self.general(&mut text);
        self.server(&mut text);
        self.limits(&mut text);
        self.php(&mut text);
        self.actions(&mut text);
        self.unknown(&mut text);
        text
    }

    fn general(&self, text: &mut String) {
        let app = self.app();
        let of = match self.package.queue_name.as_deref() {
            Some(name) if name == app => "`queue_name`: in the name of every key in Redis".to_owned(),
            Some(name) => format!("`queue_name` is {}: made usable here; the lists below have it as it is", quoted(&shown(name))),
            None => "there is no `queue_name`".to_owned(),
        };
        line(text, &format!("app = {}", quoted(&app)), &of);
        match &self.place.url {
            Some(url) if self.place.has_password => line(text, &format!("queue = {}", quoted(url)), "has a password in it"),
            Some(url) => line(text, &format!("queue = {}", quoted(url)), "the application's Redis"),
            None => line(
                text,
                "queue = \"redis://127.0.0.1:6379\"",
                "the application's Redis: redis://[user:password@]host[:port][/db], or unix:///path",
            ),
        }
        line(text, "plugins_dir = \"../plugins\"", "drop libNAME.so here");
        line(text, "state_dir = \"../var\"", "");
    }

    fn server(&self, text: &mut String) {
        text.push_str("\n[server]\n");
        let (listen, is_meant) = self.listen();
        let host = shown(self.package.host.as_deref().unwrap_or("localhost"));
        let said = if is_meant {
            format!("`host` and `port`: {host}, {}", listen.port())
        } else {
            format!("`host` was {host}, and names are not resolved: put the address in that it has, or 0.0.0.0 for all of this machine")
        };
        line(text, &format!("listen = \"{listen}\""), &said);
        line(text, "protocol = \"flat\"", "the shapes of the PHP package, so that front ends work unchanged");
        let class = self.package.handler.as_deref().map_or("the PHP handler".to_owned(), shown);
        match self.handler() {
            Some(name) => line(
                text,
                &format!("handler = {}", quoted(&name)),
                &format!("the plugin that takes the place of {class}: plugsocket new {name}"),
            ),
            None => line(text, "# handler = \"NAME\"", "there was no `handler`; without a plugin that admits clients nobody can register"),
        }
        line(text, "# paths = [\"/\", \"/ws\"]", "the paths that clients connect to; the PHP package did not look at them");
        line(text, "# loop_interval = \"100ms\"", "how often the handler's `on_loop` runs, as often as the package's `loop`");
        if self.package.ssl {
            text.push_str(
                "\n# `ssl` was true. The PHP package's socket makes a self-signed certificate then, which no browser trusts (and its `websocket:serve` does\n\
                 # not hand `ssl` on). Name one that is signed; or leave TLS to the proxy in front, if there is one, and these lines as they are.\n\
                 [server.tls]\n",
            );
            line(text, "# cert_file = \"server.pem\"", "the certificate and those that lead to its authority (PEM)");
            line(text, "# key_file = \"server.key\"", "its key (PEM), without a passphrase");
        }
        if OPS_PORTS.contains(&listen.port()) {
            text.push_str("\n[ops]\n");
            // Two ports that are neither the socket's nor each other's.
            line(
                text,
                "listen = \"127.0.0.1:8003\"",
                "health, metrics, HTTP API: not at its default, which is beside or at the socket's port",
            );
            line(text, "worker_listen = \"127.0.0.1:8004\"", "the same of a worker");
        }
    }

    fn limits(&self, text: &mut String) {
        text.push_str("\n# Our own limits, at their defaults; behind them what the PHP package did.\n[limits]\n");
        for (key, theirs) in LIMITS {
            line(text, &format!("# {key}"), theirs);
        }
    }

    fn php(&self, text: &mut String) {
        let (_, [plain, braced]) = self.lists();
        text.push_str("\n[php]\n");
        line(
            text,
            &format!("lists = [{}, {}]", quoted(&plain), quoted(&braced)),
            "what `websocket()->to(…)->send(…)` pushes to; with braces on a Redis Cluster",
        );
        match self.place.prefix.as_deref() {
            Some("") => line(text, "prefix = \"\"", "the application's Redis client has none"),
            Some(prefix) => {
                line(
                    text,
                    &format!("prefix = {}", quoted(prefix)),
                    "what the application's Redis client puts before the name of every list",
                );
                text.push_str(PREFIX_OF_THE_PACKAGE);
            }
            None => line(
                text,
                "# prefix = \"laravel_database_\"",
                "not known: php artisan tinker --execute='echo config(\"database.redis.options.prefix\");'",
            ),
        }
        if !self.package.client_keys.is_empty() {
            let _ = writeln!(text, "# {} stay in PHP's own config: clients/php reads them there.", self.package.client_keys.join(", "));
        }
    }

    fn actions(&self, text: &mut String) {
        let (list, _) = self.lists();
        text.push_str(
            "\n# The application's own `php artisan websocket:work` goes on running these. One that a plugin serves is one line: NAME = \"PLUGIN\".\n[actions]\n",
        );
        for (name, class) in &self.package.actions {
            let key = if is_bare(name) { name.clone() } else { quoted(name) };
            let _ = writeln!(text, "{key} = {{ list = {}, handle = {} }}", quoted(&list), quoted(class));
        }
    }

    fn unknown(&self, text: &mut String) {
        if self.package.unknown.is_empty() {
            return;
        }
        text.push_str("\n# Keys of PHP's file that mean nothing here:\n");
        for (key, value) in &self.package.unknown {
            let _ = writeln!(text, "# {} = {value}", shown(key));
        }
    }
}

/// It pops by commands that its client puts no prefix before, and pushes by those that have one.
const PREFIX_OF_THE_PACKAGE: &str = "\
    # The PHP package's own commands take from lists without a prefix, whatever the client's. If `websocket:work` finds nothing, its client had\n\
    # none when it worked: set prefix = \"\" here, and 'options' => ['prefix' => ''] in config/database.php for the connection of the queue.\n";

/// One line with its comment, or the comment before it where the two are too long.
fn line(text: &mut String, setting: &str, comment: &str) {
    let chars = setting.chars().count().max(COLUMN) + comment.chars().count();
    let _ = match comment {
        "" => writeln!(text, "{setting}"),
        _ if chars > LINE_CHARS_MAX => writeln!(text, "# {comment}:\n{setting}"),
        _ if setting.chars().count() >= COLUMN => writeln!(text, "{setting}  # {comment}"),
        _ => writeln!(text, "{setting:<COLUMN$}# {comment}"),
    };
}

/// A TOML string. JSON's escapes are TOML's too, but for one character.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

fn is_bare(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// `\Chat\ChatHandler` is `chat_handler`: a name that `plugsocket new` takes.
fn plugin_name(class: &str) -> String {
    let base = class.rsplit('\\').next().unwrap_or(class);
    let mut name = String::new();
    let mut before = ' ';
    for (index, character) in base.chars().enumerate() {
        let next_is_small = base.chars().nth(index + 1).is_some_and(|next| next.is_ascii_lowercase());
        if character.is_ascii_uppercase() && !name.is_empty() && (!before.is_ascii_uppercase() || next_is_small) && before != '_' {
            name.push('_');
        }
        name.push(if character.is_ascii_alphanumeric() { character.to_ascii_lowercase() } else { '_' });
        before = character;
    }
    let name: String = name.trim_start_matches(|first: char| !first.is_ascii_lowercase()).chars().take(NAME_CHARS_MAX).collect();
    if name.is_empty() { "handler".to_owned() } else { name }
}

#[cfg(test)]
mod tests;
