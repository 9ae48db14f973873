// The demo chat's page: what is shown, and what is asked of the connection (connection.js). The people in it are in people.js.
"use strict";

const REPORT_TIMEOUT_MS = 60_000;
const REJOIN_MS = 3_000;
const ROWS_MAX = 500;
/** Errors after which the request may still have run. */
const UNSURE_CODES = ["unconfirmed", "no_answer", "offline"];

const element = (id) => document.getElementById(id);
const page = Object.fromEntries(
  ["status", "countdown", "reconnect", "entry", "nickname", "enter", "entry-error", "chat", "room-form", "room", "report", "report-progress", "report-note",
    "who", "members", "typing", "private-bar", "private-to", "private-end", "rename-dialog", "rename", "new-nickname", "rename-cancel", "rename-error",
    "messages", "newest", "composer", "text", "send", "composer-note", "build", "heartbeat"].map((id) => [id, element(id)]));

let connection = null;
let nickname = "";
let room = null; // the room that is shown; frames of others are ignored
let joined = false;
let early = null; // messages that came between asking to join and its reply, which brings what was before them
let build = null;
let me = null; // the present connection id
let user = null; // whose connection it is
let joins = 0;
let atEnd = true; // the reader looks at the newest messages
const mine = new Set(); // every connection id this page has had: one more per reconnect
const seen = new Set(); // message ids that are on the page

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text; // never innerHTML: everything here was typed by somebody
  return node;
}

/** Keeps the newest row in view for a reader who is at the end. */
function stick() {
  if (atEnd) page.messages.scrollTop = page.messages.scrollHeight;
}

function append(row) {
  const list = page.messages;
  list.append(row);
  while (list.children.length > ROWS_MAX) {
    seen.delete(list.firstElementChild.dataset.messageId);
    list.firstElementChild.remove();
  }
  atEnd ||= row.classList.contains("mine");
  if (atEnd) stick();
  else page.newest.hidden = false;
  return row;
}

const notice = (text) => append(make("li", "notice", text));

