// SPDX-License-Identifier: Apache-2.0
// A flame graph of live memory on a canvas. Nodes of one depth lie side by side in typed arrays, so that a frame of
// an animation looks at each of them once and draws no more than a box a pixel.
//
// Mouse: a click zooms to a box, a click on the lowest goes back. Keyboard: arrows choose a box, Enter zooms, Escape
// goes back. The chosen box is told as text below.

import { bytes, colours, el, fill, hash, short, some, surface } from "./parts.js";

const rowHeight = 18;
const rowsMost = 200;

// The tree of a speedscope file with the profiles "bytes" and "blocks": nodes in arrays, each depth's side by side.
function grow(file, inverted) {
  const names = file.shared.frames.map((frame) => frame.name);
  const [inBytes, inBlocks] = file.profiles;
  const root = { name: "all", bytes: 0, blocks: 0, children: new Map() };
  inBytes.samples.forEach((sample, index) => {
    const [weight, blocks] = [inBytes.weights[index], inBlocks.weights[index]];
    root.bytes += weight;
    root.blocks += blocks;
    let node = root;
    const depth = Math.min(sample.length, rowsMost);
    for (let step = 0; step < depth; step += 1) {
      const name = names[sample[inverted ? sample.length - 1 - step : step]];
      let child = node.children.get(name);
      if (child === undefined) {
        child = { name, bytes: 0, blocks: 0, children: new Map() };
        node.children.set(name, child);
      }
      child.bytes += weight;
      child.blocks += blocks;
      node = child;
    }
  });
  const rows = [];
  let level = [{ node: root, start: 0, parent: -1 }];
  while (level.length > 0) {
    const row = { start: new Float64Array(level.length), end: new Float64Array(level.length),
      parent: new Int32Array(level.length), hue: new Uint16Array(level.length),
      nodes: level.map((entry) => entry.node) };
    const next = [];
    level.forEach(({ node, start, parent }, index) => {
      row.start[index] = start;
      row.end[index] = start + node.bytes;
      row.parent[index] = parent;
      row.hue[index] = hash(node.name) % 8;
      let place = start;
      for (const child of [...node.children.values()].sort((a, b) => b.bytes - a.bytes)) {
        next.push({ node: child, start: place, parent: index });
        place += child.bytes;
      }
      node.children = undefined;
    });
    rows.push(row);
    level = next;
  }
  return { rows, total: root.bytes };
}

export class FlameGraph {
  constructor() {
    this.canvas = el("canvas", { tabindex: "0", role: "application", "aria-label": "Flame graph of live memory",
      "aria-describedby": "flame-detail" });
    this.detail = el("div", { class: "detail", id: "flame-detail", role: "status" });
    this.search = el("input", { type: "search", placeholder: "Search names", "aria-label": "Search names",
      class: "grow",
      oninput: () => this.find() });
    this.found = el("span", { class: "quiet", role: "status" });
    this.invert = el("button", { type: "button", "aria-pressed": "false", onclick: () => this.turn() }, "Inverted");
    this.reset = el("button", { type: "button", onclick: () => this.zoom(0, 0) }, "Whole graph");
    this.element = el("div", {}, el("div", { class: "bar" }, this.search, this.found, this.invert, this.reset),
      this.canvas, this.detail);
    this.inverted = false;
    this.surface = surface(this.canvas, () => Math.max(4, this.tree?.rows.length ?? 4) * rowHeight,
      (...all) => this.paint(...all));
    this.canvas.addEventListener("click", (event) => this.press(event));
    this.canvas.addEventListener("pointermove", (event) => {
      const hit = this.at(event);
      this.canvas.style.cursor = hit ? "pointer" : "default";
      if (hit) this.tell(...hit);
    });
    this.canvas.addEventListener("keydown", (event) => this.key(event));
  }

  stop() { this.surface.stop(); }

  show(file) {
    this.file = file;
    this.begin();
  }

  begin() {
    this.tree = grow(this.file, this.inverted);
    this.view = [0, Math.max(1, this.tree.total)];
    this.zoomed = [0, 0];
    this.chosen = [0, 0];
    this.find();
    if (this.tree.total === 0) fill(this.detail, "No live block was made then.");
    else this.tell(0, 0);
    this.surface.draw();
  }

  turn() {
    this.inverted = !this.inverted;
    this.invert.setAttribute("aria-pressed", String(this.inverted));
    if (this.file) this.begin();
  }

  // Marks the boxes whose names have the words, and says how much lies in stacks that lead through them.
  find() {
    const words = this.search.value.toLowerCase();
    this.marks = null;
    fill(this.found);
    if (words === "" || !this.tree) return this.surface.draw();
    const known = new Map();
    const fits = (name) => {
      let fit = known.get(name);
      if (fit === undefined) known.set(name, fit = name.toLowerCase().includes(words));
      return fit;
    };
    let sum = 0;
    let above = null;
    this.marks = this.tree.rows.map((row) => {
      const marks = new Uint8Array(row.nodes.length);
      const covered = new Uint8Array(row.nodes.length);
      row.nodes.forEach((node, index) => {
        covered[index] = above && row.parent[index] >= 0 ? above[row.parent[index]] : 0;
        if (!fits(node.name)) return;
        marks[index] = 1;
        if (!covered[index]) sum += node.bytes;
        covered[index] = 1;
      });
      above = covered;
      return marks;
    });
    fill(this.found, `${bytes(sum)}, ${(100 * sum / Math.max(1, this.tree.total)).toFixed(1)} %`);
    return this.surface.draw();
  }

