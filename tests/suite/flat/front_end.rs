//! A page that knows only the PHP package, in a real browser.

use std::process::Command;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::app;
use crate::harness::PATIENCE;
use crate::harness::browser::{Browser, Tab};
use crate::harness::process::Process;

const PAGE: &str = include_str!("page.html");
const BROWSER_PATIENCE: Duration = Duration::from_secs(20);

/// Serves the page until the test ends; answers its address.
async fn site() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = socket.read(&mut request).await;
                let head =
                    format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", PAGE.len());
                let _ = socket.write_all(format!("{head}{PAGE}").as_bytes()).await;
            });
        }
    });
    format!("http://{address}/")
}

async fn enter(browser: &Browser, page: &str, nickname: &str) -> Tab {
    let tab = browser.open(page).await;
    tab.wait_until("socket.readyState === WebSocket.OPEN", BROWSER_PATIENCE).await;
    tab.fill("#nickname", nickname).await;
    tab.click("#enter").await;
    let state = format!("document.querySelector('#state').textContent === 'Registration confirmed: {nickname} is user 8'");
    tab.wait_until(&state, BROWSER_PATIENCE).await;
    tab
}

async fn shows(tab: &Tab, text: &str) {
    let shown = format!("[...document.querySelectorAll('li')].some(item => item.textContent === {text:?})");
    tab.wait_until(&shown, BROWSER_PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_written_for_the_php_package_works_unchanged() {
    let app = app(1, 1);
    let page = format!("{}?socket={}", site().await, app.urls()[0]);
    let browser = Browser::start().await;
    let stranger = browser.open(&page).await;
    stranger.wait_until("socket.readyState === WebSocket.OPEN", BROWSER_PATIENCE).await;
    stranger.click("#enter").await;
    let (ada, bob) = (enter(&browser, &page, "ada").await, enter(&browser, &page, "bob").await);
    ada.fill("#text", "hello <b>bob</b>").await;
    ada.click("#say").await;
    for tab in [&ada, &bob] {
        shows(tab, "hello <b>bob</b>").await;
    }
    bob.click("#ask").await;
    shows(&bob, "answer 5").await;
    let script = format!(
        "$redis = new Redis; $redis->connect('127.0.0.1', {}); $redis->rPush('queues:plugsocket_out', json_encode([
            'to' => ['broadcast' => true], 'action' => 'chat_text', 'data' => ['text' => 'from PHP'], 'meta' => ['time' => time()]]));",
        app.redis.port()
    );
    let mut command = Command::new("php");
    command.args(["-r", &script]);
    let mut php = Process::spawn("php", command);
    assert!(php.wait_exit(PATIENCE).success(), "{:?}", php.lines());
    for tab in [&ada, &bob] {
        shows(tab, "from PHP").await;
        assert_eq!(tab.evaluate("document.querySelectorAll('li').length").await, if std::ptr::eq(tab, &ada) { 2 } else { 3 });
        assert_eq!(tab.errors(), Vec::<String>::new());
    }
    let open = "socket.readyState === WebSocket.OPEN && document.querySelector('#state').textContent === 'not registered'";
    assert_eq!(stranger.evaluate(open).await, true, "who is refused is told nothing and stays");
    browser.close().await;
}
