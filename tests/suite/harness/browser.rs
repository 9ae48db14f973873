//! Headless Chromium through the DevTools protocol: tabs that evaluate JavaScript, wait for conditions and take pictures.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use super::process::Process;
use super::{START_PATIENCE, eventually};

const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
const FLAGS: [&str; 12] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
];
/// The end of one DevTools call.
const CALL_PATIENCE: Duration = Duration::from_secs(60);

/// One browser with a profile of its own. Dropping it ends the browser.
pub struct Browser {
    devtools: Arc<DevTools>,
    process: Process,
    _profile: TempDir,
}

/// One tab.
pub struct Tab {
    devtools: Arc<DevTools>,
    session: String,
}

struct DevTools {
    wire: tokio::sync::Mutex<Wire>,
    errors: Mutex<Vec<(String, String)>>,
}

struct Wire {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    next_id: u64,
}

impl Browser {
    /// Starts one.
    ///
    /// # Panics
    /// When no browser is installed, or it does not start: a test that needs a browser never passes without one.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts one with further flags.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub async fn start_with(flags: &[&str]) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut command = Command::new(find());
        command.args(FLAGS).args(flags).arg(format!("--user-data-dir={}", profile.path().display())).arg("about:blank");
        let process = Process::spawn("browser", command);
        let line = process.wait_line("DevTools listening on ws://", START_PATIENCE);
        let url = line.split("DevTools listening on ").last().unwrap().trim();
        // Pictures are far larger than the default limit of one frame.
        let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        let (socket, _) = connect_async_with_config(url, Some(config), true).await.unwrap();
        let wire = tokio::sync::Mutex::new(Wire { socket, next_id: 1 });
        Self { devtools: Arc::new(DevTools { wire, errors: Mutex::default() }), process, _profile: profile }
    }

    /// Opens a page in a new tab; returns when it has loaded.
    pub async fn open(&self, url: &str) -> Tab {
        let tab = self.blank().await;
        tab.go(url).await;
        tab
    }

    async fn blank(&self) -> Tab {
        let target = self.devtools.call(None, "Target.createTarget", json!({ "url": "about:blank" })).await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = self.devtools.call(None, "Target.attachToTarget", attach).await["sessionId"].as_str().unwrap().to_owned();
        let tab = Tab { devtools: Arc::clone(&self.devtools), session };
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            tab.call(domain, json!({})).await;
        }
        tab
    }

    /// Ends the browser orderly, so that it leaves nothing in its profile's folder.
    pub async fn close(mut self) {
        self.devtools.call(None, "Browser.close", json!({})).await;
        self.process.wait_exit(START_PATIENCE);
    }
}

impl Tab {
    /// Goes to a page; returns when it has loaded.
    ///
    /// # Panics
    /// When the browser can't get there.
    pub async fn go(&self, url: &str) {
        let answer = self.call("Page.navigate", json!({ "url": url })).await;
        assert!(answer.get("errorText").is_none(), "can't open {url}: {answer}");
        let start = url.split('#').next().unwrap_or_default().get(..40).unwrap_or(url);
        let loaded = format!("location.href.startsWith({}) && document.readyState === 'complete'", Value::from(start));
        self.wait_until(&loaded, START_PATIENCE).await;
    }

    /// Evaluates an expression and gives back its value as JSON; waits for a promise.
    ///
    /// # Panics
    /// When it throws.
    pub async fn evaluate(&self, expression: &str) -> Value {
        self.try_evaluate(expression).await.unwrap_or_else(|why| panic!("{expression}: {why}"))
    }

