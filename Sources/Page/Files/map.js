// SPDX-License-Identifier: Apache-2.0
// The address space as a map: each span of it in rows of cells, coloured by how full they are, by who has most of
// them, or by how long ago the newest block was made. A click, or Enter, asks about the cell's first block and offers
// to look inside the cell.

import { ask, pathOf } from "./api.js";
import { bytes, colours, count, duration, el, fill, hash, losses, nameOf, short, some, surface } from "./parts.js";

const side = 9;
const labelHeight = 18;

export class AddressMap {
  // onaddress: is given an address to ask about.
  constructor(process, onaddress) {
    this.process = process;
    this.onaddress = onaddress;
    this.trail = [];
    this.colouring = "occupancy";
    const choices = [["occupancy", "How full"], ["site", "Site"], ["age", "Age"]];
    this.choices = choices.map(([value, title]) => el("button",
      { type: "button", "aria-pressed": value === "occupancy",
      onclick: () => this.colour(value) }, title));
    this.names = choices.map(([value]) => value);
    this.back = el("button", { type: "button", disabled: true, onclick: () => this.leave() }, "Back out");
    this.words = el("span", { class: "quiet grow", role: "status" });
    this.canvas = el("canvas", { tabindex: "0", role: "application", "aria-label": "Map of the address space",
      "aria-describedby": "map-detail" });
    this.detail = el("div", { class: "detail", id: "map-detail", role: "status" });
    this.missing = el("div");
    this.legend = el("div", { class: "bar quiet" });
    this.element = el("div", {}, el("div", { class: "bar" }, el("span", { class: "quiet" }, "Colour:"), this.choices,
      this.back,
      this.words), this.legend, el("div", { class: "heatscroll" }, this.canvas), this.detail, this.missing);
    this.surface = surface(this.canvas, (width) => this.lay(width), (...all) => this.paint(...all));
    this.canvas.addEventListener("click", (event) => {
      const hit = this.at(event);
      if (hit) this.enter(hit);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      const hit = this.at(event);
      this.canvas.style.cursor = hit && this.cell(hit).length ? "pointer" : "default";
      if (hit && !this.held) this.tell(hit);
    });
    this.canvas.addEventListener("keydown", (event) => this.key(event));
  }

  stop() { this.surface.stop(); }

  async load(window, signal) {
    const place = this.trail.at(-1) ?? {};
    this.window = window;
    const map = await ask(`${pathOf(this.process)}/map`,
      { ...place, since: window?.since && `@${window.since}`, until: window?.until && `@${window.until}`,
        cells: 8192 }, signal);
    this.map = map;
    this.held = false;
    this.chosen = [0, 0];
    this.back.disabled = this.trail.length === 0;
    const range = place.from ? `${place.from} to ${place.to}: ` : "";
    const sum = `${some(map.total.blocks, "block")} of ${bytes(map.total.bytes)}`;
    fill(this.words, `${range}${sum}, a cell is ${bytes(map.cell_bytes)}`);
    fill(this.missing, losses(map));
    fill(this.detail, map.spans.length ? "Choose a cell: a click asks about the block there."
      : "No live block lies there.");
    this.oldest = Math.max(1, ...map.spans.flatMap((span) => span.cells.map((cell) => cell[4] ?? 0)));
    this.explain();
    this.surface.draw();
  }

  colour(value) {
    this.colouring = value;
    this.choices.forEach((button, index) => button.setAttribute("aria-pressed", String(this.names[index] === value)));
    this.explain();
    this.surface.draw();
  }

  explain() {
    if (!this.map) return;
    const dark = colours().dark;
    const swatch = (colour, text) => {
      const mark = el("span", { class: "swatch" });
      mark.style.background = colour;
      return el("span", {}, mark, text);
    };
    const words = {
      occupancy: () => [swatch(occupancyColour(0.05, dark), "nearly empty"),
        swatch(occupancyColour(0.5, dark), "half"),
        swatch(occupancyColour(1, dark), "full")],
      age: () => [swatch(ageColour(0, dark), "just made"), swatch(ageColour(0.5, dark), "older"),
        swatch(ageColour(1, dark), duration(this.oldest))],
      site: () => this.map.sites.slice(0, 6).map((site) =>
        swatch(siteColour(siteName(site), dark), `${short(siteName(site), 40)} ${bytes(site.bytes)}`)),
    };
    fill(this.legend, words[this.colouring]());
  }

  // The places of the spans; the height of all. What is laid out is what can be pointed at: a map that has come since
  // then has no places yet.
  lay(width) {
    this.laid = this.map;
    this.across = Math.max(1, Math.floor(width / side));
    let top = 0;
    this.tops = (this.map?.spans ?? []).map((span) => {
      const here = top;
      top += labelHeight + Math.ceil(span.cells.length / this.across) * side + 4;
      return here;
    });
    // Browsers have no canvas taller than 32,767 pixels of the screen.
    return Math.min(12_000, Math.max(60, top));
  }

  cell([span, index]) { return this.map.spans[span].cells[index]; }

  addressOf([span, index]) {
    return BigInt(this.map.spans[span].start) + BigInt(index) * BigInt(this.map.cell_bytes);
  }

  at(event) {
    if (!this.map || this.laid !== this.map) return null;
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let span = this.tops.length - 1;
    while (span >= 0 && this.tops[span] > y) span -= 1;
    if (span < 0 || y < this.tops[span] + labelHeight) return null;
    const column = Math.floor(x / side);
    const index = Math.floor((y - this.tops[span] - labelHeight) / side) * this.across + column;
    return column < this.across && index < this.map.spans[span].cells.length ? [span, index] : null;
  }

