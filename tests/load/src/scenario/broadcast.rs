//! `broadcast`: messages to all, to a group, to a user and to single connections, from the HTTP API and from PHP's list.

use std::time::Duration;

use anyhow::{Context, ensure};

use crate::app::{App, Kind, Setup};
use crate::bench::{Bench, Figures, Scale, Window, add_latency};
use crate::clock::{self, MILLISECOND};
use crate::frame;
use crate::net::{Net, PATIENCE, Receiver};
use crate::notice::{Audience, Notices, due};
use crate::register::Register;
use crate::scenario::trip::OPENING;
use crate::sender::Sender;

const TURN: Duration = Duration::from_millis(5);
/// Connections of the one user that has several.
const OF_USER: usize = 10;
/// Broadcasts and group messages sent and not received by all.
const WIDE: usize = 4;
/// Messages to one user or one connection.
const NARROW: usize = 64;

/// One row.
struct Row {
    name: &'static str,
    audience: Audience,
    /// Sent and not received by all they are for.
    in_flight: usize,
    /// Evenly spaced, so many a second.
    paced: Option<f64>,
    from_php: bool,
    to: fn(&str) -> String,
}

fn rows(members: usize) -> [Row; 6] {
    let row = |name, audience, in_flight, to| Row { name, audience, in_flight, paced: None, from_php: false, to };
    let everybody: fn(&str) -> String = |_| r#"{"all":true}"#.to_owned();
    let connection: fn(&str) -> String = |id| format!(r#"{{"connection_id":"{id}"}}"#);
    [
        row("all", Audience::First(members), WIDE, everybody),
        Row { paced: Some(20.0), ..row("all, 20/s", Audience::First(members), usize::MAX, everybody) },
        row("group", Audience::First(members), WIDE, |_| r#"{"group":"room:hall"}"#.to_owned()),
        row("user", Audience::First(OF_USER), NARROW, |_| r#"{"user_id":"many"}"#.to_owned()),
        row("http", Audience::OneOf(members), NARROW, connection),
        Row { from_php: true, ..row("php", Audience::OneOf(members), NARROW, connection) },
    ]
}

pub fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let members = bench.pick(50, 1_000, 1_000);
    let app = App::start(&bench.bins(), &bench.redis, Setup::of(Kind::RedisRunners))?;
    let (mut net, mut register) = (Net::new()?, Register::as_user("many", OF_USER));
    register.connect(&mut net, app.addresses[0], members)?;
    join(&mut net).context("joining the group")?;
    for row in rows(members) {
        let figures = measure(bench, &app, &mut net, &register.ids, &row).with_context(|| row.name)?;
        bench.add("broadcast", row.name, figures);
    }
    drop(app);
    bench.redis.flush()
}

fn measure(bench: &mut Bench, app: &App, net: &mut Net, ids: &[String], row: &Row) -> anyhow::Result<Figures> {
    let mut sender = if row.from_php { Sender::php(bench.redis.client()?, &app.name) } else { Sender::http(app.ops)? };
    let mut notices = Notices::new(row.audience, net.len());
    send_for(net, &mut notices, &mut sender, ids, row, bench.warm_up())?;
    let figures = bench.undisturbed(|bench| {
        let window = Window::of(bench, app)?;
        notices.clear();
        send_for(net, &mut notices, &mut sender, ids, row, OPENING)?;
        notices.clear_times();
        send_for(net, &mut notices, &mut sender, ids, row, bench.window())?;
        let (mut figures, others) = window.close(Some(&bench.redis), notices.deliveries)?;
        figures.remove("batch");
        add_latency(&mut figures, &notices.each);
        figures.insert("last_p50_us", notices.last.quantile_us(0.5));
        figures.insert("last_p99_us", notices.last.quantile_us(0.99));
        Ok((figures, others))
    })?;
    let end = clock::now() + PATIENCE;
    while notices.in_flight() > 0 {
        net.turn(Some(TURN), &mut notices)?;
        sender.look()?;
        ensure!(clock::now() < end, "{} messages did not reach all they are for", notices.in_flight());
    }
    net.turn(Some(TURN), &mut notices)?;
    ensure!(bench.scale == Scale::Smoke || notices.complete > 0, "nothing was received");
    Ok(figures)
}

fn send_for(net: &mut Net, notices: &mut Notices, sender: &mut Sender, ids: &[String], row: &Row, time: Duration) -> anyhow::Result<()> {
    let (start, first) = (clock::now(), notices.sent());
    let end = start + time.as_nanos() as u64;
    let (mut complete, mut moved) = (notices.complete, start);
    loop {
        let now = clock::now();
        if now >= end {
            return Ok(());
        }
        let mut wake = end;
        while notices.in_flight() < row.in_flight {
            let moment = row.paced.map_or_else(clock::now, |rate| due(start, notices.sent() - first, rate));
            if moment > now && row.paced.is_some() {
                wake = moment.min(end);
                break;
            }
            let target = ids.get(notices.next_target()).map_or("", String::as_str);
            let number = notices.sent() as u64;
            notices.note(moment);
            sender.send(&(row.to)(target), number)?;
        }
        net.wake_at(wake)?;
        net.turn(Some(TURN), notices)?;
        sender.look()?;
        if notices.complete > complete {
            (complete, moved) = (notices.complete, now);
        }
        ensure!(now < moved + PATIENCE, "nothing was received for {} s", PATIENCE / clock::SECOND);
    }
}

/// Everybody joins one room, and has heard of all others.
fn join(net: &mut Net) -> anyhow::Result<()> {
    let mut joined = Joined { answers: 0, heard: clock::now() };
    let mut bytes = Vec::new();
    frame::write(frame::TEXT, br#"{"action":"join","id":1,"data":{"room":"hall"}}"#, &mut bytes);
    for connection in 0..net.len() {
        net.send(connection, &bytes)?;
    }
    let end = clock::now() + 2 * PATIENCE;
    while joined.answers < net.len() || clock::now() < joined.heard + 300 * MILLISECOND {
        net.turn(Some(TURN), &mut joined)?;
        ensure!(clock::now() < end, "{} of {} have joined", joined.answers, net.len());
    }
    Ok(())
}

struct Joined {
    answers: usize,
    heard: u64,
}

impl Receiver for Joined {
    fn message(&mut self, connection: usize, payload: &[u8], now: u64) -> anyhow::Result<()> {
        self.heard = now;
        if payload.windows(7).any(|window| window == br#""id":1,"# || window == br#""id":1}"#) {
            let text = String::from_utf8_lossy(payload);
            ensure!(text.contains(r#""action":"join""#), "connection {connection} was told {text}");
            self.answers += 1;
        }
        Ok(())
    }
}
