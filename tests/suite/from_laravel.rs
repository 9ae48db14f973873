//! Promise: who follows docs/from-laravel.md from top to bottom gets there. Every block of it is tried, in its order.

mod blocks;
mod place;
mod shown;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::client::Client;
use crate::harness::{START_PATIENCE, plugin};
use blocks::{Block, blocks};
use place::Place;
use shown::is_as_shown;

/// Somebody who follows the guide.
struct Reader {
    place: Place,
    /// The token of a client, which PHP has made.
    token: String,
    /// The front end that was there before, and the new one.
    clients: [Option<Client>; 2],
    connection_id: String,
    /// What the last PHP printed.
    printed: String,
}

const OLD: usize = 0;
const NEW: usize = 1;

impl Reader {
    /// Does what a block says.
    async fn follow(&mut self, block: &Block) {
        let text = block.text.as_str();
        match (block.language.as_str(), block.purpose.as_str()) {
            ("text", "") => {}
            ("sh", "app" | "clone") => self.place.run(&block.purpose, text),
            ("toml", "imported") => self.place.is_imported(text),
            ("toml", "added") => self.place.edit(|config| config.replacen("\n[php]\n", &format!("\n{text}\n[php]\n"), 1)),
            ("toml", "moved") => self.place.move_actions(text),
            ("rust", "plugin") => self.place.write_plugin(text),
            ("rust", "adds") => self.place.add_to_plugin(text),
            ("php", "config") => self.place.put_php("config/websocket.php", text),
            ("php", "handler") => self.place.put_php("app/ChatHandler.php", text),
            ("php", "action") => {
                self.place.put_php("app/ChatText.php", text);
                self.place.start_php_worker("app/ChatText.php");
            }
            ("php", "token") => self.place.put_php("token.php", text),
            ("php", "send") => self.printed = self.place.run_php(text, None),
            ("php", "standalone") => {
                let load = "require getcwd() . '/vendor/autoload.php';\n";
                self.place.load_client();
                self.printed = self.place.run_php(&format!("{load}{text}"), None);
            }
            ("php", "client" | "ask") => self.printed = self.place.run_php(text, Some(&self.connection_id)),
            ("php", "laravel") => self.place.put_php("config/broadcasting.php", text),
            ("json", "from-client") => self.say(OLD, text).await,
            ("json", "from-new-client") => self.say(NEW, text).await,
            ("json", "to-client") => self.hear(OLD, text).await,
            ("json", "to-new-client") => self.hear(NEW, text).await,
            ("json", "in-list") => {
                let waiting = self.place.first_in("queues:chat_in").await;
                self.compare(text, &waiting);
            }
            ("json", "printed") => self.compare(text, &serde_json::from_str(&self.printed).unwrap()),
            (language, purpose) => panic!("nothing here knows how to try a block of `{language} {purpose}`"),
        }
    }

    async fn say(&mut self, who: usize, frame: &str) {
        if self.token.is_empty() {
            let script = "require 'token.php'; echo websocket_token(trim(file_get_contents('../plugsocket/config/token.key')), 7, 'Ada');";
            self.token = self.place.php(&["-r", script]);
            let script = "[, $claims] = explode('.', $argv[1]); echo json_decode(base64_decode(strtr($claims, '-_', '+/')))->exp - time();";
            let seconds: i64 = self.place.php(&["-r", script, "--", &self.token]).parse().unwrap();
            assert!(seconds > 8 * 3600, "the server closes after {seconds} s, and an unchanged front end has no other token");
        }
        let client = match &mut self.clients[who] {
            Some(client) => client,
            absent => absent.insert(Client::connect(&self.place.server_url(who)).await),
        };
        client.send_raw(Message::text(frame.trim().replace("\"token\": \"…\"", &format!("\"token\": \"{}\"", self.token)))).await;
    }

    async fn hear(&mut self, who: usize, frame: &str) {
        let client = self.clients[who].as_mut().expect("a client that has said something");
        let real = client.next_where("any frame", |_| true).await;
        self.compare(frame, &real);
        if let (OLD, Some(id)) = (who, real["connection_id"].as_str()) {
            self.connection_id = id.to_owned();
        }
    }

    fn compare(&self, shown: &str, real: &Value) {
        let shown: Value = serde_json::from_str(shown).expect("JSON");
        assert!(is_as_shown(&shown, real), "the guide shows {shown}\nand it is {real}");
    }
}

fn guide() -> Vec<Block> {
    blocks(&std::fs::read_to_string(plugin::workspace().join("docs/from-laravel.md")).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guide_is_followed_from_top_to_bottom() {
    let mut reader =
        Reader { place: Place::new(), token: String::new(), clients: [None, None], connection_id: String::new(), printed: String::new() };
    let guide = guide();
    assert!(guide.len() > 40, "{} blocks", guide.len());
    for block in &guide {
        println!("docs/from-laravel.md:{}: {} {}", block.line, block.language, block.purpose);
        reader.follow(block).await;
    }
}

#[test]
fn what_the_guide_shows_of_toml_is_a_config() {
    for block in guide().iter().filter(|block| block.language == "toml") {
        let name = format!("docs/from-laravel.md:{}", block.line);
        if let Err(error) = plugsocket::config::check_text(name.as_ref(), &block.text) {
            panic!("{error}");
        }
    }
}

#[test]
fn what_the_guide_shows_of_php_is_php() {
    let dir = tempfile::tempdir().unwrap();
    for block in guide().iter().filter(|block| block.language == "php") {
        let file = dir.path().join("block.php");
        std::fs::write(&file, place::as_php(&block.text)).unwrap();
        let mut command = std::process::Command::new("php");
        command.arg("-l").arg(&file);
        let mut php = crate::harness::process::Process::spawn("php", command);
        assert!(php.wait_exit(START_PATIENCE).success(), "line {}: {:?}", block.line, php.lines());
    }
}

#[test]
fn the_links_of_the_guide_lead_somewhere() {
    let docs = plugin::workspace().join("docs");
    let text = std::fs::read_to_string(docs.join("from-laravel.md")).unwrap();
    let anchors = |text: &str| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix('#').map(|rest| rest.trim_start_matches('#').trim()));
        let letters = |title: &str| {
            title.to_lowercase().replace(' ', "-").chars().filter(|letter| letter.is_alphanumeric() || "-_".contains(*letter)).collect()
        };
        lines.map(letters).collect()
    };
    let links = text.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(link, _)| link));
    let mut count = 0;
    for link in links.filter(|link| !link.contains("://")) {
        let (file, anchor) = link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor.to_owned())));
        let target = if file.is_empty() {
            text.clone()
        } else {
            std::fs::read_to_string(docs.join(file)).unwrap_or_else(|error| panic!("{link}: {error}"))
        };
        assert!(anchor.is_none_or(|anchor| anchors(&target).contains(&anchor)), "{link} leads nowhere");
        count += 1;
    }
    assert!(count > 20, "{count}");
}

#[test]
fn what_is_read_by_people_names_the_guide() {
    for file in ["README.md", "docs/configuration.md", "config/plugsocket.toml"] {
        let text = std::fs::read_to_string(plugin::workspace().join(file)).unwrap();
        assert!(text.contains("from-laravel.md"), "{file}");
    }
    assert_eq!(json!(guide().iter().filter(|block| block.language == "text").count()), 3, "pictures");
}
