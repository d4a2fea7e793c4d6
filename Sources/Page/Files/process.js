// SPDX-License-Identifier: Apache-2.0
// One process: its facts, its memory over time, and the views of what lives: flame graph, sites, change since a
// moment, address space, resident memory, and the answer about an address. A view is asked for when it is looked at.

import { ask, pathOf, Problem } from "./api.js";
import { Changes, siteLimit as keptSites } from "./change.js";
import { FlameGraph } from "./flame.js";
import { AddressMap } from "./map.js";
import { showMemory } from "./memory.js";
import {
  bytes, clock, count, duration, el, fill, losses, nameOf, notice, placeOf, short, siteCells, some, table,
} from "./parts.js";
import { Timeline } from "./time.js";

const siteLimit = 500;
// Seconds between two looks that are kept for comparisons.
const lookInterval = 10;
const states = {
  live: "runs", exited: "ended", dead: "ended", unreadable: "can't be read", "not permitted": "not permitted",
};

export class ProcessView {
  // onstate: is told words about the server, or "" when it answers.
  constructor(process, onstate) {
    this.process = process;
    this.onstate = onstate;
    this.control = new AbortController();
    this.heading = el("h1", {}, `Process ${process}`);
    this.facts = el("dl", { class: "facts" });
    this.state = el("div");
    this.missing = el("div");
    this.time = new Timeline((window) => this.chooseWindow(window));
    this.flame = new FlameGraph();
    this.map = new AddressMap(process, (address, moves = true) => this.query(address, moves));
    this.tables = el("div");
    this.change = new Changes((signal) => this.look(signal), (times) => this.time.mark(times));
    this.change.onchoice = () => this.load();
    this.memory = el("div");
    this.answer = el("div", { role: "status" });
    this.answerBelow = el("div", { role: "status" });
    this.words = el("div", { class: "quiet", role: "status" });
    this.field = el("input", { type: "text", placeholder: "0x7f36…", "aria-label": "Address", class: "grow mono",
      spellcheck: "false", autocapitalize: "off", autocomplete: "off" });
    this.mark = el("button", { type: "button", onclick: () => this.setMark() }, "Mark this moment");
    this.views = [
      { title: "Flame graph", element: this.flame.element, load: (signal) => this.loadFlame(signal), windowed: true },
      { title: "Sites", element: this.tables, load: (signal) => this.loadSites(signal), windowed: true },
      { title: "Change", element: el("div", {}, el("div", { class: "bar" }, this.change.bar, this.mark),
        this.change.element), load: (signal) => this.change.load(signal), compares: true },
      { title: "Address space", element: el("div", {}, this.map.element, this.answerBelow),
        load: (signal) => this.map.load(this.time.window, signal), windowed: true },
      { title: "Resident memory", element: this.memory, load: (signal) => this.loadMemory(signal) },
      { title: "Address", element: el("div", {},
        el("form", { class: "bar", onsubmit: (event) => {
          event.preventDefault();
          this.query(this.field.value.trim());
        } }, this.field, el("button", { type: "submit" }, "What is there?")), this.answer),
        load: () => this.field.focus() },
    ];
    this.tabs = this.views.map((view, index) => el("button", { type: "button", role: "tab", id: `tab-${index}`,
      "aria-controls": "view", "aria-selected": "false", tabindex: "-1", onclick: () => this.open(index) },
      view.title));
    this.panel = el("div", { role: "tabpanel", id: "view" });
    const list = el("div", { class: "tabs", role: "tablist", "aria-label": "Views",
      onkeydown: (event) => this.moveTab(event) }, this.tabs);
    this.refresh = el("button", { type: "button", onclick: () => this.load() }, "Look again");
    this.element = el("div", {}, this.heading, this.state,
      el("section", { class: "panel", "aria-label": "Facts" }, this.facts),
      this.missing, this.time.element, el("section", { class: "panel", "aria-label": "Views" }, list,
        el("div", { class: "bar" }, el("div", { class: "grow" }, this.words), this.refresh), this.panel));
    this.open(0);
    this.poll();
  }

  stop() {
    this.control.abort();
    this.loading?.abort();
    for (const part of [this.time, this.flame, this.map]) part.stop();
  }

  get path() { return pathOf(this.process); }

  // MARK: watching

