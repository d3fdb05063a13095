// The panel that shows where a word of an answer looked. It asks the server only for words of complete answers, one
// question at a time, and keeps what it was told.

import * as api from "./api.js";
import * as drawing from "./drawing.js";
import { button, byId, download, element, number } from "./elements.js";
import { forServer } from "./media.js";

const DELAY = 200; // a pointer that crosses words asks for none of them
const MOST_KEPT = 200;
const GROUPS = 7;

export class AttentionPanel {
  /** `isBusy` says whether an answer is being written. */
  constructor(isBusy) {
    this.isBusy = isBusy;
    this.kept = new Map();
    this.options = { layers: null, heads: null, through: "last", minus_average: false };
    this.shape = null;
    this.place = byId("attention");
    this.clear();
  }

  get isOpen() {
    return !this.place.hidden;
  }

  open(isOpen) {
    this.place.hidden = !isOpen;
    byId("show-attention").setAttribute("aria-expanded", isOpen);
    document.body.classList.toggle("looking", isOpen);
    if (!isOpen) this.clear();
  }

  clear() {
    this.cancel();
    this.subject = this.found = null;
    this.occlusions = new Map();
    this.isPinned = false;
    this.mark(null);
    this.render("Hover over a word of an answer, or go to the words with Tab and the arrow keys. A click keeps the word.");
  }

  cancel() {
    clearTimeout(this.timer);
    this.controller?.abort();
    this.controller = null;
  }

  /** `subject`: the messages before the answer, its text before the word, the word, its element, and a key for it. */
  hover(subject) {
    if (!this.isOpen || this.isPinned || this.subject?.key === subject.key) return;
    this.cancel();
    this.timer = setTimeout(() => this.look(subject), DELAY);
  }

  leave() {
    clearTimeout(this.timer);
  }

  pin(subject) {
    const isSame = this.isPinned && this.subject?.key === subject.key;
    this.isPinned = !isSame;
    if (!isSame) this.look(subject);
    this.mark(subject.element);
  }

  mark(marked) {
    this.marked?.classList.remove("looked", "pinned");
    this.marked = marked;
    marked?.classList.add("looked");
    if (this.isPinned) marked?.classList.add("pinned");
  }

  async look(subject) {
    this.cancel();
    this.mark(subject.element);
    if (this.isBusy()) {
      this.render("An answer is being written. Its words can be looked into when it is complete.");
      return;
    }
    const isOther = this.subject?.key !== subject.key;
    this.subject = subject;
    if (isOther) this.occlusions = new Map();
    const key = JSON.stringify([subject.key, this.options]);
    this.controller = new AbortController();
    const { signal } = this.controller;
    try {
      if (!this.kept.has(key)) {
        this.busy(true);
        const { before, word } = subject;
        const messages = await forServer(subject.messages);
        this.keep(key, await api.attention({ messages, before, word, ...this.sent() }, signal));
      }
      if (signal.aborted) return;
      this.found = this.kept.get(key);
      this.shape = [this.found.num_layers, this.found.num_heads];
      this.bitmaps = await bitmaps(subject.messages, this.found.images.length);
      if (!signal.aborted) this.render();
    } catch (error) {
      if (error.name !== "AbortError") this.render(error.message, true);
    } finally {
      if (!signal.aborted) this.busy(false);
    }
  }

  keep(key, found) {
    this.kept.set(key, found);
    if (this.kept.size > MOST_KEPT) this.kept.delete(this.kept.keys().next().value);
  }

  sent() {
    return Object.fromEntries(Object.entries(this.options).filter(([, value]) => value !== null));
  }

  busy(isBusy) {
    this.place.setAttribute("aria-busy", isBusy);
  }

  change(options) {
    const focused = document.activeElement?.id;
    Object.assign(this.options, options);
    this.look(this.subject).then(() => focused && byId(focused)?.focus());
  }

  render(message = null, isError = false) {
    this.place.replaceChildren(
      element("div", { className: "panel-head" },
        element("h2", { textContent: "Where did it look?" }),
        button("Close", () => { this.open(false); byId("show-attention").focus(); }, { "aria-label": "Close the panel" })),
    );
    if (message !== null) {
      this.place.append(element("p", { textContent: message, className: isError ? "error" : "muted", role: "status" }));
      return;
    }
    this.place.append(this.title(), ...this.maps(), this.shares(), this.controls(), this.exports());
  }

