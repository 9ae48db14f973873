//! What `status` and `peek` tell while jobs come, run, wait for later and stay behind.

use serde_json::json;

use super::*;
use crate::harness::client::Client;

#[tokio::test]
async fn status_follows_jobs_and_workers() {
    let mut app = app(1, 0, 4);
    let url = app.urls().remove(0);
    let mut client = Client::connect(&url).await;
    let id = client.register(json!({"nickname": "Ada", "user_id": 7})).await["connection_id"].as_str().unwrap().to_owned();
    let mut asked = Vec::new();
    for n in 0..3 {
        asked.push(client.send_request("work", json!({ "n": n })).await);
    }
    totals_become(&app, 3, 0, 0, 0).await;

    let now = status(&app);
    assert_eq!((&now["app"], &now["redis"]["policy"], &now["redis"]["full"]), (&json!("plugsocket"), &json!("noeviction"), &json!(false)));
    assert_eq!((now["servers"].as_array().unwrap().len(), &now["workers"]), (1, &json!([])));
    assert!(now["servers"][0]["lease_ms"].as_u64().is_some_and(|left| left <= 1000), "{now}");
    assert_eq!(now["partitions"].as_array().unwrap().len(), 4);
    assert!(now["totals"]["oldest_ms"].is_u64() && now["time_ms"].is_u64() && now["redis"]["used"].is_u64(), "{now}");
    assert_eq!(now["php"], json!({"waiting": 0, "dead": 0, "in_lists": []}));
    let busy = queue(&app.config, "status --json").ok().json().remove(0);
    assert_eq!(busy["partitions"].as_array().unwrap().len(), 1, "without --all, those with something in them");
    assert_eq!((&busy["partitions"][0]["waiting"], &busy["partitions"][0]["worker"]), (&json!(3), &json!(null)));
    queue(&app.config, "status").ok().says("servers 1: ").says("nobody").says("0 of 4 partitions owned");

    let jobs = queue(&app.config, "peek --json").ok().json();
    assert_eq!(jobs.iter().map(|job| job["data"]["n"].clone()).collect::<Vec<_>>(), [0, 1, 2]);
    let job = &jobs[0];
    assert_eq!(
        (&job["connection_id"], &job["user_id"], &job["action"], &job["attempts"]),
        (&json!(id), &json!("7"), &json!("work"), &json!(0))
    );
    assert_eq!((&job["client_id"], job.get("reason")), (&asked[0], None));
    for (filter, count) in [("--count 2", 2), ("--action soon", 0), ("--action work", 3), ("--connection nobody", 0)] {
        assert_eq!(queue(&app.config, &format!("peek --json {filter}")).ok().json().len(), count, "{filter}");
    }
    assert_eq!(queue(&app.config, &format!("peek --json --connection {id}")).ok().json().len(), 3);
    queue(&app.config, "peek").ok().says(&id).says(r#"{"n":2}"#);
    totals_become(&app, 3, 0, 0, 0).await;

    close(&app, "hold");
    app.workers.push(Process::worker(&app.config));
    totals_become(&app, 0, 3, 0, 0).await;
    let now = status(&app);
    let worker = now["workers"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!((&now["workers"][0]["partitions"], now["workers"].as_array().unwrap().len()), (&json!(4), 1));
    assert!(now["partitions"].as_array().unwrap().iter().all(|partition| partition["worker"] == worker.as_str()), "{now}");
    queue(&app.config, "peek").ok().says("no such job waits");

    app.workers[0].kill();
    eventually("its lease to end", PATIENCE, async || status(&app)["workers"] == json!([])).await;
    for n in 3..5 {
        asked.push(client.send_request("work", json!({ "n": n })).await);
    }
    totals_become(&app, 2, 3, 0, 0).await;
    let left = status(&app);
    assert!(left["partitions"].as_array().unwrap().iter().all(|partition| partition["worker"].is_null()), "{left}");
    let jobs = queue(&app.config, "peek --json").ok().json();
    assert_eq!(jobs.iter().map(|job| job["data"]["n"].clone()).collect::<Vec<_>>(), [3, 4], "those never given to a worker");

    open(&app, "hold");
    app.workers[0] = Process::worker(&app.config);
    for id in &asked {
        client.answer(id).await.unwrap();
    }
    client.request("soon", json!({"n": 5})).await;
    totals_become(&app, 0, 0, 1, 0).await;
    assert_eq!(status(&app)["totals"]["oldest_ms"], json!(null));
    app.workers[0].terminate(PATIENCE);
    let stopped = status(&app);
    assert_eq!(stopped["workers"], json!([]), "a worker that was stopped is gone at once");
    assert!(stopped["partitions"].as_array().unwrap().iter().all(|partition| partition["worker"].is_null()), "{stopped}");
}

#[tokio::test]
async fn status_tells_of_a_key_that_cannot_be_read() {
    let app = app(1, 0, 4);
    app.redis.cli(&["SET", "ps:{plugsocket:p2}:dead", "mine"]);
    let broken = queue(&app.config, "status --json").ok().json().remove(0);
    assert_eq!(broken["partitions"].as_array().unwrap().len(), 1);
    let problem = broken["partitions"][0]["problem"].as_str().unwrap();
    assert!(problem.contains("ps:{plugsocket:p2}:dead") && problem.contains("WRONGTYPE"), "{problem}");
    queue(&app.config, "dead list").code_is(1).says("WRONGTYPE");
}

#[tokio::test]
async fn a_watched_status_outlives_redis() {
    let mut app = app(1, 0, 4);
    let watch = Process::tool(&["queue", "status", "--json", "--watch", "100ms", "--config", app.config.path()]);
    watch.wait_line(r#"{"app":"plugsocket""#, START_PATIENCE);
    app.redis.kill();
    watch.wait_line("tried again", PATIENCE);
    let mark = watch.lines().len();
    app.redis.start_again();
    let line = watch.wait_line_after(mark, r#"{"app":"plugsocket""#, PATIENCE);
    let now: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(now["partitions"], json!([]), "nothing waits, and nothing is left of before");
}