    /// As [`Self::evaluate`], with what was thrown as a value.
    ///
    /// # Errors
    /// The exception, as DevTools describe it.
    pub async fn try_evaluate(&self, expression: &str) -> Result<Value, String> {
        let params = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true, "userGesture": true });
        let mut answer = self.call("Runtime.evaluate", params).await;
        match answer.get("exceptionDetails") {
            Some(details) => Err(details.to_string()),
            None => Ok(answer["result"].get_mut("value").map(Value::take).unwrap_or_default()),
        }
    }

    /// Waits until an expression is true; while it throws it counts as not true yet.
    ///
    /// # Panics
    /// When that does not come within `timeout`.
    pub async fn wait_until(&self, condition: &str, timeout: Duration) {
        let expression = format!("Boolean({condition})");
        eventually(condition, timeout, async || self.try_evaluate(&expression).await == Ok(Value::Bool(true))).await;
    }

    /// The visible text of the first element that matches.
    pub async fn text(&self, selector: &str) -> String {
        self.evaluate(&format!("document.querySelector({}).innerText", Value::from(selector))).await.as_str().unwrap_or_default().to_owned()
    }

    /// Fills a field as a person does: with the events that follow.
    pub async fn fill(&self, selector: &str, text: &str) {
        let (selector, text) = (Value::from(selector), Value::from(text));
        self.evaluate(&format!(
            "{{ const field = document.querySelector({selector}); field.focus(); field.value = {text}; \
             for (const event of ['input', 'change']) field.dispatchEvent(new Event(event, {{ bubbles: true }})); }}"
        ))
        .await;
    }

    /// Clicks the first element that matches.
    pub async fn click(&self, selector: &str) {
        self.evaluate(&format!("document.querySelector({}).click()", Value::from(selector))).await;
    }

    /// Saves a picture of what is visible, as PNG.
    ///
    /// # Panics
    /// When the file can't be written.
    pub async fn screenshot(&self, file: &Path) {
        // A tab in the background may never draw the frame that the picture waits for.
        self.call("Page.bringToFront", json!({})).await;
        let answer = self.call("Page.captureScreenshot", json!({ "format": "png" })).await;
        std::fs::write(file, base64(answer["data"].as_str().unwrap())).unwrap();
    }

    /// Exceptions and error logs of this tab so far.
    pub fn errors(&self) -> Vec<String> {
        let errors = self.devtools.errors.lock().unwrap_or_else(PoisonError::into_inner);
        errors.iter().filter(|(session, _)| *session == self.session).map(|(_, error)| error.clone()).collect()
    }

    /// Calls one DevTools method on this tab.
    pub async fn call(&self, method: &str, params: Value) -> Value {
        self.devtools.call(Some(&self.session), method, params).await
    }
}

impl DevTools {
    async fn call(&self, session: Option<&str>, method: &str, params: Value) -> Value {
        tokio::time::timeout(CALL_PATIENCE, self.exchange(session, method, params))
            .await
            .unwrap_or_else(|_| panic!("the browser did not answer {method} within {CALL_PATIENCE:?}"))
    }

    async fn exchange(&self, session: Option<&str>, method: &str, params: Value) -> Value {
        let mut wire = self.wire.lock().await;
        let id = wire.next_id;
        wire.next_id += 1;
        let mut request = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = session {
            request["sessionId"] = session.into();
        }
        wire.socket.send(Message::text(request.to_string())).await.unwrap();
        loop {
            let message = wire.socket.next().await.unwrap_or_else(|| panic!("the browser is gone during {method}")).unwrap();
            let Message::Text(text) = message else { continue };
            let mut frame: Value = serde_json::from_str(&text).unwrap();
            if frame["id"] == id {
                assert!(frame.get("error").is_none(), "{method}: {}", frame["error"]);
                return frame["result"].take();
            }
            self.note(&frame);
        }
    }

    fn note(&self, event: &Value) {
        let failed = match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Log.entryAdded") => event["params"]["entry"]["level"] == "error",
            _ => false,
        };
        if failed {
            let session = event["sessionId"].as_str().unwrap_or_default().to_owned();
            self.errors.lock().unwrap_or_else(PoisonError::into_inner).push((session, event["params"].to_string()));
        }
    }
}

fn find() -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    NAMES
        .iter()
        .flat_map(|name| env::split_paths(&path).map(move |folder| folder.join(name)))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("none of {NAMES:?} is installed; run the tests with scripts/test, which says what they need"))
}

/// Decodes standard base64; what is not in its alphabet is left out.
fn base64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for character in text.bytes() {
        let six = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => continue,
        };
        bits = bits << 6 | u32::from(six);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 0xff) as u8);
        }
    }
    bytes
}
