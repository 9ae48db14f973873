// The demo chat's people: who is here, who is typing, private messages, nicknames. Comes after chat.js, whose page and connection it uses.
"use strict";

/** Pause between two notices that one is typing. */
const TYPING_PAUSE_MS = 2_000;
/** How long somebody is shown as typing without another notice. */
const TYPING_SHOWN_MS = 4_000;

const members = new Map(); // connection id → { nickname, userId }
const typists = new Map(); // connection id → { nickname, timer }
let unlisted = 0; // members of a full room beyond those that the server lists
let partner = null; // { nickname, userId } whom the composer writes to privately
let typingToldAt = 0;

/** What a reconnect registers with: the newest nickname, and still the same user. */
function remember() {
  connection.registration = user === null ? { nickname } : { nickname, user_id: user };
  sessionStorage.setItem("nickname", nickname);
  page.nickname.value = nickname;
}

/** Takes over the members that `join` or `members` answered. */
function setMembers(reply) {
  const listed = reply.members ?? [];
  members.clear();
  for (const member of listed) {
    const ghost = mine.has(member.connection_id) && member.connection_id !== me; // of this page, before a reconnect
    if (!ghost) members.set(member.connection_id, { nickname: member.nickname ?? "somebody", userId: member.user_id ?? null });
  }
  unlisted = Math.max(0, (reply.members_total ?? 0) - listed.length);
  showMembers();
}

/** One button for each name of each user, however many tabs it has open. */
function showMembers() {
  const people = new Map();
  for (const [id, member] of members) {
    const own = id === me;
    const key = JSON.stringify([own, member.userId, member.nickname]);
    const known = people.get(key);
    if (known) known.count += 1;
    else people.set(key, { ...member, key, own, count: 1 });
  }
  const sorted = [...people.values()].sort((a, b) => b.own - a.own || a.nickname.localeCompare(b.nickname));
  const focused = document.activeElement?.dataset.key;
  page.members.replaceChildren(...sorted.map(memberItem));
  if (focused) [...page.members.querySelectorAll("button")].find((it) => it.dataset.key === focused)?.focus();
  page.who.textContent = `Here (${members.size + unlisted})`;
}

function memberItem({ nickname: name, userId, key, own, count }) {
  const label = `${name}${own ? " (you)" : ""}${count > 1 ? ` ×${count}` : ""}`;
  const button = make("button", own ? "chip own" : "chip", label);
  button.type = "button";
  button.dataset.key = key;
  button.title = own ? "Change your nickname" : `Write to ${name} privately`;
  button.setAttribute("aria-label", `${label}: ${button.title}`);
  if (own) {
    button.onclick = askNickname;
  } else {
    button.disabled = userId === null;
    button.setAttribute("aria-pressed", String(partner !== null && partner.userId === userId));
    button.onclick = () => writeTo({ nickname: name, userId });
  }
  const item = make("li");
  item.append(button);
  return item;
}

async function askMembers() {
  const asked = room;
  try {
    const reply = await connection.request("members", { room: asked });
    if (asked === room && joined) setMembers(reply);
  } catch (error) {
    page["composer-note"].textContent = `Could not learn who is here: ${error.message}`;
  }
}

/** Tells the room that something is being written, now and then. */
function typing() {
  if (!joined || partner || !page.text.value.trim() || Date.now() - typingToldAt < TYPING_PAUSE_MS) return;
  typingToldAt = Date.now();
  connection.tell("typing", { room });
}

/** What was written is sent: whatever comes next is told soon. The server passes one notice a second on. */
function typed() {
  typingToldAt = Date.now() - TYPING_PAUSE_MS + 1_000;
}

/** Somebody stopped typing, or nobody is any more. */
function stopTyping(connectionId) {
  for (const [id, { timer }] of [...typists]) {
    if (connectionId !== undefined && id !== connectionId) continue;
    clearTimeout(timer);
    typists.delete(id);
  }
  showTyping();
}

function showTyping() {
  const names = [...typists.values()].map((typist) => typist.nickname);
  if (names.length === 0) page.typing.textContent = "";
  else if (names.length > 2) page.typing.textContent = "Several people are typing …";
  else page.typing.textContent = `${names.join(" and ")} ${names.length === 1 ? "is" : "are"} typing …`;
}

function privateRow(from, to, text, time, own) {
  const row = messageRow(from, text, time, own);
  row.classList.add("private");
  const name = row.querySelector("strong");
  name.textContent = own ? `You to ${to}` : from;
  name.after(make("span", "tag", "privately"));
  return row;
}

/** From now on the composer writes to this user only; `null` = to the room again. */
function writeTo(someone) {
  partner = someone;
  showPartner();
  page.text.focus();
}

function showPartner() {
  page.composer.classList.toggle("private", partner !== null);
  page["private-bar"].hidden = partner === null;
  page["private-to"].textContent = partner ? `Privately to ${partner.nickname}` : "";
  page.text.placeholder = partner ? `Only ${partner.nickname} will read this` : "Write a message";
  showMembers();
}

function askNickname() {
  page["new-nickname"].value = nickname;
  page["rename-error"].textContent = "";
  page["rename-dialog"].showModal();
  page["new-nickname"].select();
}

async function rename(event) {
  event.preventDefault();
  page["rename-error"].textContent = "";
  try {
    const reply = await connection.request("nickname", { nickname: page["new-nickname"].value.trim() });
    if (reply.nickname !== nickname) notice(`You are now called ${reply.nickname}.`);
    nickname = reply.nickname;
    remember();
    members.set(me, { nickname, userId: user });
    showMembers();
    page["rename-dialog"].close();
  } catch (error) {
    page["rename-error"].textContent = error.message;
  }
}

Object.assign(others, {
  typing(data) {
    if (data.room !== room || mine.has(data.connection_id)) return;
    clearTimeout(typists.get(data.connection_id)?.timer);
    const timer = setTimeout(() => stopTyping(data.connection_id), TYPING_SHOWN_MS);
    typists.set(data.connection_id, { nickname: data.nickname, timer });
    showTyping();
  },
  private_text(data) {
    if (data.message_id !== undefined && seen.has(data.message_id)) return;
    seen.add(data.message_id);
    const own = data.user_id !== null && data.user_id === user; // written in another tab
    const row = privateRow(data.nickname ?? "?", data.to_nickname ?? data.to_user, data.text, data.time ?? Date.now(), own);
    row.dataset.messageId = data.message_id;
    if (!own && data.user_id !== null) {
      const reply = make("button", "link", "Reply");
      reply.type = "button";
      reply.onclick = () => writeTo({ nickname: data.nickname, userId: data.user_id });
      row.querySelector(".by").append(reply);
    }
    append(row);
  },
  renamed(data) {
    if (data.room !== room || mine.has(data.connection_id)) return;
    const member = members.get(data.connection_id);
    if (member?.nickname === data.to) return; // told twice
    notice(`${data.from} is now called ${data.to}.`);
    members.set(data.connection_id, { userId: member?.userId ?? null, nickname: data.to });
    stopTyping(data.connection_id);
    if (partner && partner.userId === member?.userId) partner.nickname = data.to;
    showPartner();
  },
});

page.who.addEventListener("click", askMembers);
page["private-end"].addEventListener("click", () => writeTo(null));
page.text.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && partner) writeTo(null);
});
page.rename.addEventListener("submit", rename);
page["rename-cancel"].addEventListener("click", () => page["rename-dialog"].close());