  at(event) {
    if (!this.tree) return null;
    const box = this.canvas.getBoundingClientRect();
    const depth = Math.floor((event.clientY - box.top) / rowHeight);
    const row = this.tree.rows[depth];
    if (!row) return null;
    const value = this.view[0] + (event.clientX - box.left) / box.width * (this.view[1] - this.view[0]);
    const index = lastAtOrBelow(row.start, value);
    return index >= 0 && value < row.end[index] ? [depth, index] : null;
  }

  press(event) {
    const hit = this.at(event);
    if (!hit) return;
    this.chosen = hit;
    if (hit[0] === this.zoomed[0] && hit[1] === this.zoomed[1]) this.zoom(0, 0);
    else this.zoom(...hit);
  }

  tell(depth, index) {
    const node = this.tree.rows[depth].nodes[index];
    const share = (100 * node.bytes / Math.max(1, this.tree.total)).toFixed(1);
    fill(this.detail, el("strong", {}, short(node.name, 4000)), el("br"),
      `${bytes(node.bytes)} (${share} %) in ${some(node.blocks, "block")}`);
  }

  zoom(depth, index) {
    const row = this.tree?.rows[depth];
    if (!row) return;
    this.zoomed = [depth, index];
    this.chosen = [depth, index];
    this.tell(depth, index);
    const [from, to] = [[...this.view], [row.start[index], Math.max(row.end[index], row.start[index] + 1e-9)]];
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const start = performance.now();
    this.frames = 0;
    const step = (now) => {
      const part = still ? 1 : Math.min(1, Math.max(0, (now - start) / 220));
      const eased = 1 - (1 - part) ** 3;
      this.view = [from[0] + (to[0] - from[0]) * eased, from[1] + (to[1] - from[1]) * eased];
      this.frames += 1;
      this.surface.draw();
      if (part < 1) requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }

  key(event) {
    if (!this.tree) return;
    const [depth, index] = this.chosen;
    const { rows } = this.tree;
    const row = rows[depth];
    const moves = {
      ArrowUp: () => (depth > 0 ? [depth - 1, row.parent[index]] : null),
      ArrowDown: () => {
        const below = rows[depth + 1];
        const child = below ? lastAtOrBelow(below.start, row.start[index]) : -1;
        return child >= 0 && below.parent[child] === index ? [depth + 1, child] : null;
      },
      ArrowLeft: () => (index > 0 ? [depth, index - 1] : null),
      ArrowRight: () => (index + 1 < row.nodes.length ? [depth, index + 1] : null),
      Home: () => [0, 0],
    };
    if (event.key === "Enter") return this.zoom(depth, index);
    if (event.key === "Escape") return this.zoom(0, 0);
    if (!(event.key in moves)) return undefined;
    event.preventDefault();
    const next = moves[event.key]();
    if (next) {
      this.chosen = next;
      this.tell(...next);
      this.surface.draw();
    }
    return undefined;
  }

  paint(context, width, height) {
    if (!this.tree) return;
    const colour = colours();
    const [from, to] = this.view;
    const scale = width / (to - from);
    const fills = [0, 1, 2, 3, 4, 5, 6, 7].map((shade) => (colour.dark
      ? `hsl(${14 + shade * 5} 45% ${27 + shade * 1.6}%)` : `hsl(${18 + shade * 5} 88% ${74 + shade * 1.5}%)`));
    const marked = colour.dark ? "#8a4fa8" : "#d9a6f2";
    context.font = "12px system-ui, sans-serif";
    context.textBaseline = "middle";
    this.tree.rows.forEach((row, depth) => {
      const top = depth * rowHeight;
      const { start, end } = row;
      const marks = this.marks?.[depth];
      let edge = -1;
      const first = Math.max(0, lastAtOrBelow(start, from));
      for (let index = first; index < start.length && start[index] < to; index += 1) {
        const right = (end[index] - from) * scale;
        // A box that ends in a pixel that is drawn already is not seen.
        if (right <= edge + 0.6) continue;
        const left = Math.max(edge, (start[index] - from) * scale, 0);
        const wide = Math.min(right, width) - left;
        if (wide <= 0) continue;
        context.fillStyle = marks?.[index] ? marked : fills[row.hue[index]];
        context.fillRect(left, top, wide > 2 ? wide - 0.5 : Math.max(wide, 0.6), rowHeight - 1);
        edge = Math.min(right, width);
        if (wide > 30) {
          context.fillStyle = colour.text;
          const room = Math.floor((wide - 8) / 6.2);
          const { name } = row.nodes[index];
          const shown = name.length > room ? `${name.slice(0, Math.max(1, room - 1))}…` : name;
          context.fillText(shown, left + 4, top + rowHeight / 2, wide - 6);
        }
      }
    });
    const [depth, index] = this.chosen;
    const row = this.tree.rows[depth];
    if (row && document.activeElement === this.canvas) {
      context.strokeStyle = colour.accent;
      context.lineWidth = 2;
      context.strokeRect((row.start[index] - from) * scale + 1, depth * rowHeight + 1,
        Math.max(2, (row.end[index] - row.start[index]) * scale - 2), rowHeight - 3);
    }
  }
}

// The last place of a sorted array whose value is at or below `value`; -1 if there is none.
function lastAtOrBelow(array, value) {
  let low = 0;
  let high = array.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (array[middle] <= value) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}
