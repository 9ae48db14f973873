//! Promise: `plugsocket dev` and a browser are all it takes: two tabs chat, a slow report delays nobody, a new build goes live under them.

use std::time::Duration;

use serde_json::json;

use crate::harness::browser::{Browser, Tab};
use crate::harness::client::Client;
use crate::harness::config::Config;
use crate::harness::plugin;
use crate::harness::process::Process;
use crate::harness::{eventually, http, procfs};
use crate::runners;

const PATIENCE: Duration = Duration::from_secs(20);
const ONLINE: &str = "document.querySelector('#status').dataset.state === 'online' && !document.querySelector('#send').disabled";

async fn enter(browser: &Browser, url: &str, nickname: &str) -> Tab {
    let tab = browser.open(url).await;
    tab.wait_until("document.querySelector('#nickname') !== null", PATIENCE).await;
    tab.fill("#nickname", nickname).await;
    tab.click("#enter").await;
    tab.wait_until(ONLINE, PATIENCE).await;
    tab
}

async fn say(tab: &Tab, text: &str) {
    tab.fill("#text", text).await;
    tab.click("#send").await;
}

async fn wait_for(tab: &Tab, text: &str) {
    tab.wait_until(&format!("document.querySelector('#messages').innerText.includes({text:?})"), PATIENCE).await;
}

#[tokio::test]
async fn two_tabs_chat() {
    let config = Config::chat("memory");
    plugin::install(&plugin::chat(), &config.plugins_dir(), "chat");
    let dev = Process::dev(&config);
    let url = dev.page_url();
    let browser = Browser::start().await;
    let ada = enter(&browser, &url, "ada").await;
    say(&ada, "before bob").await;
    wait_for(&ada, "before bob").await;
    let bob = enter(&browser, &url, "bob").await;
    wait_for(&bob, "before bob").await; // history
    say(&bob, "hello ada <b>not bold</b>").await;
    wait_for(&ada, "hello ada <b>not bold</b>").await;

    ada.click("#report").await;
    ada.wait_until("document.querySelector('#report-progress').value > 0", PATIENCE).await;
    say(&bob, "meanwhile").await;
    wait_for(&ada, "meanwhile").await;

    plugin::install(&plugin::chat_tagged("two"), &config.plugins_dir(), "chat");
    let mut client = Client::enter(&dev.ws_url(), "watcher").await;
    eventually("the new build", PATIENCE, async || client.request("echo", json!(1)).await["version"] == "two").await;
    ada.wait_until(
        "document.querySelector('#report-progress').hidden || document.querySelector('#report-progress').value >= 100",
        PATIENCE,
    )
    .await;
    say(&bob, "after the new build").await;
    wait_for(&ada, "after the new build").await;

    let send = format!("{}v1/send", dev.ops_url());
    for text in ["from a script", "and once more"] {
        let data = json!({"room": "lobby", "nickname": "server", "text": text});
        let answer = http::post_json(&send, &json!({"to": {"user_id": "ada"}, "action": "chat_text", "data": data}), &[]);
        assert_eq!(answer.status, 202);
        wait_for(&ada, text).await;
    }
    assert_eq!(ada.evaluate("document.body.innerText.includes('Invalid')").await, false);
    for tab in [&ada, &bob] {
        assert_eq!(tab.evaluate("document.querySelector('#status').dataset.state").await, "online");
        assert_eq!(tab.errors(), Vec::<String>::new());
    }
    browser.close().await;
}

/// What a tab shows of who is here, one name after another.
async fn here(tab: &Tab, names: &str) {
    let shown = "[...document.querySelectorAll('#members button')].map(it => it.textContent).join(', ')";
    tab.wait_until(&format!("{shown} === {names:?}"), PATIENCE).await;
}

async fn shows(tab: &Tab, selector: &str, text: &str) {
    tab.wait_until(&format!("document.querySelector({selector:?}).innerText === {text:?}"), PATIENCE).await;
}

/// From now on whatever the page says of who is typing goes into `window.typingSeen`: a notice lapses, and a slow machine may look too late.
const WATCH_TYPING: &str = "window.typingSeen = []; new MutationObserver(() => window.typingSeen.push(document.querySelector('#typing').textContent)) \
    .observe(document.querySelector('#typing'), { childList: true })";

async fn rename(tab: &Tab, nickname: &str) {
    tab.click("#members .own").await;
    tab.wait_until("document.querySelector('#rename-dialog').open", PATIENCE).await;
    tab.fill("#new-nickname", nickname).await;
    tab.click("#rename-go").await;
}