  tell(place) {
    const cell = this.cell(place);
    const start = this.addressOf(place);
    const range = el("span", { class: "mono" }, `0x${start.toString(16)}`);
    if (cell.length === 0) return fill(this.detail, range, ` · ${bytes(this.map.cell_bytes)} without a live block`);
    const [size, blocks, , oldest, newest, site] = cell;
    const ages = duration(newest) === duration(oldest) ? duration(newest)
      : `${duration(newest)} to ${duration(oldest)}`;
    const live = `${bytes(size)} of ${bytes(this.map.cell_bytes)} live, ${some(blocks, "block")}`;
    return fill(this.detail, range, ` · ${live}, made ${ages} ago`, el("br"),
      site === undefined ? "site not known" : `most of it by ${short(siteName(this.map.sites[site]), 1000)}`);
  }

  enter(place) {
    const cell = this.cell(place);
    this.chosen = place;
    this.held = true;
    this.tell(place);
    this.surface.draw();
    if (cell.length === 0) return;
    const start = this.addressOf(place);
    const into = { from: `0x${start.toString(16)}`, to: `0x${(start + BigInt(this.map.cell_bytes)).toString(16)}` };
    fill(this.detail, ...[...this.detail.childNodes], el("div", { class: "bar" },
      el("button", { type: "button", onclick: () => this.onaddress(cell[2]) }, `Ask about ${cell[2]}`),
      this.map.cell_bytes > 16 ? el("button", { type: "button", onclick: () => this.look(into) },
        "Look inside this cell") : null,
      el("button", { type: "button", onclick: () => { this.held = false; } }, "Go on looking")));
    this.onaddress(cell[2], false);
  }

  async look(range) {
    this.trail.push(range);
    await this.again();
  }

  async leave() {
    this.trail.pop();
    await this.again();
  }

  async again() {
    try {
      await this.load(this.window);
    } catch (problem) {
      fill(this.detail, problem.message);
    }
  }

  key(event) {
    if (!this.map?.spans.length || this.laid !== this.map) return;
    let [span, index] = this.chosen;
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.across, ArrowDown: this.across };
    if (event.key === "Enter") return this.enter(this.chosen);
    if (event.key === "Escape" && this.trail.length) return this.leave();
    if (!(event.key in moves)) return undefined;
    event.preventDefault();
    index += moves[event.key];
    if (index < 0 && span > 0) {
      span -= 1;
      index = this.map.spans[span].cells.length - 1;
    } else if (index >= this.map.spans[span].cells.length && span + 1 < this.map.spans.length) {
      span += 1;
      index = 0;
    }
    this.chosen = [span, Math.min(Math.max(index, 0), this.map.spans[span].cells.length - 1)];
    this.tell(this.chosen);
    this.surface.draw();
    return undefined;
  }

  paint(context, width) {
    if (!this.map) return;
    const colour = colours();
    const size = this.map.cell_bytes;
    const names = this.map.sites.map((site) => siteColour(siteName(site), colour.dark));
    const scale = Math.log1p(this.oldest);
    const shades = {
      occupancy: (cell) => occupancyColour(Math.min(1, cell[0] / size), colour.dark),
      site: (cell) => (cell[5] === undefined ? colour.quiet : names[cell[5]]),
      age: (cell) => ageColour(Math.log1p(cell[4]) / scale, colour.dark),
    };
    const shade = shades[this.colouring];
    context.font = "12px ui-monospace, monospace";
    this.map.spans.forEach((span, place) => {
      const top = this.tops[place];
      context.fillStyle = colour.quiet;
      context.fillText(`${span.start}  ${bytes(Number(BigInt(span.end) - BigInt(span.start)))}`, 0, top + 13, width);
      span.cells.forEach((cell, index) => {
        const x = (index % this.across) * side;
        const y = top + labelHeight + Math.floor(index / this.across) * side;
        context.fillStyle = cell.length === 0 ? colour.line : shade(cell);
        if (cell.length === 0) context.fillRect(x + 3, y + 3, 2, 2);
        else context.fillRect(x, y, side - 1, side - 1);
      });
    });
    const [span, index] = this.chosen;
    if (this.held || document.activeElement === this.canvas) {
      const top = (this.tops[span] ?? 0) + labelHeight + Math.floor(index / this.across) * side;
      context.strokeStyle = colour.accent;
      context.lineWidth = 2;
      context.strokeRect((index % this.across) * side - 1, top - 1, side + 1, side + 1);
    }
    this.canvas.setAttribute("aria-label", `Map of the address space: ${count(this.map.spans.length)} spans`);
  }
}

const siteName = (site) => (site.site ? nameOf(site.site) : site.function ?? "not known");
const occupancyColour = (part, dark) => (dark
  ? `hsl(208 ${40 + part * 40}% ${20 + part * 45}%)` : `hsl(208 ${45 + part * 40}% ${88 - part * 50}%)`);
const ageColour = (part, dark) => `hsl(${20 + part * 230} 70% ${dark ? 55 - part * 15 : 52 + part * 10}%)`;
const siteColour = (name, dark) => {
  const value = hash(name);
  return `hsl(${value % 360} ${45 + (value >> 9) % 35}% ${(dark ? 45 : 42) + (value >> 17) % 20}%)`;
};
