// Small helpers for elements.

export const byId = (id) => document.getElementById(id);

/** An element with properties and children; `class`, `aria-...`, `data-...` and `for` are attributes. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  fill(made, properties, children);
  return made;
}

export function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function fill(made, properties, children) {
  for (const [key, value] of Object.entries(properties)) {
    if (key in made && !key.includes("-")) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null));
}

export const button = (text, action, properties = {}) =>
  element("button", { type: "button", className: "quiet small", textContent: text, onclick: action, ...properties });

export const number = (value, digits = 0) =>
  value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

export const counted = (count, what) => `${number(count)} ${what}${count === 1 ? "" : "s"}`;

export function download(blob, name) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