#[tokio::test]
async fn tabs_show_who_is_here_and_typing_and_write_privately_under_changing_names() {
    let config = Config::chat("memory");
    plugin::install(&plugin::chat(), &config.plugins_dir(), "chat");
    let dev = Process::dev(&config);
    let url = dev.page_url();
    let browser = Browser::start().await;
    let (ada, bob) = (enter(&browser, &url, "ada").await, enter(&browser, &url, "bob").await);
    let cleo = enter(&browser, &url, "cleo").await;
    here(&ada, "ada (you), bob, cleo").await;
    here(&bob, "bob (you), ada, cleo").await;
    bob.evaluate("members.clear(), showMembers()").await;
    bob.click("#who").await; // asks `members`
    here(&bob, "bob (you), ada, cleo").await;

    bob.evaluate(WATCH_TYPING).await;
    ada.fill("#text", "a secr").await;
    bob.wait_until("window.typingSeen.includes('ada is typing …')", PATIENCE).await;
    shows(&bob, "#typing", "").await; // lapses by itself
    assert_eq!(ada.text("#typing").await, "", "one is not told of oneself");

    ada.click("#members [title='Write to bob privately']").await;
    shows(&ada, "#private-to", "Privately to bob").await;
    say(&ada, "a secret <i>").await;
    bob.wait_until("document.querySelector('.message.private .body')?.textContent === 'a secret <i>'", PATIENCE).await;
    ada.wait_until("document.querySelector('.message.private.mine:not(.pending)') !== null", PATIENCE).await;
    bob.click(".message.private .link").await; // Reply
    say(&bob, "and the answer").await;
    wait_for(&ada, "and the answer").await;

    rename(&ada, " <b> ").await;
    ada.wait_until("document.querySelector('#rename-error').innerText.includes(\"not '<'\")", PATIENCE).await;
    ada.click("#rename-cancel").await;
    rename(&ada, "Eve").await;
    for tab in [&bob, &cleo] {
        wait_for(tab, "ada is now called Eve.").await;
    }
    here(&ada, "Eve (you), bob, cleo").await;
    here(&bob, "bob (you), cleo, Eve").await;
    shows(&bob, "#private-to", "Privately to Eve").await;

    // Lost and back: under the newest name, and still the same user.
    ada.evaluate("connection.lost(1006, 'the test says so')").await;
    wait_for(&bob, "Eve left (client).").await;
    ada.wait_until(ONLINE, PATIENCE).await;
    here(&bob, "bob (you), cleo, Eve").await;
    say(&bob, "still you").await;
    wait_for(&ada, "still you").await;
    ada.click("#private-end").await;
    say(&ada, "said to all").await;
    wait_for(&cleo, "said to all").await;

    let secrets = cleo.evaluate("/secret|answer|still you/.test(document.body.innerText)").await;
    assert_eq!(secrets, false, "what is private reached a third");
    for tab in [&ada, &bob, &cleo] {
        assert_eq!(tab.errors(), Vec::<String>::new());
    }
    browser.close().await;
}

/// From now on every state that the page shows goes into `window.states`.
const WATCH_STATUS: &str = "window.states = [document.querySelector('#status').dataset.state]; \
    new MutationObserver(() => window.states.push(document.querySelector('#status').dataset.state)) \
    .observe(document.querySelector('#status'), { attributes: true, attributeFilter: ['data-state'] })";

#[tokio::test]
async fn two_tabs_stay_connected_while_the_plugin_is_replaced_and_its_runners_are_killed() {
    // A build is good from its first moment on: on probation the third kill would have it rolled back, and its other runner ended.
    let config = Config::chat("memory").with("probation.time", "0s").with("probation.calls", 0);
    plugin::install(&plugin::chat(), &config.plugins_dir(), "chat");
    let dev = Process::dev(&config);
    let url = dev.page_url();
    let browser = Browser::start().await;
    let (ada, bob) = (enter(&browser, &url, "ada").await, enter(&browser, &url, "bob").await);
    for tab in [&ada, &bob] {
        tab.evaluate(WATCH_STATUS).await;
    }
    let chat = async |text: &str| {
        say(&ada, text).await;
        wait_for(&bob, text).await;
        say(&bob, &format!("{text}, yes")).await;
        wait_for(&ada, &format!("{text}, yes")).await;
    };
    chat("at first").await;
    let before = procfs::runners(dev.pid(), "chat");
    assert_eq!(before.len(), 2, "the handler's and the actions'");
    let mut client = Client::enter(&dev.ws_url(), "watcher").await;
    for tag in ["one", "two"] {
        plugin::install(&plugin::chat_tagged(tag), &config.plugins_dir(), "chat");
        eventually("the new build", PATIENCE, async || client.request("echo", json!(1)).await["version"] == tag).await;
        chat(&format!("with build {tag}")).await;
    }
    for round in 0..2 {
        for runner in procfs::runners(dev.pid(), "chat") {
            runners::kill(runner);
        }
        chat(&format!("after kill {round}")).await;
    }
    assert!(procfs::runners(dev.pid(), "chat").iter().all(|runner| !before.contains(runner)));
    for tab in [&ada, &bob] {
        assert_eq!(tab.evaluate("window.states").await, json!(["online"]), "the connection was lost in between");
        assert_eq!(tab.errors(), Vec::<String>::new());
    }
    browser.close().await;
}

#[tokio::test]
async fn the_page_chats_over_tls() {
    let config = Config::chat("memory");
    plugin::install(&plugin::chat(), &config.plugins_dir(), "chat");
    let dev = Process::tool(&["dev", "--tls", "--config", config.path()]);
    let url = dev.page_url();
    assert!(dev.lines().iter().any(|line| line.contains("once and accept it")), "what to do in a browser is said");
    let stranger = Browser::start().await;
    let tab = stranger.open(&url).await;
    let refused = format!(
        "new Promise(done => {{ const socket = new WebSocket({:?}); socket.onerror = () => done('refused'); socket.onopen = () => done('open'); }})",
        dev.wss_url()
    );
    assert_eq!(tab.evaluate(&refused).await, "refused", "nobody knows the certificate yet");
    stranger.close().await;
    let browser = Browser::start_with(&["--ignore-certificate-errors"]).await;
    let (ada, bob) = (enter(&browser, &url, "ada").await, enter(&browser, &url, "bob").await);
    say(&ada, "over tls").await;
    wait_for(&bob, "over tls").await;
    for tab in [&ada, &bob] {
        assert_eq!(tab.errors(), Vec::<String>::new());
    }
    let address = dev.wss_url().replace("wss://", "https://");
    let tab = browser.open(&address).await;
    assert!(tab.text("body").await.contains("this is a WebSocket server"), "where a person accepts the certificate");
    browser.close().await;
    let key = config.state_dir().join("dev-tls.key");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(key).unwrap().permissions()) & 0o777, 0o600);
}
