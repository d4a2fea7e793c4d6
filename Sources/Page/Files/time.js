// SPDX-License-Identifier: Apache-2.0
// Live memory over time, as far as this page has watched, and the brush on it: the window of time that other views
// are about. Mouse and touch draw the window; with the keyboard the arrows move its begin, with Shift its end.

import { bytes, clock, colours, duration, el, fill, surface } from "./parts.js";

const most = 3600;

export class Timeline {
  // onwindow: is told of { since, until } in seconds since 1970, or of null for all blocks.
  constructor(onwindow) {
    this.points = [];
    // How far the clock of the process's machine is ahead of this one's, in seconds.
    this.skew = 0;
    this.window = null;
    // The times of looks whose sums by site are known.
    this.looks = [];
    this.onwindow = onwindow;
    this.canvas = el("canvas", { tabindex: "0", role: "img", "aria-describedby": "window-words" });
    this.words = el("span", { id: "window-words", class: "quiet", role: "status" });
    const spans = [["All", null], ["Last 10 s", 10], ["1 min", 60], ["10 min", 600], ["1 h", 3600]];
    this.presets = spans.map(([title, seconds]) =>
      el("button", { type: "button", onclick: () => {
        const now = this.now();
        this.choose(seconds === null ? null : { since: now - seconds, until: null });
      } }, title));
    this.element = el("section", { class: "panel", "aria-label": "Live memory over time" },
      el("div", { class: "bar" }, el("h2", { class: "grow" }, "Live memory over time"), this.presets),
      this.canvas, this.words);
    this.surface = surface(this.canvas, (width) => (width < 500 ? 110 : 140), (...all) => this.paint(...all));
    this.canvas.addEventListener("pointerdown", (event) => this.begin(event));
    this.canvas.addEventListener("pointermove", (event) => this.move(event));
    this.canvas.addEventListener("pointerup", (event) => this.end(event));
    this.canvas.addEventListener("pointercancel", () => { this.dragged = undefined; this.surface.draw(); });
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.say();
  }

  stop() { this.surface.stop(); }

  now() { return Date.now() / 1000 + this.skew; }

  // `time`: of the process's machine, which tells windows.
  add(time, total) {
    this.skew = time - Date.now() / 1000;
    this.points.push({ time, bytes: total.bytes, blocks: total.blocks });
    // An hour of a point every two seconds, and then every other of the older ones.
    if (this.points.length > most) {
      this.points = this.points.filter((_, index) => index % 2 === 0 || index > most / 2);
    }
    this.surface.draw();
  }

  mark(times) {
    this.looks = times;
    this.surface.draw();
  }

  choose(window) {
    this.window = window;
    this.say();
    this.surface.draw();
    this.onwindow(window);
  }

  say() {
    const last = this.points.at(-1);
    const line = last ? `${bytes(last.bytes)} in ${last.blocks.toLocaleString("en-US")} blocks. ` : "";
    const window = this.window;
    const chosen = window === null ? "Drag across the line to see what was made then and still lives."
      : window.until === null ? `Chosen: what was made since ${clock(window.since)} and still lives.`
        : `Chosen: what was made from ${clock(window.since)} to ${clock(window.until)} and still lives.`;
    fill(this.words, this.dragged ? "" : line, chosen);
    this.canvas.setAttribute("aria-label", `Live memory over time. ${line}${chosen}`);
  }

  // The times at the left and right edge.
  range() {
    const last = this.points.at(-1)?.time ?? this.now();
    const first = this.points[0]?.time ?? last;
    return [Math.min(first, last - 60), last];
  }

  timeAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const [from, to] = this.range();
    return from + Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) * (to - from);
  }

  begin(event) {
    this.canvas.setPointerCapture(event.pointerId);
    const time = this.timeAt(event);
    this.dragged = { from: time, to: time };
  }

  move(event) {
    if (!this.dragged) return;
    this.dragged.to = this.timeAt(event);
    this.surface.draw();
  }

  end(event) {
    if (!this.dragged) return;
    const [a, b] = [this.dragged.from, this.timeAt(event)];
    this.dragged = undefined;
    const [from, to] = this.range();
    const [since, until] = [Math.min(a, b), Math.max(a, b)];
    // A click takes the window away. A window that reaches the right edge goes on until now.
    if (until - since < (to - from) / 200) this.choose(null);
    else this.choose({ since, until: to - until < (to - from) / 100 ? null : until });
  }

  key(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1 };
    if (event.key === "Escape") return this.choose(null);
    if (!(event.key in steps)) return undefined;
    event.preventDefault();
    const [from, to] = this.range();
    const step = steps[event.key] * (to - from) / 40;
    const window = { ...(this.window ?? { since: from, until: null }) };
    if (event.shiftKey) window.until = Math.min(to, Math.max(window.since + 1, (window.until ?? to) + step));
    else window.since = Math.max(from, Math.min((window.until ?? to) - 1, window.since + step));
    return this.choose(window);
  }

  paint(context, width, height) {
    const colour = colours();
    const [from, to] = this.range();
    const values = this.points.map((point) => point.bytes);
    const largest = Math.max(1, ...values);
    const smallest = values.length ? Math.min(...values) : 0;
    // From nought up, unless so little changes that it would look like nothing; the labels say which.
    const change = largest - smallest;
    const low = change < largest / 4 ? Math.max(0, smallest - Math.max(change, largest / 50)) : 0;
    const high = largest + (largest - low) * 0.08;
    const bottom = height - 18;
    const x = (time) => (time - from) / (to - from) * width;
    const y = (value) => bottom - (value - low) / (high - low) * (bottom - 4);
    const chosen = this.dragged
      ? { since: Math.min(this.dragged.from, this.dragged.to), until: Math.max(this.dragged.from, this.dragged.to) }
      : this.window;
    if (chosen) {
      context.fillStyle = colour.back;
      const left = Math.max(0, x(chosen.since));
      context.fillRect(left, 0, Math.max(1, x(chosen.until ?? to) - left), bottom);
    }
    context.strokeStyle = colour.line;
    context.lineWidth = 1;
    context.font = "11px system-ui, sans-serif";
    context.fillStyle = colour.quiet;
    for (const part of [0, 0.5, 1]) {
      const value = low + (largest - low) * part;
      const level = Math.round(y(value)) + 0.5;
      context.beginPath();
      context.moveTo(0, level);
      context.lineTo(width, level);
      context.stroke();
      context.fillText(bytes(value), 4, part > 0 ? level + 12 : level - 4);
    }
    context.fillText(`${duration(to - from)} ago`, 4, height - 4);
    context.textAlign = "right";
    context.fillText(clock(to), width - 4, height - 4);
    context.textAlign = "left";
    if (this.points.length === 0) return;
    context.strokeStyle = colour.quiet;
    for (const time of this.looks) {
      const place = Math.round(x(time)) + 0.5;
      context.beginPath();
      context.moveTo(place, bottom);
      context.lineTo(place, bottom - 5);
      context.stroke();
    }
    context.strokeStyle = colour.accent;
    context.lineWidth = 2;
    context.lineJoin = "round";
    context.beginPath();
    this.points.forEach((point, index) => context[index ? "lineTo" : "moveTo"](x(point.time), y(point.bytes)));
    context.stroke();
    const last = this.points.at(-1);
    context.fillStyle = colour.accent;
    context.beginPath();
    context.arc(Math.min(width - 4, x(last.time)), y(last.bytes), 3.5, 0, 7);
    context.fill();
  }
}
