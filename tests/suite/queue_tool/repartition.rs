//! Another number of partitions: refused while anything lives, and nothing is lost by it.

use serde_json::json;

use super::*;
use crate::harness::client::Client;
use crate::harness::http;

const CONNECTIONS: u64 = 6;
const EACH: u64 = 4;
const MANY: u64 = 12_000;
const SESSIONS: u64 = 16;

/// Makes dead letters and jobs for the day after tomorrow: number, session in turn, in 8 partitions.
const FILL: &str = "
for n = 0, tonumber(ARGV[1]) - 1 do
  local session = string.format('%012d.%024d', 1, n % tonumber(ARGV[2]))
  local meta = cjson.encode({session = session})
  local key = 'ps:{plugsocket:p' .. n % 8 .. '}'
  redis.call('XADD', key .. ':dead', '*', 'c', session, 'u', '', 'a', 'work', 's', n, 't', 1, 'i', '', 'm', meta, 'd', n, 'reason', 'x')
  if n % 4 == 0 then redis.call('ZADD', key .. ':later', 4000000000000, cjson.encode({session, '', 'work', tostring(n), '1', '', meta, tostring(n)})) end
end";

fn keys(app: &App, pattern: &str) -> Vec<String> {
    let mut keys: Vec<_> = app.redis.cli(&["KEYS", pattern]).lines().filter(|key| !key.is_empty()).map(ToOwned::to_owned).collect();
    keys.sort();
    keys
}

/// Stops the only server. One that ends right after its start may leave its lease to end by itself.
async fn stop_server(app: &mut App) {
    app.servers[0].terminate(PATIENCE);
    eventually("no server's lease", PATIENCE, async || status(app)["servers"] == json!([])).await;
}

