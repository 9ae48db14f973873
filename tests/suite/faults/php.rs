//! The PHP package's lists, served by several servers at once.

use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use crate::harness::app::App;
use crate::harness::client::Client;
use crate::harness::process::Process;
use crate::harness::{PATIENCE, eventually, plugin};

const ITEMS: usize = 10_000;
const CLIENTS: usize = 30;
/// Items pushed by one command.
const PUSHED: usize = 250;
/// What modern Laravel does for each push, in one step as there.
const LARAVEL_PUSH: &str = "for _, item in ipairs(ARGV) do redis.call('rpush', KEYS[1], item) redis.call('rpush', KEYS[2], 1) end";
const LISTS: [&str; 2] = ["queues:plugsocket_out", "queues:{plugsocket_out}"];

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_list_items_reach_each_their_connection_once_and_in_order() {
    let app = App::start(3, 0);
    let urls = app.urls();
    let mut clients = Vec::new();
    let mut addresses = Vec::new();
    for index in 0..CLIENTS {
        let mut client = Client::connect(&urls[index % urls.len()]).await;
        let data = client.register(json!({"nickname": format!("php-{index}"), "user_id": index + 1})).await;
        // Every other one by its user, as a JSON number: so Laravel's ids come.
        addresses.push(if index % 2 == 0 { json!({"user_id": index + 1}) } else { json!({"connection_id": data["connection_id"]}) });
        clients.push(client);
    }
    let started = Instant::now();
    let mut numbers = [0; CLIENTS];
    for (turn, chunk) in (0..ITEMS).collect::<Vec<_>>().chunks(PUSHED).enumerate() {
        // A connection's items all go by one list: two lists have no order between them.
        let list = LISTS[turn % LISTS.len()];
        let mut command: Vec<String> = ["EVAL", LARAVEL_PUSH, "2", list, &format!("{list}:notify")].map(ToOwned::to_owned).into();
        for item in chunk {
            let index = (item % (CLIENTS / LISTS.len())) * LISTS.len() + turn % LISTS.len();
            let data = json!({"n": numbers[index]});
            numbers[index] += 1;
            command.push(json!({"to": addresses[index], "action": "item", "data": data, "meta": {"time": 1}}).to_string());
        }
        app.redis.cli(&command.iter().map(String::as_str).collect::<Vec<_>>());
    }
    for (client, count) in clients.iter_mut().zip(numbers) {
        for number in 0..count {
            assert_eq!(client.next_action("item").await["n"], number);
        }
    }
    println!("{ITEMS} PHP list items through three servers to {CLIENTS} connections: each once, in order, in {:.1?}", started.elapsed());
    // A second copy would be on its way behind a message to everybody.
    app.redis.cli(&["RPUSH", LISTS[0], r#"{"to":{"broadcast":true},"action":"end"}"#]);
    for client in &mut clients {
        let end = client.next_where("the end", |frame| frame["action"] == "end" || frame["action"] == "item").await;
        assert_eq!(end["action"], "end", "nothing twice");
    }
    for list in LISTS {
        let left = async || app.redis.cli(&["EXISTS", list, &format!("{list}:notify")]) == "0";
        eventually("lists that are gone, their `:notify` too", PATIENCE, left).await;
    }
    assert_eq!(app.redis.cli(&["EXISTS", "ps:{plugsocket}:php:dead"]), "0");
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
