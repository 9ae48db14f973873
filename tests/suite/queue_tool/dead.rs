//! Dead letters: found, shown, put back in order, dropped.

use serde_json::json;

use super::*;
use crate::harness::client::Client;

async fn enter(app: &App, nickname: &str) -> (Client, String) {
    let mut client = Client::connect(&app.urls()[0]).await;
    let id = client.register(json!({ "nickname": nickname })).await["connection_id"].as_str().unwrap().to_owned();
    (client, id)
}

async fn fail(client: &mut Client, count: u64) {
    let mut asked = Vec::new();
    for n in 0..count {
        asked.push(client.send_request("work", json!({ "n": n })).await);
    }
    for id in &asked {
        assert_eq!(client.answer(id).await.unwrap_err()["code"], "failed");
    }
}

fn listed(app: &App, filter: &str) -> Vec<Value> {
    queue(&app.config, &format!("dead list --json {filter}")).ok().json()
}

#[tokio::test]
async fn dead_letters_are_found_put_back_in_order_and_dropped() {
    let app = app(1, 1, 4);
    close(&app, "fail");
    let ((mut ada, ada_id), (mut bob, bob_id)) = (enter(&app, "ada").await, enter(&app, "bob").await);
    fail(&mut ada, 20).await;
    fail(&mut bob, 5).await;
    totals_become(&app, 0, 0, 0, 25).await;
    app.redis.cli(&["XADD", "ps:{plugsocket:p1}:dead", "*", "x", "\u{1b}[2J"]);

    let of_ada = listed(&app, &format!("--connection {ada_id}"));
    assert_eq!(of_ada.iter().map(|letter| letter["data"]["n"].as_u64().unwrap()).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
    let letter = &of_ada[0];
    assert!(letter["reason"].as_str().unwrap().contains("the ledger is away"), "{letter}");
    assert_eq!((&letter["user_id"], &letter["action"], &letter["attempts"]), (&json!("ada"), &json!("work"), &json!(1)));
    assert!(letter["time_ms"].is_u64() && letter["accepted_ms"].is_u64() && letter["message_id"].is_string(), "{letter}");
    assert_eq!(letter["version"].as_str().map(str::is_empty), Some(false), "{letter}");
    let partition = letter["partition"].as_u64().unwrap();
    for (filter, count) in [
        ("", 26),
        ("--user bob", 5),
        ("--user nobody", 0),
        ("--action work", 25),
        ("--action other", 0),
        ("--reason ledger", 25),
        ("--reason elsewhere", 0),
        ("--newer 1h", 26),
        ("--older 1h", 0),
        ("--user ada --older 0s", 20),
        ("--limit 7", 7),
    ] {
        assert_eq!(listed(&app, filter).len(), count, "{filter}");
    }
    assert!(listed(&app, &format!("--partition {partition}")).iter().all(|letter| letter["partition"] == partition));
    queue(&app.config, "dead list --limit 7").ok().says("there are more: --limit 70");
    let all = queue(&app.config, "dead list").ok().says(&bob_id).says("the ledger is away");
    assert!(all.lines.iter().all(|line| !line.contains('\u{1b}')), "what a terminal obeys is not passed on");

    let id = letter["id"].as_str().unwrap();
    let shown = queue(&app.config, &format!("dead show {id}")).ok().says("the ledger is away").says(r#""n": 0"#);
    assert!(shown.lines.iter().any(|line| line.starts_with("attempts") && line.ends_with(" 1")), "{:#?}", shown.lines);
    assert_eq!(&queue(&app.config, &format!("dead show {id} --json")).ok().json()[0], letter);
    queue(&app.config, "dead show 0/1-1").code_is(1).says("there is no dead letter 0/1-1");

    queue(&app.config, "dead replay --all --dry-run").ok().says("would replay 25 dead letters; 1 are no jobs and stay");
    queue(&app.config, "dead drop --user bob --dry-run").ok().says("would drop 5 dead letters");
    queue(&app.config, "dead replay --all").code_is(2).says("add --yes");
    totals_become(&app, 0, 0, 0, 26).await;

    queue(&app.config, &format!("dead replay {id} --yes")).ok().says("replayed 1");
    totals_become(&app, 0, 0, 0, 26).await;
    let again = listed(&app, "--user ada");
    assert_eq!((&again[19]["data"]["n"], &again[19]["attempts"]), (&json!(0), &json!(1)), "it ran, and died again");
    queue(&app.config, &format!("dead replay {id} --yes")).code_is(1).says("1 of 1 were not replayed");
    let last = again[19]["id"].as_str().unwrap();
    queue(&app.config, &format!("dead drop {last} 0/1-1 --yes")).code_is(1).says("dropped 1").says("1 of 2 were not dropped");

    open(&app, "fail");
    queue(&app.config, "dead replay --user ada --limit 4 --yes").ok().says("replayed 4");
    queue(&app.config, "dead replay --all --yes").ok().says("replayed 20; 1 are no jobs and stay");
    totals_become(&app, 0, 0, 0, 1).await;
    assert_eq!(numbers(&app, &ada_id), (1..20).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(numbers(&app, &bob_id), (0..5).map(|n| n.to_string()).collect::<Vec<_>>());
    assert!(done(&app).iter().all(|line| line[2] == "1"), "attempts count anew");

    let garbage = &listed(&app, "")[0];
    assert!(garbage["problem"].as_str().unwrap().contains("missing") && garbage["fields"]["x"].is_string(), "{garbage}");
    let id = garbage["id"].as_str().unwrap();
    queue(&app.config, &format!("dead show {id}")).ok().says("no job");
    queue(&app.config, "dead replay --all --yes").ok().says("nothing to replay: 1 are no jobs and stay");
    queue(&app.config, &format!("dead replay {id} --yes")).code_is(1).says("1 of 1 were not replayed");
    queue(&app.config, "dead drop --all --yes").ok().says("dropped 1");
    queue(&app.config, "dead drop --all --yes").ok().says("nothing to drop");
    assert!(listed(&app, "").is_empty());
}

#[tokio::test]
async fn what_is_put_back_starts_anew() {
    let app = app(1, 0, 4);
    let (_ada, session) = enter(&app, "ada").await;
    let meta = json!({"session": session, "ip": "192.0.2.1", "attempts": 3, "unserved": 60}).to_string();
    let job = ["c", &session, "u", "ada", "a", "newcomer", "s", "1", "t", "1700000000000", "i", "", "m", &meta, "d", "[1]"];
    let end = ["reason", "nobody served it", "attempts", "3", "version", ""];
    app.redis.cli(&[&["XADD", "ps:{plugsocket:p0}:dead", "*"][..], &job, &end].concat());
    queue(&app.config, "dead replay --action newcomer --yes").ok().says("replayed 1");
    totals_become(&app, 1, 0, 0, 0).await;
    let jobs = queue(&app.config, "peek --json").ok().json();
    assert_eq!((&jobs[0]["attempts"], &jobs[0]["data"], &jobs[0]["accepted_ms"]), (&json!(0), &json!([1]), &json!(1_700_000_000_000_u64)));
    let partition = &jobs[0]["partition"];
    let stored = app.redis.cli(&["XRANGE", &format!("ps:{{plugsocket:p{partition}}}:in"), "-", "+"]);
    assert!(stored.contains(&session) && !stored.contains("unserved") && !stored.contains("reason"), "{stored}");
}
