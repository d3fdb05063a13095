// Maps over images, and the chart of shares.

import { svg } from "./elements.js";

const HEAT = [[23, 12, 56], [106, 23, 110], [188, 55, 84], [243, 120, 25], [252, 255, 164]];
export const KINDS = [
  ["vision", "image", "#c0504d"],
  ["sinks", "image, where it draws attention whatever it holds", "#e0a44c"],
  ["text", "text", "#3b6ea5"],
  ["begin", "first token", "#8c8c8c"],
];
const WIDTH = 320;

/** A canvas with an image, as the model sees it, under a map. */
export function mapCanvas(map, bitmap, aspect, isSigned) {
  const [sourceX, sourceY, sourceWidth, sourceHeight] = frame(bitmap, aspect);
  const scale = Math.min(2, devicePixelRatio || 1);
  const canvas = document.createElement("canvas");
  canvas.width = WIDTH * scale;
  canvas.height = Math.round((canvas.width * sourceHeight) / sourceWidth);
  const context = canvas.getContext("2d");
  context.fillStyle = "#777";
  context.fillRect(0, 0, canvas.width, canvas.height);
  if (bitmap) {
    const factor = canvas.width / sourceWidth;
    context.filter = "grayscale(0.7) brightness(0.8)";
    context.drawImage(bitmap, -sourceX * factor, -sourceY * factor, bitmap.width * factor, bitmap.height * factor);
    context.filter = "none";
  }
  context.imageSmoothingEnabled = false; // patches are what is known
  context.drawImage(cells(map, isSigned), 0, 0, canvas.width, canvas.height);
  return canvas;
}

/** The part of an image that the model sees: all of it, a square around it, or the square in its middle. */
function frame(bitmap, aspect) {
  if (!bitmap) return [0, 0, 1, 1];
  const { width, height } = bitmap;
  if (aspect === "resize") return [0, 0, width, height];
  const side = aspect === "pad" ? Math.max(width, height) : Math.min(width, height);
  return [(width - side) / 2, (height - side) / 2, side, side];
}

function cells(map, isSigned) {
  const canvas = document.createElement("canvas");
  canvas.height = map.length;
  canvas.width = map[0].length;
  const values = map.flat();
  const most = Math.max(...values.map(Math.abs)) || 1;
  const pixels = new ImageData(canvas.width, canvas.height);
  values.forEach((value, index) => {
    const strength = Math.abs(value) / most;
    const color = isSigned ? (value > 0 ? [214, 40, 40] : [40, 90, 214]) : heat(strength);
    pixels.data.set([...color, 255 * (isSigned ? 0.85 * strength : 0.12 + 0.7 * strength)], 4 * index);
  });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

function heat(value) {
  const place = value * (HEAT.length - 1);
  const index = Math.min(Math.floor(place), HEAT.length - 2);
  return HEAT[index].map((from, channel) => from + (HEAT[index + 1][channel] - from) * (place - index));
}

/** Shares of the attention of each layer that go to image, text and the first token, stacked. */
export function shareChart(shares, chosen) {
  const layers = shares.vision.length;
  const [left, top, width, height] = [38, 6, 278, 110];
  const step = width / layers;
  const chart = svg("svg", { viewBox: "0 0 320 140", role: "img", "aria-label": described(shares) });
  for (const share of [0, 0.5, 1]) {
    const y = top + height * (1 - share);
    chart.append(svg("text", { x: left - 5, y: y + 3, "text-anchor": "end" }, `${share * 100}%`));
    chart.append(svg("line", { x1: left, x2: left + width, y1: y, y2: y }));
  }
  for (let layer = 0; layer < layers; layer += 1) {
    let y = top + height;
    for (const [kind, , color] of KINDS) {
      const share = kind === "vision" ? shares.vision[layer] - shares.sinks[layer] : shares[kind][layer];
      y -= share * height;
      const bar = { x: left + layer * step, y, width: Math.max(step - 1.5, 1), height: share * height, fill: color };
      chart.append(svg("rect", { ...bar, opacity: chosen === null || chosen.includes(layer) ? 1 : 0.3 }));
    }
    if (layer % Math.ceil(layers / 12) === 0) {
      const x = left + (layer + 0.5) * step;
      chart.append(svg("text", { x, y: top + height + 12, "text-anchor": "middle" }, String(layer)));
    }
  }
  chart.append(svg("text", { x: left + width / 2, y: 138, "text-anchor": "middle" }, "decoder layer"));
  return chart;
}

function described(shares) {
  const words = shares.vision.map((share, layer) => `layer ${layer} ${Math.round(share * 100)}%`);
  return `Share of the attention that goes to images: ${words.join(", ")}`;
}

/** Canvases side by side above lines of text, as one image. */
export function picture(canvases, lines) {
  const width = Math.max(640, canvases.reduce((total, canvas) => total + canvas.width + 16, 16));
  const height = Math.max(0, ...canvases.map((canvas) => canvas.height)) + 32;
  const whole = document.createElement("canvas");
  const context = whole.getContext("2d");
  context.font = "16px system-ui, sans-serif";
  const wrapped = lines.flatMap((line) => wrap(context, line, width - 32));
  whole.width = width;
  whole.height = height + 24 * wrapped.length + 8;
  context.fillStyle = "#fff";
  context.fillRect(0, 0, whole.width, whole.height);
  let x = 16;
  for (const canvas of canvases) {
    context.drawImage(canvas, x, 16);
    x += canvas.width + 16;
  }
  context.fillStyle = "#222";
  context.font = "16px system-ui, sans-serif";
  wrapped.forEach((line, index) => context.fillText(line, 16, height + 16 + 24 * index));
  return new Promise((resolve) => whole.toBlob(resolve, "image/png"));
}

function wrap(context, text, width) {
  const lines = [""];
  for (const word of text.split(" ")) {
    const longer = `${lines.at(-1)} ${word}`.trim();
    if (context.measureText(longer).width > width) lines.push(word);
    else lines[lines.length - 1] = longer;
  }
  return lines;
}