#[tokio::test]
async fn a_drained_queue_gets_another_number_of_partitions() {
    let mut app = app(1, 0, 8);
    close(&app, "fail");
    let url = app.urls().remove(0);
    let (mut clients, mut ids) = (Vec::new(), Vec::new());
    for number in 0..CONNECTIONS {
        let mut client = Client::connect(&url).await;
        let id = client.register(json!({ "nickname": format!("n{number}") })).await["connection_id"].as_str().unwrap().to_owned();
        client.send_request("soon", json!({"n": 100})).await;
        for n in 0..EACH {
            client.send_request("work", json!({ "n": n })).await;
        }
        clients.push(client);
        ids.push(id);
    }
    totals_become(&app, CONNECTIONS * (EACH + 1), 0, 0, 0).await;
    queue(&app.config, "repartition 8").ok().says("the queue has 8 partitions already");
    stop_server(&mut app).await;
    queue(&app.config, "repartition 4").code_is(1).says("30 jobs are not done");
    app.workers.push(Process::worker(&app.config));
    totals_become(&app, 0, 0, CONNECTIONS, CONNECTIONS * EACH).await;
    queue(&app.config, "repartition 4").code_is(1).says("servers running: 0, workers running: 1");
    app.workers[0].terminate(PATIENCE);
    app.redis.cli(&["HSET", "ps:{plugsocket:p1}:suspects", "1-1", "2"]);
    assert!(!keys(&app, "ps:{plugsocket:p*:in").is_empty(), "streams with groups from before");

    queue(&app.config, "repartition 4")
        .ok()
        .says("8 partitions became 4; moved")
        .says("24 dead letters")
        .says("queue_options.partitions = 4");
    for gone in ["ps:{plugsocket:p*:in", "ps:{plugsocket:p*:suspects", "ps:{plugsocket}:owners", "ps:{plugsocket:p[4-9]*", "*:dead:new"] {
        assert_eq!(keys(&app, gone), Vec::<String>::new(), "{gone}");
    }
    assert_eq!(app.redis.cli(&["HEXISTS", "ps:{plugsocket}:cfg", "repartition"]), "0");
    let now = status(&app);
    assert_eq!(now["partitions"].as_array().unwrap().len(), 4);
    totals_become(&app, 0, 0, CONNECTIONS, CONNECTIONS * EACH).await;
    for id in &ids {
        let letters = queue(&app.config, &format!("dead list --json --connection {id}")).ok().json();
        let of = |name: &str| letters.iter().map(|letter| letter[name].clone()).collect::<Vec<_>>();
        assert_eq!(letters.iter().map(|letter| letter["data"]["n"].clone()).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert!(of("partition").windows(2).all(|two| two[0] == two[1]), "{letters:?}");
    }

    // Servers and workers still have 8 in their config; Redis says how many there are.
    app.servers[0] = Process::server(&app.config);
    app.workers[0] = Process::worker(&app.config);
    app.servers[0].ws_url();
    app.workers[0].wait_worker_ready();
    queue(&app.config, "repartition 8").code_is(1).says("servers running: 1");
    open(&app, "fail");
    for partition in 0..4 {
        let key = format!("ps:{{plugsocket:p{partition}}}:later");
        let due = "for _, job in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do redis.call('ZADD', KEYS[1], 'XX', 1, job) end";
        app.redis.cli(&["EVAL", due, "1", &key]);
    }
    totals_become(&app, 0, 0, 0, CONNECTIONS * EACH).await;
    queue(&app.config, "dead replay --all --yes").ok().says("replayed 24");
    totals_become(&app, 0, 0, 0, 0).await;
    for id in &ids {
        assert_eq!(numbers(&app, id), ["100", "0", "1", "2", "3"]);
    }
    let mut client = Client::enter(&app.servers[0].ws_url(), "late").await;
    assert_eq!(client.request("work", json!({"n": 1})).await["n"], 1);
}

#[tokio::test]
async fn an_interrupted_repartition_keeps_servers_waiting_until_it_is_run_again() {
    let mut app = app(1, 0, 4);
    stop_server(&mut app).await;
    app.redis.cli(&["HSET", "ps:{plugsocket}:cfg", "repartition", "2"]);
    // It was interrupted with one half of its dead letters gathered.
    app.redis.cli(&["XADD", "ps:{plugsocket:p0}:dead:new", "5-0", "x", "first"]);
    app.redis.cli(&["XADD", "ps:{plugsocket:p2}:dead", "7-0", "x", "second"]);
    queue(&app.config, "status").ok().says("unfinished: plugsocket queue repartition 2");
    app.servers[0] = Process::server(&app.config);
    let ready = format!("{}readyz", app.servers[0].ops_url());
    let waits = || {
        let answer = http::get(&ready);
        answer.status == 503 && answer.body.contains("run again") && answer.body.contains("plugsocket queue repartition 2")
    };
    eventually("a server that waits and says why", PATIENCE, async || waits()).await;
    queue(&app.config, "repartition 3").code_is(1).says("plugsocket queue repartition 2");
    queue(&app.config, "repartition 2").ok().says("4 partitions became 2");
    eventually("a server that is ready", PATIENCE, async || http::get(&ready).status == 200).await;
    let now = status(&app);
    assert_eq!((now["partitions"].as_array().unwrap().len(), &now["totals"]["dead"], now.get("repartition")), (2, &json!(2), None));
    let letters = queue(&app.config, "dead list --json --partition 0").ok().json();
    assert_eq!(letters.iter().map(|letter| letter["fields"]["x"].clone()).collect::<Vec<_>>(), ["first", "second"]);
    let mut client = Client::enter(&app.servers[0].ws_url(), "late").await;
    client.send_request("work", json!({"n": 1})).await;
    totals_become(&app, 1, 0, 0, 2).await;
}

#[tokio::test]
async fn a_repartition_that_is_killed_loses_nothing_and_goes_on() {
    let mut app = app(1, 0, 8);
    stop_server(&mut app).await;
    app.redis.cli(&["EVAL", FILL, "0", &MANY.to_string(), &SESSIONS.to_string()]);
    let times = |app: &App| {
        let letters = queue(&app.config, "dead list --json --limit 100000").ok().json();
        let facts = letters.iter().map(|letter| (letter["data"].as_u64().unwrap(), letter["time_ms"].as_u64().unwrap()));
        let mut facts: Vec<_> = facts.collect();
        facts.sort_unstable();
        facts
    };
    let before = times(&app);
    assert_eq!(before.len() as u64, MANY);
    let mut tool = Process::tool(&["queue", "repartition", "3", "--config", app.config.path()]);
    eventually("dead letters on their way", PATIENCE, async || !keys(&app, "*:dead:new").is_empty()).await;
    tool.kill();
    assert_eq!(app.redis.cli(&["HGET", "ps:{plugsocket}:cfg", "repartition"]), "3", "it was killed on the way");
    queue(&app.config, "dead replay --all --yes").code_is(1).says("end the repartition"); // Jobs would go where nobody looks for them.
    queue(&app.config, "repartition 3").ok().says("8 partitions became 3");
    totals_become(&app, 0, 0, MANY / 4, MANY).await;
    assert_eq!(times(&app), before, "each once, with the time of its death");
    queue(&app.config, "dead replay --all --limit 5000 --yes").ok().says("replayed 5000");
    queue(&app.config, "dead replay --all --yes").ok().says("replayed 7000");
    totals_become(&app, MANY, 0, MANY / 4, 0).await;
    for session in [0, SESSIONS - 1] {
        let jobs = queue(&app.config, &format!("peek --json --count 100000 --connection {:012}.{session:024}", 1)).ok().json();
        let numbers: Vec<_> = jobs.iter().map(|job| job["data"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (0..MANY / SESSIONS).map(|n| n * SESSIONS + session).collect::<Vec<_>>(), "in order");
        assert!(jobs.iter().all(|job| job["partition"] == jobs[0]["partition"]));
    }
}
