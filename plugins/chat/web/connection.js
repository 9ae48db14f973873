// A plain client of Plugsocket's JSON protocol in the browser: one connection that comes back by itself. chat.js is the page on top of it.
"use strict";

const REQUEST_TIMEOUT_MS = 15_000;
const OPEN_TIMEOUT_MS = 10_000;
const PING_INTERVAL_MS = 20_000;
const PONG_TIMEOUT_MS = 10_000;
const BACKOFF_FIRST_MS = 500;
const BACKOFF_MAX_MS = 30_000;
/** Errors that say nothing against the request itself. */
const PASSING_CODES = ["busy", "unconfirmed", "rate_limited", "failed", "timeout", "unavailable", "no_answer", "offline"];

/** What the server, or the connection itself, answered instead of a reply. `code` is the protocol's. */
class RequestError extends Error {
  constructor(code, message, retryAfterMs) {
    super(message || code);
    this.code = code;
    this.retryAfterMs = retryAfterMs;
  }
}

/**
 * One registered connection that comes back by itself.
 * Calls `on.state(state, detail)`, `on.registered(data)`, `on.refused(reason)`, `on.frame(action, data)`.
 */
class Connection {
  constructor(url, on) {
    this.url = url;
    this.on = on;
    this.socket = null;
    this.registration = null;
    this.registered = false;
    this.attempts = 0;
    /** When the server that goes away wants us back, in ms of Date.now(). */
    this.comeBackAt = 0;
    this.nextId = 1;
    this.waiting = new Map();
    this.timers = {};
  }

  /** Registers with `data`, opening a socket when there is none; the same data is used after each reconnect. */
  enter(data) {
    this.registration = data;
    if (this.socket?.readyState === WebSocket.OPEN) this.register();
    else this.open();
  }

  open() {
    this.drop();
    this.comeBackAt = 0;
    this.on.state("connecting", "Connecting…");
    let socket;
    try {
      socket = new WebSocket(this.url);
    } catch (error) {
      this.on.state("offline", `Cannot connect to ${this.url}: ${error.message}`);
      return;
    }
    this.socket = socket;
    // A socket that was given up still fires events; only the current one may act.
    const current = (handle) => (event) => { if (this.socket === socket) handle(event); };
    socket.onopen = current(() => { clearTimeout(this.timers.open); this.register(); });
    socket.onmessage = current((event) => this.receive(event.data));
    socket.onclose = current((event) => this.lost(event.code, event.reason));
    this.timers.open = setTimeout(() => this.lost(1006, "no answer"), OPEN_TIMEOUT_MS);
  }

  async register() {
    const socket = this.socket;
    try {
      const identity = await this.request("register", this.registration);
      this.registered = true;
      this.attempts = 0;
      this.timers.ping = setInterval(() => this.ping(), PING_INTERVAL_MS);
      this.on.state("online", "Online");
      this.on.registered(identity);
    } catch (error) {
      if (this.socket !== socket) return;
      if (!PASSING_CODES.includes(error.code)) {
        this.registration = null;
        this.on.state("offline", "Not registered");
        this.on.refused(error.message);
      } else {
        this.lost(1006, error.message, error.retryAfterMs);
      }
    }
  }

  /** Sends a request and resolves with its reply's data; rejects with a RequestError after an error, a timeout or a lost connection. */
  request(action, data, timeoutMs = REQUEST_TIMEOUT_MS) {
    return new Promise((resolve, reject) => {
      if (this.socket?.readyState !== WebSocket.OPEN) {
        reject(new RequestError("offline", "not connected"));
        return;
      }
      const id = String(this.nextId++);
      const timer = setTimeout(() => {
        this.waiting.delete(id);
        reject(new RequestError("no_answer", "no answer in time"));
      }, timeoutMs);
      this.waiting.set(id, { resolve, reject, timer });
      this.socket.send(JSON.stringify({ action, data, id }));
    });
  }

  /** Sends what needs no answer and is worth nothing later: it is dropped while there is no connection. */
  tell(action, data) {
    if (this.registered) this.socket.send(JSON.stringify({ action, data }));
  }

  receive(text) {
    clearTimeout(this.timers.pong);
    let frame;
    try { frame = JSON.parse(text); } catch { return; }
    const { action, data = null, id } = frame ?? {};
    const waiting = this.waiting.get(String(id));
    if (id !== undefined && waiting) {
      this.waiting.delete(String(id));
      clearTimeout(waiting.timer);
      if (action === "error") waiting.reject(new RequestError(data?.code, data?.message, data?.retry_after_ms));
      else waiting.resolve(data);
      return;
    }
    if (action === "draining") {
      // The socket stays until what was asked before is answered; the server closes it.
      this.comeBackAt = Date.now() + (Number(data?.reconnect_after_ms) || 0);
      if (this.registered) this.on.state("online", "The server is about to restart");
      return;
    }
    if (typeof action === "string") this.on.frame(action, data ?? {});
  }

  /** Browsers can't send protocol pings, and a dead network closes nothing: an unanswered ping counts as a lost connection. */
  ping() {
    this.socket.send('{"action":"ping"}');
    clearTimeout(this.timers.pong);
    this.timers.pong = setTimeout(() => this.lost(1006, "no answer to ping"), PONG_TIMEOUT_MS);
  }

  lost(code, reason, retryAfterMs = 0) {
    this.drop();
    if (code >= 4000 && code <= 4099) {
      this.on.state("offline", `Closed by the server: ${reason || "no reason given"} (${code})`, { closed: this.registration !== null });
    } else if (this.registration && this.comeBackAt > Date.now()) {
      // A moment of our own: the server has spread its clients over some time. Who stayed longer, for its answers, goes the usual way: many do.
      this.wait(this.comeBackAt - Date.now(), "The server restarts; reconnecting");
    } else if (this.registration) {
      const ceiling = Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** Math.min(this.attempts++, 10));
      // Half fixed, half random: after a restart of the server its clients must not all come back at once.
      this.wait(Math.max(retryAfterMs, ceiling * (0.5 + Math.random() / 2)));
    } else {
      this.on.state("offline", "Not connected");
    }
  }

  wait(delayMs, detail = "Reconnecting") {
    const due = Date.now() + delayMs;
    const tell = () => this.on.state("offline", detail, { waitSeconds: Math.max(1, Math.ceil((due - Date.now()) / 1000)) });
    tell();
    this.timers.countdown = setInterval(tell, 500);
    this.timers.reconnect = setTimeout(() => this.open(), delayMs);
  }

  /** Goes on at once instead of waiting; for a click, or when the browser says that the network is back. */
  now() {
    if (this.registration && !this.socket) this.open();
  }

  drop() {
    for (const timer of Object.values(this.timers)) clearTimeout(timer); // clears intervals too
    this.timers = {};
    const socket = this.socket;
    this.socket = null;
    this.registered = false;
    if (socket) socket.close();
    const waiting = [...this.waiting.values()];
    this.waiting.clear();
    for (const { reject, timer } of waiting) {
      clearTimeout(timer);
      reject(new RequestError("offline", "connection lost before the answer came"));
    }
  }
}
