// SPDX-License-Identifier: Apache-2.0
// Which view is shown: the list of processes, or one of them. The place behind the # of the page's address says
// which.

import { ask, keepToken, Problem, takeToken } from "./api.js";
import { bytes, count, duration, el, fill, losses, notice, short, some, table } from "./parts.js";
import { ProcessView } from "./process.js";

const main = document.getElementById("main");
const where = document.getElementById("where");
const server = document.getElementById("server");

class ProcessList {
  constructor(onstate) {
    this.control = new AbortController();
    this.onstate = onstate;
    this.list = el("div");
    this.all = el("button", { type: "button", "aria-pressed": "false", onclick: () => {
      this.showsAll = !this.showsAll;
      this.all.setAttribute("aria-pressed", String(this.showsAll));
      this.show();
    } }, "Ended ones, too");
    this.filter = el("input", { type: "search", placeholder: "Filter", "aria-label": "Filter", class: "grow",
      oninput: () => this.show() });
    this.element = el("div", {}, el("h1", {}, "Processes"), el("section", { class: "panel" },
      el("div", { class: "bar" }, this.filter, this.all), this.list));
    this.poll();
  }

  stop() { this.control.abort(); }

  async poll() {
    const { signal } = this.control;
    while (!signal.aborted) {
      try {
        this.answer = await ask("/v1/processes", {}, signal);
        // Whoever has come into the table by the keyboard must not be thrown out of it.
        if (!this.list.contains(document.activeElement)) this.show();
        this.onstate("");
      } catch (problem) {
        if (signal.aborted) return;
        if (!(problem instanceof Problem)) throw problem;
        if (problem.kind === "gone") this.onstate(problem.message);
        else fill(this.list, notice(problem.message), problem.kind === "token" ? this.tokenForm() : null);
        if (problem.kind === "token" || problem.kind === "denied") return;
      }
      await new Promise((resolve) => { setTimeout(resolve, 3000); });
    }
  }

  // For a token that stands in a file, and so in no link.
  tokenForm() {
    const field = el("input", { type: "password", "aria-label": "Token", placeholder: "Token", class: "grow",
      autocomplete: "off" });
    return el("form", { class: "bar", onsubmit: (event) => {
      event.preventDefault();
      keepToken(field.value.trim());
      route();
    } }, field, el("button", { type: "submit" }, "Use this token"));
  }

  show() {
    if (!this.answer) return;
    const words = this.filter.value.toLowerCase();
    const all = this.answer.processes;
    const rows = all.filter((process) => (this.showsAll || process.state === "live")
      && (words === "" || wordsOf(process).includes(words)));
    if (rows.length === 0) {
      fill(this.list, all.length === 0
        ? [notice("No process is indexed.", true),
          el("p", {}, "Start one with ", el("code", { class: "mono" }, "allocsctl run -- COMMAND"),
          "; it appears here.")]
        : notice(words ? "No process fits the filter."
          : "No indexed process runs; some that have ended can be looked at.", true));
      return;
    }
    const how = (process) => (process.signal ? process.signal
      : process.exit_status !== undefined ? `exit ${process.exit_status}` : process.state);
    const columns = [
      { title: "Process", number: true, cell: (process) => String(process.pid), sort: (process) => process.pid },
      { title: "State", cell: how, sort: how },
      { title: "Runs for", number: true, sort: (process) => process.uptime_seconds ?? -1,
        cell: (process) => (process.uptime_seconds === undefined ? "" : duration(process.uptime_seconds)) },
      { title: "User", cell: (process) => process.user, sort: (process) => process.user },
      { title: "Index", number: true, cell: (process) => bytes(process.segment_bytes),
        sort: (process) => process.segment_bytes },
      { title: "Command", cell: (process) => el("td", { class: "wide" },
        process.problem ? [short(process.command?.join(" ") ?? ""),
          el("div", { class: "place" }, short(process.problem))]
          : el("a", { class: "clamp", href: `#/process/${process.pid}@${process.start_time}` },
            short(process.command?.join(" ") || "not readable")),
        process.lost_blocks ? el("div", { class: "place" }, `${some(process.lost_blocks, "block")} not in the index`)
          : null) },
    ];
    fill(this.list,
      table(columns, rows, { caption: "Processes", sorted: this.order, onsort: (index) => { this.order = index; } }),
      this.answer.omitted ? notice(`${count(this.answer.omitted)} more are not listed.`, true) : null,
        losses(this.answer));
  }
}

const wordsOf = (process) =>
  `${process.pid} ${process.user} ${process.command?.join(" ") ?? ""}`.toLowerCase();

let view;

let said = "";

function say(words) {
  if (words === said) return;
  said = words;
  fill(server, words ? notice(words) : null);
}

// A part of an address that somebody typed wrongly stays as it is.
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function route() {
  view?.stop();
  const match = /^#\/process\/([^/]+)$/.exec(location.hash);
  say("");
  if (match) {
    const process = decoded(match[1]);
    fill(where, `process ${process.split("@")[0]}`);
    view = new ProcessView(process, say);
  } else {
    fill(where);
    document.title = "allocsd";
    view = new ProcessList(say);
  }
  fill(main, view.element);
  // For tests, and whoever looks into the page with the browser's tools.
  window.allocsd = view;
}

takeToken();
addEventListener("hashchange", () => {
  takeToken();
  route();
});
route();