function messageRow(name, text, time, own) {
  const row = make("li", own ? "message mine" : "message");
  const by = make("div", "by");
  const when = new Date(time);
  const clock = make("time", "", when.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
  if (!Number.isNaN(when.getTime())) clock.dateTime = when.toISOString();
  by.append(make("strong", "", own ? `${name} (you)` : name), clock);
  row.append(by, make("p", "body", text));
  return row;
}

function show(message) {
  // An outgoing message may come twice; one from outside of the chat plugin has no id and no time.
  if (message.message_id !== undefined && seen.has(message.message_id)) return;
  seen.add(message.message_id);
  stopTyping(message.connection_id);
  const own = mine.has(message.connection_id);
  const row = messageRow(message.nickname ?? "?", message.text, message.time ?? Date.now(), own);
  row.dataset.messageId = message.message_id;
  const sent = own && [...page.messages.querySelectorAll(".pending, .unsent")].find((it) => it.draft === message.text);
  if (sent) sent.remove();
  append(row);
}

/** Takes the room's rows off the page; private messages belong to no room. */
function clearRoom() {
  seen.clear();
  for (const row of [...page.messages.children]) {
    if (row.classList.contains("private")) seen.add(row.dataset.messageId);
    else row.remove();
  }
}

/** Enters a room, or the same one again after a reconnect; what is already on the page is not shown twice. */
async function join(target, { again = false } = {}) {
  const turn = ++joins;
  const previous = again ? null : room;
  joined = false;
  room = target;
  early = [];
  page.room.value = target;
  ready();
  stopTyping();
  if (!again) clearRoom();
  try {
    const reply = await connection.request("join", { room: target });
    if (turn !== joins) return;
    if (previous && previous !== target) connection.request("leave", { room: previous }).catch(() => {});
    page.messages.setAttribute("aria-busy", "true"); // history is not news: screen readers shall not read all of it
    for (const message of [...(reply.history ?? []), ...early]) show(message);
    page.messages.removeAttribute("aria-busy");
    notice(again ? "You are back." : `You are in ${target}.`);
    setMembers(reply);
    joined = true;
    early = null;
    if (again) page["composer-note"].textContent = "";
    ready();
  } catch (error) {
    if (turn !== joins || error.code === "offline") return; // the reconnect joins again
    page["composer-note"].textContent = `Could not enter ${target}: ${error.message}`;
    early = null;
    if (again) {
      setTimeout(() => { if (turn === joins && connection.registered) join(target, { again }); }, REJOIN_MS);
      return;
    }
    room = previous;
    if (previous) join(previous);
  }
}

const others = {
  chat_text(data) {
    if (data.room !== room) return;
    if (early) early.push(data);
    else show(data);
  },
  joined(data) {
    if (data.room !== room || mine.has(data.connection_id)) return;
    if (!members.has(data.connection_id)) notice(`${data.nickname} came in.`);
    members.set(data.connection_id, { nickname: data.nickname, userId: data.user_id ?? null });
    showMembers();
  },
  left(data) {
    if (data.room !== room || mine.has(data.connection_id)) return;
    notice(data.reason ? `${data.nickname} left (${data.reason}).` : `${data.nickname} left.`);
    members.delete(data.connection_id);
    stopTyping(data.connection_id);
    showMembers();
  },
  report_progress(data) {
    page["report-progress"].value = data.percent ?? 0;
    page["report-note"].textContent = `${data.done} of ${data.total}`;
  },
  heartbeat(data) {
    const count = data.node_connections;
    const time = new Date(data.time ?? Date.now()).toLocaleTimeString();
    page.heartbeat.textContent = `${count} ${count === 1 ? "connection" : "connections"} on this node, ${time}`;
    askBuild();
  },
  error(data) {
    page["composer-note"].textContent = data.message || data.code || "error";
  },
};

/** Asked again with each heartbeat, so that a replaced plugin shows while the page stays connected. */
async function askBuild() {
  try {
    const { version } = await connection.request("echo", null);
    if (build !== null && build !== version) notice(`The chat plugin was replaced while you were connected: ${build} → ${version}`);
    build = version;
    page.build.textContent = `Plugin build: ${version}`;
  } catch { /* the next heartbeat asks again */ }
}

/** Says something in the room, or to one user only. */
async function say(text, to) {
  const row = to ? privateRow(nickname, to.nickname, text, Date.now(), true) : messageRow(nickname, text, Date.now(), true);
  row.classList.add("pending");
  if (!to) row.draft = text;
  append(row);
  try {
    if (to) {
      row.dataset.messageId = (await connection.request("private_text", { to_user: to.userId, text })).message_id;
      row.classList.remove("pending");
    } else {
      await connection.request("chat_text", { room, text }); // the room's own copy, which comes before the reply, replaces the row
    }
  } catch (error) {
    if (!row.isConnected) return;
    row.classList.replace("pending", "unsent");
    const sure = !UNSURE_CODES.includes(error.code);
    const fate = make("div", "fate", `${sure ? "Not sent" : "Perhaps not sent"}: ${error.message}`);
    const retry = make("button", "quiet", "Send again");
    retry.type = "button";
    retry.onclick = () => { if (joined) { row.remove(); say(text, to); } };
    fate.append(retry);
    row.append(fate);
    stick();
  }
}

function ready() {
  page.send.disabled = !joined;
  page.report.disabled = !joined || page.report.dataset.running === "true";
}

function state(name, detail, { waitSeconds = 0, closed = false } = {}) {
  page.status.dataset.state = name;
  if (page.status.textContent !== detail) page.status.textContent = detail; // a live region: told once, not each second
  page.countdown.textContent = waitSeconds ? `in ${waitSeconds} s` : "";
  page.reconnect.hidden = !(waitSeconds || closed);
  if (name !== "online") joined = false;
  page.enter.disabled = name === "connecting";
  ready();
}

function registered(identity) {
  const again = room !== null;
  nickname = identity.nickname ?? nickname;
  me = identity.connection_id;
  mine.add(me);
  user = identity.user_id ?? null;
  remember();
  page["entry-error"].textContent = "";
  page.entry.hidden = true;
  page.chat.hidden = false;
  if (!again) page.text.focus();
  join(room ?? (page.room.value.trim() || "lobby"), { again });
  askBuild();
}

function refused(reason) {
  page.chat.hidden = true;
  page.entry.hidden = false;
  page.enter.disabled = false;
  page["entry-error"].textContent = reason;
  page.nickname.focus();
  page.nickname.select();
}

async function runReport() {
  page.report.dataset.running = "true";
  page["report-progress"].hidden = false;
  page["report-progress"].value = 0;
  page["report-note"].textContent = "started; the others chat on";
  ready();
  try {
    await connection.request("report", { seconds: 5, steps: 20 }, REPORT_TIMEOUT_MS);
    page["report-progress"].value = 100;
    page["report-note"].textContent = "finished";
  } catch (error) {
    page["report-note"].textContent = `failed: ${error.message}`;
  }
  page.report.dataset.running = "false";
  ready();
}

/** The socket's address. Under `localhost` the page's own name is kept: the server compares the origin's host with its own. */
async function socketUrl() {
  const answer = await fetch("/config.json", { cache: "no-store" });
  if (!answer.ok) throw new Error(`/config.json answered ${answer.status}`);
  const url = new URL((await answer.json()).ws);
  const loopback = ["localhost", "127.0.0.1"];
  const everywhere = ["0.0.0.0", "[::]"]; // Where it listens, and no place to connect to.
  if (everywhere.includes(url.hostname)) url.hostname = location.hostname;
  if (loopback.includes(url.hostname) && loopback.includes(location.hostname)) url.hostname = location.hostname;
  return url.href;
}

page.entry.addEventListener("submit", async (event) => {
  event.preventDefault();
  nickname = page.nickname.value.trim();
  page["entry-error"].textContent = "";
  page.enter.disabled = true;
  try {
    connection ??= new Connection(await socketUrl(), { state, registered, refused, frame: (action, data) => others[action]?.(data) });
    connection.enter({ nickname });
    sessionStorage.setItem("nickname", nickname);
  } catch (error) {
    page["entry-error"].textContent = `Cannot learn the server's address: ${error.message}`;
    page.enter.disabled = false;
  }
});

function changeRoom(event) {
  event.preventDefault();
  const target = page.room.value.trim();
  if (target && target !== room && connection?.registered) join(target);
}
page["room-form"].addEventListener("submit", changeRoom);
page.room.addEventListener("change", changeRoom);

page.composer.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = page.text.value.trim();
  if (!text) return;
  page["composer-note"].textContent = joined ? "" : "Not connected at the moment; your text is kept.";
  if (!joined) return;
  page.text.value = "";
  sessionStorage.removeItem("draft");
  say(text, partner);
  typed();
});
page.text.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  page.composer.dispatchEvent(new Event("submit", { cancelable: true }));
});
page.text.addEventListener("input", () => {
  sessionStorage.setItem("draft", page.text.value);
  typing();
});
page.report.addEventListener("click", runReport);
page.reconnect.addEventListener("click", () => connection?.now());
page.newest.addEventListener("click", () => { page.messages.scrollTop = page.messages.scrollHeight; });
page.messages.addEventListener("scroll", () => {
  const list = page.messages;
  atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
  if (atEnd) page.newest.hidden = true;
});
new ResizeObserver(stick).observe(page.messages);
window.addEventListener("online", () => connection?.now());

page.nickname.value = sessionStorage.getItem("nickname") ?? "";
page.text.value = sessionStorage.getItem("draft") ?? "";
page.nickname.focus();