  title() {
    const { tokens, logprobs } = this.found;
    const each = tokens.map((token, index) => `“${token.trim() || token}” ${percent(Math.exp(logprobs[index]))}`);
    const label = tokens.length === 1 ? "Its probability" : `The probabilities of its ${tokens.length} tokens`;
    const title = element("p", { className: "word-title", textContent: this.subject.word });
    return element("div", { role: "status" }, title,
      element("p", { className: "muted small", textContent: `${label}: ${each.join(", ")}` }));
  }

  maps() {
    const { images, averaged, aspect } = this.found;
    if (!images.length) return [element("p", { className: "muted", textContent: "There is no image before this word." })];
    const figures = images.map((image, index) => {
      const label = images.length === 1 ? "the image" : `image ${index + 1} of ${images.length}`;
      const canvas = drawing.mapCanvas(image.map, this.bitmaps[index], aspect, false);
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `Attention to ${label}, brightest ${place(image.map)}`);
      const said = `${percent(image.share)} of the attention goes to ${label}; brightest patch: `
        + `${percent(Math.max(...image.map.flat()))} of that.`;
      return element("figure", {}, canvas, element("figcaption", { textContent: said }), this.hidden(index, label));
    });
    return [element("div", { className: "figures" }, ...figures), element("p", { className: "averaged small", textContent: averaged })];
  }

  /** What happens to the word when parts of an image are hidden: the button, or the map. */
  hidden(index, label) {
    const known = this.occlusions.get(index);
    if (!known) return button("What if hidden?", (event) => this.occlude(index, event.target));
    const canvas = drawing.mapCanvas(known.map, this.bitmaps[index], this.found.aspect, true);
    const most = known.map.flat().reduce((one, other) => (Math.abs(other) > Math.abs(one) ? other : one), 0);
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Effect of hiding parts of ${label}, strongest ${place(known.map)}`);
    const said = `Log-probability that “${known.token.trim()}” loses where a part is hidden. Red speaks for it, blue `
      + `against it; strongest: ${most > 0 ? "+" : ""}${Number(most.toPrecision(2))}.`;
    return element("div", { className: "hidden-map" }, canvas, element("p", { className: "small", textContent: said }));
  }

  async occlude(index, pressed) {
    const subject = this.subject;
    this.isPinned = true; // what was asked for stays
    this.mark(subject.element);
    pressed.disabled = true;
    pressed.textContent = `Hiding ${GROUPS * GROUPS} parts, one after the other …`;
    this.controller = new AbortController();
    const { signal } = this.controller;
    try {
      const { before, word } = subject;
      const body = { messages: await forServer(subject.messages), before, word, image: index, groups: GROUPS };
      const found = await api.occlusion(body, signal);
      if (this.subject !== subject) return;
      this.occlusions.set(index, found);
      this.render();
    } catch (error) {
      if (error.name !== "AbortError" && this.subject === subject) this.render(error.message, true);
    }
  }

  shares() {
    const { shares } = this.found;
    const mean = (values) => values.reduce((total, value) => total + value, 0) / values.length;
    const legend = drawing.KINDS.filter(([kind]) => mean(shares[kind]) > 0).map(([kind, name, color]) => {
      const value = kind === "vision" ? mean(shares.vision) - mean(shares.sinks) : mean(shares[kind]);
      const swatch = element("span", { className: "swatch" });
      swatch.style.background = color;
      return element("li", {}, swatch, `${name} ${percent(value)}`);
    });
    return element("section", {},
      element("h3", { textContent: "Image and text, by layer" }),
      drawing.shareChart(shares, this.options.layers),
      element("ul", { className: "legend small" }, ...legend),
      element("p", { className: "muted small", textContent: "Percentages are means over all layers. Attention is not importance: to learn what matters, hide it." }));
  }

  controls() {
    const { minus_average, through } = this.options;
    const minus = element("input", { type: "checkbox", id: "minus", checked: minus_average });
    minus.onchange = () => this.change({ minus_average: minus.checked });
    const rollout = element("input", { type: "checkbox", id: "rollout", checked: through === "rollout" });
    rollout.onchange = () => this.change({ through: rollout.checked ? "rollout" : "last" });
    return element("section", {},
      element("h3", { textContent: "What is averaged" }),
      this.chooser("layers", "Layers", this.shape[0]),
      this.chooser("heads", "Heads", this.shape[1]),
      element("label", { className: "check" }, minus, "minus the prompt’s average"),
      element("label", { className: "check" }, rollout, "roll the abstractor’s layers out"));
  }

  /** Any of some layers or heads; none chosen is all of them. */
  chooser(name, title, count) {
    const chosen = this.options[name] ?? [];
    const cells = Array.from({ length: count }, (_, index) => {
      const isChosen = chosen.includes(index);
      const next = isChosen ? chosen.filter((each) => each !== index) : [...chosen, index].sort((a, b) => a - b);
      const action = () => this.change({ [name]: next.length ? next : null });
      return button(String(index), action, { className: "cell", id: `${name}-${index}`, "aria-pressed": isChosen });
    });
    const all = button("all", () => this.change({ [name]: null }),
      { className: "cell", id: `${name}-all`, "aria-pressed": !chosen.length });
    return element("div", { className: "chooser", role: "group", "aria-label": title },
      element("span", { textContent: title }), element("div", { className: "cells" }, all, ...cells));
  }

  exports() {
    return element("div", { className: "bar" },
      button("Save as PNG", () => this.savePicture()), button("Save as JSON", () => this.saveNumbers()));
  }

  async savePicture() {
    const lines = [`“${this.subject.word}” in “${this.subject.before}${this.subject.word}”`,
      ...[...this.place.querySelectorAll("figcaption, .hidden-map p, .averaged")].map((each) => each.textContent)];
    download(await drawing.picture([...this.place.querySelectorAll("canvas")], lines), "attention.png");
  }

  saveNumbers() {
    const { messages, before, word } = this.subject;
    const told = messages.map(({ role, text, media }) => ({ role, text, media: (media ?? []).map((each) => each.name) }));
    const found = { messages: told, before, word, options: this.options, attention: this.found,
      occlusion: [...this.occlusions.values()] };
    download(new Blob([JSON.stringify(found, null, 1)], { type: "application/json" }), "attention.json");
  }
}

const percent = (value) => `${number(value * 100, value < 0.1 ? 1 : 0)}%`;

/** Where the largest value of a map is, in words. */
function place(map) {
  const values = map.flat().map(Math.abs);
  const index = values.indexOf(Math.max(...values));
  const [row, column] = [Math.floor(index / map[0].length), index % map[0].length];
  const third = (at, count, names) => names[Math.min(2, Math.floor((3 * (at + 0.5)) / count))];
  const down = third(row, map.length, ["top", "middle", "bottom"]);
  return `at the ${down} ${third(column, map[0].length, ["left", "centre", "right"])}`;
}

/** Images to draw below the maps; none where videos stand among them, whose frames only the server knows. */
async function bitmaps(messages, count) {
  const media = messages.flatMap((message) => message.media ?? []);
  if (media.length !== count || media.some(({ kind }) => kind !== "image")) return Array(count).fill(null);
  return Promise.all(media.map(({ blob }) => createImageBitmap(blob)));
}

/** An answer as words that can be hovered over, focused and chosen. `subjectOf` gives what the panel needs of one. */
export function words(text, panel, subjectOf) {
  const pieces = text.split(/(\s+)/);
  const made = element("div", { className: "words", role: "group", "aria-label": "Words of the answer" });
  let at = 0;
  for (const piece of pieces) {
    if (piece.trim()) {
      const first = made.querySelector(".word") === null;
      const before = text.slice(0, at);
      const word = element("span", { className: "word", textContent: piece, role: "button", tabIndex: first ? 0 : -1 });
      const subject = () => subjectOf(before, piece, word);
      word.onpointerenter = (event) => event.pointerType !== "touch" && panel.hover(subject());
      word.onpointerleave = () => panel.leave();
      word.onfocus = () => word.matches(":focus-visible") && panel.hover(subject());
      word.onclick = () => panel.pin(subject());
      word.onkeydown = (event) => move(event, made, word);
      made.append(word);
    } else {
      made.append(piece);
    }
    at += piece.length;
  }
  return made;
}

function move(event, made, word) {
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    word.click();
    return;
  }
  const all = [...made.querySelectorAll(".word")];
  const index = all.indexOf(word);
  const next = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: all.length - 1 }[event.key];
  if (next === undefined || !all[next]) return;
  event.preventDefault();
  word.tabIndex = -1;
  all[next].tabIndex = 0;
  all[next].focus();
}
