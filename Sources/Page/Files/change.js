// SPDX-License-Identifier: Apache-2.0
// What has become more, and what less, between two moments. An index knows what lives now; what lived at a moment that
// is past is known from looks alone. So the page keeps the sums by site of each look that it takes while it is open,
// and two of them are compared, or one with now: both are exact, and nothing is told of moments in between.
//
// A look lists the largest sites. A site that only one of two looks lists, while the other has more sites than it
// lists, is not compared, and counted.

import { bytes, clock, count, el, fill, losses, notice, signed, siteCells, some, table } from "./parts.js";

// Sites of a look that are kept, looks, and sites in all.
export const siteLimit = 2000;
const lookLimit = 60;
const descriptionLimit = 20000;
const rowLimit = 500;

export class Changes {
  // now: asks for a look; onlooks: is told the times of all looks that are kept.
  constructor(now, onlooks) {
    [this.now, this.onlooks] = [now, onlooks];
    this.looks = [];
    this.numbers = new Map();
    this.sites = [];
    // The looks that are compared; null: the first, and now.
    this.from = null;
    this.to = null;
    this.starts = el("select", { "aria-label": "From", onchange: () => this.chosen() });
    this.ends = el("select", { "aria-label": "To", onchange: () => this.chosen() });
    this.result = el("div");
    this.element = el("div", {}, this.result);
    this.bar = [el("label", {}, "From ", this.starts), el("label", {}, "to ", this.ends)];
    this.onchoice = () => {};
  }

  // MARK: looks

  // Sums by site as of a moment, from an answer of `top`.
  look(top, time) {
    const sites = new Map();
    let passed = 0;
    for (const site of top.sites) {
      const number = this.number(site);
      if (number === undefined) {
        passed += site.blocks;
        continue;
      }
      const known = sites.get(number);
      sites.set(number, known ? [known[0] + site.bytes, known[1] + site.blocks] : [site.bytes, site.blocks]);
    }
    return { time, total: top.total, sites, other: top.other.blocks + passed, answer: losses(top) };
  }

  // Sites are told apart by names: a line that was compiled twice is one.
  number(site) {
    const frame = site.site ?? {};
    const place = frame.function ? "" : frame.pc;
    const name = [site.function, frame.module, frame.function, frame.file, frame.line, place].join("\0");
    let number = this.numbers.get(name);
    if (number === undefined && this.sites.length < descriptionLimit) {
      number = this.sites.length;
      this.numbers.set(name, number);
      this.sites.push({ site: site.site, function: site.function });
    }
    return number;
  }

  keep(look, marked = false) {
    look.marked = marked;
    this.looks.push(look);
    if (this.looks.length > lookLimit) {
      // Every other of the older ones goes, but for those that somebody marked or chose; then the oldest.
      const isKept = (each, index) => each.marked || each === this.from || each === this.to || index === 0;
      this.looks = this.looks.filter((each, index) => isKept(each, index) || index % 2 === 0
        || index > lookLimit / 2);
      while (this.looks.length > lookLimit) this.looks.splice(this.looks[0] === this.from ? 1 : 0, 1);
    }
    this.list();
    this.onlooks(this.looks.map((each) => each.time));
  }

  list() {
    const options = (chosen, more) => [...more, ...this.looks.map((look) => [look,
      clock(look.time) + (look.marked ? ", marked" : "")])].map(([look, words]) => {
      const option = el("option", { selected: look === chosen }, words);
      option.look = look;
      return option;
    });
    // A list that is open must not change under its reader.
    if (document.activeElement !== this.starts) fill(this.starts, options(this.from ?? this.looks[0], []));
    if (document.activeElement !== this.ends) fill(this.ends, options(this.to, [[null, "now"]]));
  }

  // MARK: the choice

  chosen() {
    this.from = this.starts.selectedOptions[0]?.look ?? null;
    this.to = this.ends.selectedOptions[0]?.look ?? null;
    this.onchoice();
  }

