//! The PHP package's lists, served by several servers at once.

use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use crate::harness::app::App;
use crate::harness::client::Client;
use crate::harness::process::Process;
use crate::harness::{PATIENCE, eventually, php, plugin};

const ITEMS: usize = 10_000;
const CLIENTS: usize = 30;
const LISTS: [&str; 2] = ["queues:plugsocket_out", "queues:{plugsocket_out}"];

/// Has PHP push items to these addresses, by one list: two lists have no order between them.
fn push(app: &App, list: &str, items: usize, to: &[Value]) -> Process {
    php::start("faults/push.php", &app.redis, &[list, &items.to_string(), &json!(to).to_string()])
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_list_items_reach_each_their_connection_once_and_in_order() {
    let app = App::start(2, 0);
    let urls = app.urls();
    let mut clients = Vec::new();
    let mut addresses = [Vec::new(), Vec::new()];
    for index in 0..CLIENTS {
        let mut client = Client::connect(&urls[index % urls.len()]).await;
        let data = client.register(json!({"nickname": format!("php-{index}"), "user_id": index + 1})).await;
        // Some by their user, as a JSON number: so Laravel's ids come.
        let to = if index % 3 == 0 { json!({"user_id": index + 1}) } else { json!({"connection_id": data["connection_id"]}) };
        addresses[index / urls.len() % LISTS.len()].push(to);
        clients.push((client, index / urls.len() % LISTS.len(), addresses[index / urls.len() % LISTS.len()].len() - 1));
    }
    let started = Instant::now();
    let mut pushing: Vec<_> = LISTS.iter().zip(&addresses).map(|(list, to)| push(&app, list, ITEMS / LISTS.len(), to)).collect();
    for (client, list, index) in &mut clients {
        let count = (*index..ITEMS / LISTS.len()).step_by(addresses[*list].len()).count();
        for number in 0..count {
            assert_eq!(client.next_action("item").await, json!({"n": number, "url": "https://example.org/ä"}));
        }
    }
    println!(
        "{ITEMS} items of two PHP processes through two servers to {CLIENTS} connections: each once, in order, in {:.1?}",
        started.elapsed()
    );
    for php in &mut pushing {
        assert!(php.wait_exit(PATIENCE).success(), "{:?}", php.lines());
    }
    // A second copy would be on its way behind a message to everybody.
    for list in LISTS {
        app.redis.cli(&["RPUSH", list, r#"{"to":{"broadcast":true},"action":"end"}"#]);
    }
    for (client, ..) in &mut clients {
        for _ in LISTS {
            let end = client.next_where("the end", |frame| frame["action"] == "end" || frame["action"] == "item").await;
            assert_eq!(end["action"], "end", "nothing twice");
        }
    }
    for list in LISTS {
        let left = async || app.redis.cli(&["EXISTS", list, &format!("{list}:notify")]) == "0";
        eventually("lists that are gone, their `:notify` too", PATIENCE, left).await;
    }
    assert_eq!(app.redis.cli(&["EXISTS", "ps:{plugsocket}:php:dead"]), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_notify_list_that_grew_while_nobody_served_is_gone_with_the_items() {
    let app = App::start(1, 0);
    let mut client = Client::enter(&app.urls()[0], "seven").await;
    app.servers[0].signal("STOP");
    let mut php = push(&app, LISTS[0], 300, &[json!({"user_id": "seven"})]);
    assert!(php.wait_exit(PATIENCE).success(), "{:?}", php.lines());
    let notify = format!("{}:notify", LISTS[0]);
    let grown: u32 = app.redis.cli(&["LLEN", &notify]).parse().unwrap();
    assert!(grown >= 299, "{grown}: but for one item that was waited for already, nobody takes any");
    app.servers[0].signal("CONT");
    for number in 0..300 {
        assert_eq!(client.next_action("item").await["n"], number);
    }
    eventually("a list that is gone, its `:notify` too", PATIENCE, async || app.redis.cli(&["EXISTS", LISTS[0], &notify]) == "0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_readme_says_for_php_works() {
    let app = App::start(1, 0);
    let mut seven = Client::connect(&app.urls()[0]).await;
    seven.register(json!({"nickname": "seven", "user_id": 7})).await;
    let readme = std::fs::read_to_string(plugin::workspace().join("README.md")).unwrap();
    let line = readme.lines().find(|line| line.starts_with("php -r ")).expect("a line of PHP in the README");
    let address = format!("\"127.0.0.1\", {}", app.redis.port());
    let line = line.replace("\"127.0.0.1\"", &address);
    assert!(line.contains(&address), "{line}");
    let mut command = Command::new("sh");
    command.args(["-c", &line]);
    let mut php = Process::spawn("php", command);
    assert!(php.wait_exit(PATIENCE).success(), "{:?}", php.lines());
    let text: Value = seven.next_action("chat_text").await;
    assert_eq!(text, json!({"text": "hi"}));
}
