// The page: conversations, the message being written, and answers as they come.

import * as api from "./api.js";
import { AttentionPanel, words } from "./attention.js";
import { button, byId, counted, element, number } from "./elements.js";
import { attachment, forServer, urlOf } from "./media.js";
import * as store from "./store.js";

const SAMPLING = ["temperature", "top_p", "max_tokens", "seed"];
const THEMES = { system: "as the system", light: "light", dark: "dark" };

let conversations = [];
let current = null;
let attached = []; // what goes with the next message
let isSending = false; // its files are being read
let active = null; // the answer that is being written: { conversation, controller, message }
const panel = new AttentionPanel(() => active !== null);

// Conversations

function fresh() {
  return { id: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`, title: "", updated: Date.now(), messages: [] };
}

async function save(conversation) {
  conversation.updated = Date.now();
  if (!conversations.includes(conversation)) conversations.unshift(conversation);
  conversations.sort((one, other) => other.updated - one.updated);
  const told = conversation.messages.find((message) => message.role === "user");
  conversation.title = told?.text.slice(0, 60) || told?.media[0]?.name || "";
  renderList();
  try {
    const removed = await store.save(conversation, conversations);
    if (!removed.length) return;
    conversations = conversations.filter((each) => !removed.includes(each));
    renderList();
    notice(`${counted(removed.length, "old conversation")} had to go to make room for this one.`);
  } catch {
    notice("This browser keeps no conversations: this one lasts until the page is closed.");
  }
}

function choose(conversation) {
  current = conversation;
  panel.clear();
  notice("");
  renderList();
  renderLog();
  showList(false);
}

function forget(conversation) {
  if (!confirm(`Delete “${conversation.title}”?`)) return;
  if (active?.conversation === conversation) active.controller.abort();
  conversations = conversations.filter((each) => each !== conversation);
  store.remove(conversation.id).catch(() => {});
  if (current === conversation) choose(fresh());
  else renderList();
}

function renderList() {
  byId("conversations").replaceChildren(...conversations.map((each) => {
    const name = each.title || "Untitled";
    const properties = { className: "entry", title: name };
    if (each === current) properties["aria-current"] = "true";
    return element("li", {}, button(name, () => choose(each), properties),
      button("×", () => forget(each), { className: "remove", "aria-label": `Delete “${name}”` }));
  }));
}

// Messages

function renderLog() {
  const log = byId("log");
  const { messages } = current;
  log.replaceChildren(...(messages.length ? messages.map(renderMessage) : [welcome()]));
  if (messages.at(-1)?.role === "user" && !isWriting(current)) {
    log.append(element("div", { className: "unanswered" }, element("span", { textContent: "This message has no answer." }),
      button("Try again", () => answer(current))));
  }
  log.scrollTop = log.scrollHeight;
  renderComposer();
}

function welcome() {
  return element("div", { className: "welcome" }, element("img", { src: "page/icon.svg", alt: "", width: 72, height: 72 }),
    element("h2", { textContent: "Ask about an image" }),
    element("p", { className: "muted", textContent: "Drop one here, paste it, or attach it, and ask. Then look inside: each word of an answer shows where it looked." }));
}

function isWriting(conversation) {
  return active?.conversation === conversation;
}

function renderMessage(message, index) {
  const made = element("article", { className: `message ${message.role}`, "aria-label": message.role === "user" ? "You" : "Answer" });
  if (message.media?.length) made.append(element("div", { className: "media" }, ...message.media.map(thumbnail)));
  if (message.role === "user") made.append(...userParts(message, index));
  else made.append(...answerParts(message, index));
  return made;
}

function thumbnail({ kind, name, blob }) {
  if (kind === "image") return element("img", { src: urlOf(blob), alt: name, decoding: "async" });
  return element("span", { className: "video", textContent: `▶ ${name}` });
}

function userParts(message, index) {
  const parts = message.text ? [element("div", { className: "body", textContent: message.text })] : [];
  const edit = button("Edit", () => renderEditor(message, index), { disabled: isWriting(current) });
  return [...parts, element("div", { className: "actions" }, edit)];
}

function answerParts(message, index) {
  const isComplete = active?.message !== message;
  let body;
  if (isComplete && panel.isOpen && message.text) {
    body = words(message.text, panel, (before, word, marked) => ({
      messages: current.messages.slice(0, index), before, word, element: marked,
      key: `${current.id} ${message.id} ${before.length}`,
    }));
    body.classList.add("body");
  } else {
    body = element("div", { className: "body", textContent: message.text });
  }
  const parts = [body, element("p", { className: "stats muted small", textContent: statistics(message) })];
  if (message.error) parts.splice(1, 0, element("p", { className: "error", textContent: message.error }));
  if (!isComplete) return parts;
  const actions = [button("Retry", () => retry(index), { disabled: isWriting(current) }),
    button("Copy", (event) => copy(message.text, event.target))];
  if (message.text && !panel.isOpen) actions.push(button("Where did it look?", () => lookInto(index)));
  return [...parts, element("div", { className: "actions" }, ...actions)];
}

/** The line that is always there: prompt, images, tokens, times, and how the answer ended. */
function statistics({ stats }) {
  const parts = [];
  if (stats.prompt !== null) parts.push(counted(stats.prompt, "prompt token"));
  if (stats.images) parts.push(counted(stats.images, "image"));
  if (stats.first === null) return [...parts, "reading the prompt …"].join(" · ");
  parts.push(counted(stats.tokens, "token"), `first after ${number(stats.first, 2)} s`);
  parts.push(`${number(speed(stats), 1)} tokens/s`);
  if (stats.seed !== null) parts.push(`seed ${stats.seed}`);
  if (stats.end) parts.push(stats.end);
  return parts.join(" · ");
}

/** Tokens a second behind the first one; over the whole time where an answer came in one piece. */
function speed({ tokens, first, seconds }) {
  return seconds > 0.01 ? (tokens - 1) / seconds : tokens / (first + seconds);
}

function renderEditor(message, index) {
  const article = byId("log").children[index];
  const area = element("textarea", { value: message.text, "aria-label": "Edit your message" });
  const finish = () => {
    const text = area.value.trim();
    if (!text && !message.media.length) return;
    current.messages = [...current.messages.slice(0, index), { ...message, text }];
    answer(current);
  };
  const cancel = () => { renderLog(); byId("text").focus(); };
  area.onkeydown = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); finish(); }
    if (event.key === "Escape") cancel();
  };
  article.querySelector(".body")?.remove();
  article.querySelector(".actions").replaceChildren(button("Ask again", finish, { className: "primary small" }), button("Cancel", cancel));
  article.insertBefore(area, article.querySelector(".actions"));
  area.focus();
}

async function copy(text, pressed) {
  try {
    await navigator.clipboard.writeText(text);
    pressed.textContent = "Copied";
  } catch {
    pressed.textContent = "Not allowed here";
  }
  setTimeout(() => { pressed.textContent = "Copy"; }, 1500);
}

// Answers

async function send() {
  if (active || isSending || (!byId("text").value.trim() && !attached.length)) return;
  const conversation = current;
  const waiting = attached;
  isSending = true;
  byId("status").textContent = waiting.some(({ done }) => !done) ? "Reading the files …" : "";
  const media = await Promise.all(waiting.map(({ ready }) => ready)).catch(() => null);
  byId("status").textContent = "";
  isSending = false;
  if (media === null || conversation !== current) return; // the file that cannot be read says so itself
  const text = byId("text").value.trim(); // typing went on meanwhile
  byId("text").value = "";
  attached = attached.filter((entry) => !waiting.includes(entry));
  const last = conversation.messages.at(-1);
  if (last?.role === "user") { // it was never answered: this goes on with it
    last.text = [last.text, text].filter(Boolean).join("\n\n");
    last.media.push(...media);
  } else {
    conversation.messages.push({ role: "user", text, media });
  }
  renderAttached();
  await answer(conversation);
}

function retry(index) {
  const earlier = current.messages;
  current.messages = earlier.slice(0, index);
  answer(current, earlier);
}

/** Answers the last message. If that fails before the first word, the conversation is as `earlier`. */
async function answer(conversation, earlier = null) {
  if (active) return;
  const asked = conversation.messages;
  const { body, stats } = request(asked);
  const message = { role: "assistant", id: `${Date.now()}`, text: "", stats };
  active = { conversation, controller: new AbortController(), message };
  conversation.messages = [...asked, message];
  panel.clear();
  notice("");
  say("The answer is being written.");
  if (conversation === current) renderLog();
  save(conversation);
  const started = performance.now();
  try {
    body.messages = await forServer(asked);
    const { reason, usage } = await api.streamAnswer(body, active.controller.signal, (text) => receive(message, text, started));
    if (usage) [stats.prompt, stats.tokens] = [usage.prompt_tokens, usage.completion_tokens];
    stats.end = reason === "length" ? "cut at the longest length" : "";
  } catch (error) {
    fail(conversation, message, error, asked, earlier);
  }
  message.text = message.text.trimEnd();
  active = null;
  if (conversation === current) renderLog();
  if (document.activeElement === document.body && matchMedia("(pointer: fine)").matches) byId("text").focus();
  say(message.text || "There is no answer.");
  if (stats.prompt === null && conversation.messages.includes(message)) await countPrompt(message, body.messages);
  await save(conversation);
}

function request(asked) {
  const chosen = sampling();
  const seed = chosen.temperature === 0 ? null : chosen.seed ?? Math.floor(Math.random() * 2 ** 31);
  const { temperature, top_p, max_tokens } = chosen;
  const body = { temperature, top_p, max_tokens, stream: true, stream_options: { include_usage: true } };
  if (seed !== null) body.seed = seed;
  const images = asked.reduce((total, message) => total + (message.media?.length ?? 0), 0);
  return { body, stats: { prompt: null, images, tokens: 0, first: null, seconds: 0, seed, end: "" } };
}

function receive(message, text, started) {
  const { stats } = message;
  const seconds = (performance.now() - started) / 1000;
  stats.first ??= seconds;
  stats.seconds = seconds - stats.first;
  stats.tokens += 1;
  message.text = (message.text + text).trimStart(); // the space between the prompt and the answer
  if (active?.conversation !== current || active.message !== message) return;
  const log = byId("log");
  const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  const article = log.children[current.messages.indexOf(message)];
  article.querySelector(".body").textContent = message.text;
  article.querySelector(".stats").textContent = statistics(message);
  if (isAtEnd) log.scrollTop = log.scrollHeight;
}

function fail(conversation, message, error, asked, earlier) {
  const wasStopped = error.name === "AbortError";
  if (message.text) {
    if (wasStopped) message.stats.end = "stopped";
    else message.error = error.message;
    return;
  }
  conversation.messages = earlier ?? asked;
  if (wasStopped) return;
  notice(error.message ?? String(error));
  if (error.status === 401) byId("ask-key").showModal();
}

/** The prompt's tokens of an answer that ended before the server told them. */
async function countPrompt(message, messages) {
  try {
    message.stats.prompt = (await api.countTokens(messages)).count;
    const article = byId("log").children[current.messages.indexOf(message)];
    if (article) article.querySelector(".stats").textContent = statistics(message);
  } catch {
    // The line stays without this number.
  }
}

// The message that is being written

function sampling() {
  return Object.fromEntries(SAMPLING.map((name) => {
    const { value, valueAsNumber, validity } = byId(name);
    return [name, value === "" || !validity.valid ? (name === "max_tokens" ? 512 : null) : valueAsNumber];
  }));
}

function attach(files) {
  for (const file of files) {
    const entry = { ...attachment(file), done: false, error: null };
    attached.push(entry);
    entry.ready.then(() => { entry.done = true; }, (error) => { entry.error = error.message; }).then(renderAttached);
  }
  renderAttached();
  byId("text").focus();
}

function renderAttached() {
  const failed = attached.filter(({ error }) => error !== null);
  if (failed.length) {
    attached = attached.filter(({ error }) => error === null);
    notice(failed.map(({ error }) => error).join(" "));
  }
  byId("attached").replaceChildren(...attached.map((entry) => {
    const { media, done } = entry;
    const remove = () => { attached = attached.filter((each) => each !== entry); renderAttached(); byId("text").focus(); };
    return element("li", { className: done ? "" : "loading", title: media.name }, thumbnail(media),
      button("×", remove, { className: "remove", "aria-label": `Remove ${media.name}` }));
  }));
  renderComposer();
}

function renderComposer() {
  byId("send").hidden = active !== null;
  byId("stop").hidden = active === null;
  byId("send").disabled = !byId("text").value.trim() && !attached.length;
  byId("log").setAttribute("aria-busy", isWriting(current));
}

function notice(text) {
  byId("notice").replaceChildren(...(text ? [element("p", { textContent: text }), button("Dismiss", () => notice(""))] : []));
}

function say(text) {
  byId("live").textContent = text;
}

// Panels and themes

function showList(isShown) {
  document.body.classList.toggle("listing", isShown);
  byId("show-list").setAttribute("aria-expanded", isShown);
}

function look(isOpen) {
  panel.open(isOpen);
  const { scrollTop } = byId("log");
  renderLog();
  byId("log").scrollTop = scrollTop;
}

function lookInto(index) {
  look(true);
  byId("log").children[index].querySelector(".word")?.focus();
}

function useTheme(theme) {
  document.documentElement.dataset.theme = theme;
  byId("theme").setAttribute("aria-label", `Theme: ${THEMES[theme]}`);
  byId("theme").title = `Theme: ${THEMES[theme]}`;
  remember("theme", theme);
}

function remember(name, value) {
  try {
    localStorage.setItem(`owl2-${name}`, value);
  } catch {
    // A browser that keeps nothing.
  }
}

function remembered(name) {
  try {
    return localStorage.getItem(`owl2-${name}`);
  } catch {
    return null;
  }
}

function wire() {
  byId("composer").onsubmit = (event) => { event.preventDefault(); send(); };
  byId("stop").onclick = () => { active?.controller.abort(); byId("text").focus(); };
  byId("text").oninput = renderComposer;
  byId("text").onkeydown = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
  };
  byId("attach").onclick = () => byId("files").click();
  byId("files").onchange = () => { attach(byId("files").files); byId("files").value = ""; };
  byId("new").onclick = () => { choose(fresh()); byId("text").focus(); };
  byId("show-list").onclick = () => showList(!document.body.classList.contains("listing"));
  byId("show-attention").onclick = () => look(!panel.isOpen);
  byId("show-settings").onclick = () => {
    const [settings, log] = [byId("settings"), byId("log")];
    const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
    settings.hidden = !settings.hidden;
    if (isAtEnd) log.scrollTop = log.scrollHeight;
    byId("show-settings").setAttribute("aria-expanded", !settings.hidden);
  };
  byId("theme").onclick = () => {
    const names = Object.keys(THEMES);
    useTheme(names[(names.indexOf(document.documentElement.dataset.theme) + 1) % names.length]);
  };
  byId("ask-key").onclose = () => { api.useKey(byId("key").value); connect(); };
  document.onkeydown = (event) => {
    if (event.key !== "Escape") return;
    if (active && isWriting(current)) active.controller.abort();
    else if (document.body.classList.contains("listing")) showList(false);
    else if (panel.isOpen) panel.clear();
  };
  wireSampling();
  wireDropAndPaste();
}

function wireSampling() {
  for (const name of SAMPLING) {
    const input = byId(name);
    const show = () => { if (byId(`${name}-shown`)) byId(`${name}-shown`).textContent = input.value; };
    input.value = remembered(name) ?? input.value;
    input.oninput = () => { show(); remember(name, input.value); };
    show();
  }
}

function wireDropAndPaste() {
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  document.ondragover = (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    byId("drop").hidden = false;
  };
  document.ondragleave = (event) => { if (!event.relatedTarget) byId("drop").hidden = true; };
  document.ondrop = (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    byId("drop").hidden = true;
    attach(event.dataTransfer.files);
  };
  document.onpaste = (event) => {
    if (!event.clipboardData?.files.length) return;
    event.preventDefault();
    attach(event.clipboardData.files);
  };
}

async function connect() {
  try {
    const { id, max_model_len } = await api.model();
    byId("model").textContent = `${id} · context of ${number(max_model_len)} tokens`;
    document.title = `${id} · owl2`;
    notice("");
  } catch (error) {
    notice(error.message);
    if (error.status === 401) byId("ask-key").showModal();
  }
}

useTheme(remembered("theme") ?? "system");
wire();
current = fresh();
renderLog();
connect();
try {
  conversations = await store.load();
} catch {
  notice("This browser keeps no conversations: they last until the page is closed.");
}
renderList();
byId("text").focus();