  async mark(signal) {
    const look = await this.now(signal);
    this.keep(look, true);
    [this.from, this.to] = [look, null];
    this.list();
  }

  // The looks that are nearest to the edges of a window.
  choose(window) {
    const nearest = (time) => this.looks.reduce((best, look) =>
      (best && Math.abs(best.time - time) <= Math.abs(look.time - time) ? best : look), null);
    this.from = window === null ? null : nearest(window.since);
    this.to = window === null || window.until === null ? null : nearest(window.until);
    this.list();
  }

  // Whether what is shown changes with time.
  get repeats() { return this.to === null; }

  // MARK: the table

  async load(signal) {
    let [from, to] = [this.from ?? this.looks[0], this.to ?? await this.now(signal)];
    // Whoever has come into the table by the keyboard must not be thrown out of it.
    if (this.result.contains(document.activeElement)) return;
    const words = el("p", { class: "quiet" }, "Compared are looks that this page has taken while it was open: an index "
      + "has what lives now. Drag across the line to take the looks at its edges. What lived before is told by a "
      + "recording: ", el("code", { class: "mono" }, "allocsctl diff FILE@10s FILE@60s"), ".");
    if (!from || from === to) {
      const same = (time) =>
        notice(`Both moments are of one look, that of ${clock(time)}: nothing changed in it.`, true);
      fill(this.result, from ? same(from.time) : null, words);
      return;
    }
    if (from.time > to.time) [from, to] = [to, from];
    const { rows, open } = this.compare(from, to);
    const number = (value, form) => el("td", { class: `number ${value > 0 ? "grown" : value < 0 ? "gone" : ""}` },
      signed(value, form));
    const shown = rows.slice(0, rowLimit);
    const siteCell = siteCells(shown.map((row) => [row.site.site, row.site.function]));
    const columns = [
      { title: "Change", number: true, cell: (row) => number(row.bytes, bytes), sort: (row) => row.bytes },
      { title: "Blocks", number: true, cell: (row) => number(row.blocks, count), sort: (row) => row.blocks },
      { title: this.to === null ? "Now" : "Then", number: true, cell: (row) => bytes(row.now),
        sort: (row) => row.now },
      { title: "", cell: (row) => row.kind },
      { title: "Allocated by", cell: (row) => siteCell(row.site.site, row.site.function) },
    ];
    const span = this.to === null ? `Since ${clock(from.time)}` : `From ${clock(from.time)} to ${clock(to.time)}`;
    fill(this.result,
      el("p", {}, `${span}: ${signed(to.total.bytes - from.total.bytes, bytes)} and `
        + `${signed(to.total.blocks - from.total.blocks, count)} blocks, in ${some(rows.length, "site")}.`),
      table(columns, shown,
        { caption: "Change by site", sorted: this.order ?? 0, onsort: (index) => { this.order = index; } }),
      open ? notice(`${some(open, "site")} beyond the largest of one of the looks: not compared.`, true) : null,
      to.answer, words);
  }

  compare(from, to) {
    const rows = [];
    let open = 0;
    for (const number of new Set([...from.sites.keys(), ...to.sites.keys()])) {
      const [old, now] = [from.sites.get(number), to.sites.get(number)];
      if ((!old && from.other) || (!now && to.other)) {
        open += 1;
        continue;
      }
      const row = { site: this.sites[number], bytes: (now?.[0] ?? 0) - (old?.[0] ?? 0),
        blocks: (now?.[1] ?? 0) - (old?.[1] ?? 0), now: now?.[0] ?? 0, kind: !old ? "new" : !now ? "gone" : "" };
      if (row.bytes !== 0 || row.blocks !== 0) rows.push(row);
    }
    rows.sort((a, b) => Math.abs(b.bytes) - Math.abs(a.bytes));
    return { rows, open };
  }
}