  async poll() {
    let pause = 2000;
    const { signal } = this.control;
    while (!signal.aborted) {
      const start = performance.now();
      try {
        const summary = await ask(this.path, {}, signal);
        const runs = summary.state === "live" && !summary.abandoned;
        if (runs || !this.hasTotal) {
          const keeps = runs && !(start < this.looksAt);
          const top = await ask(`${this.path}/top`, { limit: keeps ? keptSites : 1 }, signal);
          const { started, uptime_seconds: uptime } = summary;
          this.time.add(started !== undefined && uptime !== undefined ? started + uptime : Date.now() / 1000,
            top.total);
          if (keeps) {
            this.looksAt = start + lookInterval * 1000;
            this.change.keep(this.change.look(top, this.time.now()));
          }
          this.hasTotal = true;
          this.showFacts(summary, top);
          this.time.say();
        }
        this.showState(summary);
        this.onstate("");
        if (runs && this.current?.compares && this.change.repeats) await this.load(true);
        if (!runs) pause = 10000;
      } catch (problem) {
        if (signal.aborted) return;
        if (!(problem instanceof Problem)) throw problem;
        if (problem.kind === "gone") this.onstate(problem.message);
        else fill(this.state, notice(problem.message));
        if (problem.kind === "token" || problem.kind === "denied") return;
        pause = 4000;
      }
      // No more than a tenth of the time goes into watching.
      const rest = Math.max(pause, (performance.now() - start) * 9);
      await new Promise((resolve) => { setTimeout(resolve, rest); });
    }
  }

  showState(summary) {
    const parts = [];
    if (summary.state !== "live") {
      let how = states[summary.state] ?? summary.state;
      if (summary.signal) how = `ended by ${summary.signal}`;
      else if (summary.exit_status !== undefined) how = `ended with status ${summary.exit_status}`;
      parts.push(notice(`The process ${how}. What lived at its end is shown. ${summary.problem ?? ""}`));
    } else if (summary.abandoned) {
      parts.push(notice("The process no longer writes this index, as after exec: what lived until then is shown."));
    }
    if (this.stateWords === `${summary.state} ${summary.abandoned}`) return;
    this.stateWords = `${summary.state} ${summary.abandoned}`;
    fill(this.state, parts);
  }

  showFacts(summary, top) {
    const command = summary.command?.join(" ") ?? "";
    fill(this.heading, short(command || `Process ${summary.pid}`, 200));
    document.title = `${summary.pid} ${short(command, 40)} – allocsd`;
    const running = summary.threads?.filter((thread) => thread.state === "live").length ?? 0;
    const facts = [
      ["Live", bytes(top.total.bytes), true], ["Blocks", count(top.total.blocks), true],
      ["Sites", count(top.site_count)], ["Allocations", count(summary.allocations)], ["Frees", count(summary.frees)],
      ["Process", summary.pid], ["User", summary.user], ["Threads", count(running)],
      ["State", states[summary.state] ?? summary.state],
      ["Runs for", summary.uptime_seconds === undefined ? undefined : duration(summary.uptime_seconds)],
      ["Index", bytes(summary.segment_bytes)], ["Stacks", summary.stacks === "full" ? "whole" : "call sites"],
    ];
    fill(this.facts, facts.filter(([, value]) => value !== undefined).map(([name, value, large]) =>
      el("div", {}, el("dt", {}, name), el("dd", { class: large ? "large" : undefined }, value))));
    // Said once, and again when it has changed.
    const missing = losses(top);
    if ((missing?.textContent ?? "") !== this.missing.textContent) fill(this.missing, missing);
  }

  // MARK: views

  open(index) {
    this.current = this.views[index];
    this.tabs.forEach((tab, place) => {
      tab.setAttribute("aria-selected", String(place === index));
      tab.setAttribute("tabindex", place === index ? "0" : "-1");
    });
    this.panel.setAttribute("aria-labelledby", `tab-${index}`);
    fill(this.panel, this.current.element);
    this.load();
  }

  moveTab(event) {
    const index = this.views.indexOf(this.current);
    const steps = { ArrowLeft: index - 1, ArrowRight: index + 1, Home: 0, End: this.views.length - 1 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const next = (steps[event.key] + this.views.length) % this.views.length;
    this.open(next);
    this.tabs[next].focus();
  }

  chooseWindow(window) {
    this.change.choose(window);
    if (this.current?.windowed || this.current?.compares) this.load();
  }

  get window() {
    const window = this.time.window;
    return { since: window?.since && `@${window.since}`, until: window?.until && `@${window.until}` };
  }

  async load(quietly = false) {
    this.loading?.abort();
    const loading = new AbortController();
    this.loading = loading;
    if (!quietly) fill(this.words, "…");
    try {
      await this.current.load(loading.signal);
      const window = this.current.windowed ? this.time.window : null;
      const about = window === null ? "" : window.until === null ? `, of what was made since ${clock(window.since)}`
        : `, of what was made from ${clock(window.since)} to ${clock(window.until)}`;
      fill(this.words, `As of ${clock(this.time.now())}${about}.`);
    } catch (problem) {
      if (loading.signal.aborted) return;
      if (!(problem instanceof Problem)) throw problem;
      fill(this.words, notice(problem.message));
    }
  }

  async loadFlame(signal) {
    this.flame.show(await ask(`${this.path}/profile`, { format: "speedscope", ...this.window }, signal));
  }

  async loadSites(signal) {
    const top = await ask(`${this.path}/top`, { limit: siteLimit, ...this.window }, signal);
    const total = Math.max(1, top.total.bytes);
    const siteCell = siteCells(top.sites.map((site) => [site.site, site.function]));
    const columns = [
      { title: "Bytes", number: true, cell: (site) => bytes(site.bytes), sort: (site) => site.bytes },
      { title: "Share", number: true, cell: (site) => `${(100 * site.bytes / total).toFixed(1)} %` },
      { title: "Blocks", number: true, cell: (site) => count(site.blocks), sort: (site) => site.blocks },
      { title: "Oldest", number: true, cell: (site) => age(site.oldest_seconds),
        sort: (site) => site.oldest_seconds ?? -1 },
      { title: "Newest", number: true, cell: (site) => age(site.newest_seconds),
        sort: (site) => site.newest_seconds ?? -1 },
      { title: "Allocated by", cell: (site) => siteCell(site.site, site.function) },
    ];
    fill(this.tables, table(columns, top.sites, { caption: "Allocation sites", sorted: 0 }),
      top.other.blocks ? el("p", { class: "quiet" },
        `${some(top.site_count - top.sites.length, "other site")}: ${bytes(top.other.bytes)}`
          + ` in ${some(top.other.blocks, "block")}`)
        : null,
      (top.names_missing ?? []).map((why) => notice(`Names: ${short(why)}`, true)), losses(top));
  }

  // MARK: change

  async look(signal) {
    return this.change.look(await ask(`${this.path}/top`, { limit: keptSites }, signal), this.time.now());
  }

  async setMark() {
    try {
      await this.change.mark(this.control.signal);
      await this.load();
    } catch (problem) {
      if (problem instanceof Problem) fill(this.words, notice(problem.message));
    }
  }

  // MARK: resident memory

  async loadMemory(signal) {
    showMemory(this.memory, await ask(`${this.path}/memory`, {}, signal));
  }

  // MARK: an address

  // `moves`: whether the view of addresses comes to the front.
  async query(address, moves = true) {
    const place = moves ? this.answer : this.answerBelow;
    if (moves) {
      this.field.value = address;
      if (this.current !== this.views.at(-1)) this.open(this.views.length - 1);
    }
    try {
      fill(place, this.answerOf(await ask(`${this.path}/query`, { address }, this.control.signal), moves));
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      fill(place, notice(problem.message));
    }
  }

  answerOf(answer, moves) {
    const facts = [];
    const fact = (name, value) => { if (value !== undefined && value !== null) facts.push([name, value]); };
    const step = (block) => el("button", { type: "button", class: "mono",
      onclick: () => this.query(block.base, moves) }, block.base);
    const kinds = { heap: "a live block", free: "free", static: "static", stack: "a thread's stack",
      mapping: "mapped memory",
      unmapped: "not mapped" };
    let title = `${answer.address}: ${kinds[answer.kind] ?? answer.kind}`;
    if (answer.kind === "free" && answer.lost_blocks) {
      const verb = answer.lost_blocks === 1 ? "is" : "are";
      title += `, or one of ${some(answer.lost_blocks, "block")} that ${verb} not in the index`;
    }
    if (answer.base) fact("Block", `${some(answer.size, "byte")} at ${answer.base}, ${some(answer.offset, "byte")} in`);
    fact("Made", answer.age_seconds === undefined ? undefined : `${duration(answer.age_seconds)} ago`);
    fact("By", answer.function && [answer.function, answer.allocator].filter(Boolean).join(" of "));
    fact("Thread", answer.thread && `${answer.thread.id} ${answer.thread.name ?? ""}`);
    fact("Symbol", answer.symbol);
    fact("Variable", answer.variable && [answer.variable.path, answer.variable.type].filter(Boolean).join(", "));
    fact("Part", answer.part && [answer.part.kind, answer.part.name].filter(Boolean).join(" "));
    fact("Module", answer.module);
    const { mapping } = answer;
    fact("Mapping", mapping
      && `${mapping.start}–${mapping.end} ${mapping.permissions} ${mapping.path ?? "anonymous"}`);
    fact("Previous", answer.previous && el("span", {}, step(answer.previous),
      ` ${some(answer.previous.size, "byte")}`));
    fact("Next", answer.next && el("span", {}, step(answer.next), ` ${some(answer.next.size, "byte")}`));
    const frames = answer.stack ?? answer.mapped_by?.stack;
    return [
      el("h2", {}, title), answer.note ? notice(short(answer.note, 1000), true) : null,
      el("dl", { class: "facts" }, facts.map(([name, value]) => el("div", {}, el("dt", {}, name),
        el("dd", {}, value)))),
      frames ? el("ol", { class: "stack", start: "0" },
        frames.map((frame) => el("li", {}, short(nameOf(frame), 2000), " ",
        el("span", { class: "place" }, short(placeOf(frame), 300))))) : null,
      answer.stack_truncated ? el("p", { class: "quiet" }, "Further callers are not recorded.") : null,
        losses(answer),
    ];
  }
}

const age = (seconds) => (seconds === undefined ? "" : duration(seconds));
