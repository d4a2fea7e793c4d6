// SPDX-License-Identifier: Apache-2.0
// Parts of which all views are made. Names from processes go into the page as text alone: an element's content is set
// by `textContent`, or by nodes; nothing here makes markup of a string.

// An element: el("td", { class: "number", onclick: f }, "text", child…). null and undefined are left out.
export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  put(element, ...children);
  return element;
}

// Adds children; texts become text nodes.
export function put(element, ...children) {
  for (const child of children.flat()) {
    if (child === null || child === undefined) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return element;
}

export function fill(element, ...children) {
  element.replaceChildren();
  return put(element, ...children);
}

const grouping = new Intl.NumberFormat("en-US");
export const count = (value) => grouping.format(value);
export const some = (value, one, many) => `${count(value)} ${value === 1 ? one : many ?? `${one}s`}`;

export function bytes(value) {
  const sign = value < 0 ? "−" : "";
  let rest = Math.abs(value);
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  while (rest >= 1023.95 && unit + 1 < units.length) {
    rest /= 1024;
    unit += 1;
  }
  return `${sign}${unit === 0 ? count(rest) : rest.toFixed(1)} ${units[unit]}`;
}

export function duration(seconds) {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 120) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

export const clock = (time) => new Date(time * 1000).toLocaleTimeString([], { hour12: false });
export const signed = (value, form) => (value > 0 ? `+${form(value)}` : form(value));

// A name that may have thousands of characters, for places that have room for some.
export const short = (text, limit = 400) => (text.length > limit ? `${text.slice(0, limit)}…` : text);

const fileName = (path) => path.slice(path.lastIndexOf("/") + 1);

// What a frame is called: its function, else its place in its module, else its address.
export function nameOf(frame) {
  if (frame?.function) return frame.function;
  if (frame?.module) return `${fileName(frame.module)}+0x${(frame.offset ?? 0).toString(16)}`;
  return frame?.pc ?? "not known";
}

export function placeOf(frame) {
  if (frame?.file) return frame.line ? `${frame.file}:${frame.line}` : frame.file;
  return frame?.module ?? "";
}

const siteTexts = (site, called) => {
  const texts = [site ? nameOf(site) : "caller not known", called, site ? placeOf(site) : ""];
  return [short(texts[0]), short(texts.slice(1).filter(Boolean).join(" · "), 200)];
};

// A site beside others of the table: what would look like another has its address, too. `all`: pairs of a site and the
// function that was called. Returns the maker of cells.
export function siteCells(all) {
  const counts = new Map();
  for (const pair of all) {
    const text = siteTexts(...pair).join("\n");
    counts.set(text, (counts.get(text) ?? 0) + 1);
  }
  return (site, called) => {
    const [name, place] = siteTexts(site, called);
    const alike = counts.get(`${name}\n${place}`) > 1 ? site?.pc : undefined;
    const title = short(site ? nameOf(site) : name, 2000);
    return el("td", { class: "wide" }, el("div", { class: "clamp", title }, name),
      el("div", { class: "place" }, [place, alike].filter(Boolean).join(" · ")));
  };
}

export function notice(text, quiet = false) {
  return el("p", { class: quiet ? "notice quiet" : "notice", role: quiet ? undefined : "alert" }, text);
}

// What an index is known to lack, in words; null where nothing is known to be missing.
export function losses(answer) {
  const parts = [];
  if (answer.lost_blocks) {
    parts.push(`${some(answer.lost_blocks, "block")} ${answer.lost_blocks === 1 ? "is" : "are"} not in the index`);
  }
  if (answer.inner_blocks) parts.push(`${some(answer.inner_blocks, "block")} made inside allocation calls not either`);
  if (answer.unknown_frees) parts.push(`${some(answer.unknown_frees, "free")} where no block was known`);
  if (answer.imbalance) {
    const way = answer.imbalance > 0 ? "more" : "fewer";
    parts.push(`allocations less frees are ${count(Math.abs(answer.imbalance))} ${way} than the live blocks`);
  }
  if (answer.may_pass_by?.length) parts.push(`allocations may pass by: ${short(answer.may_pass_by.join(", "))}`);
  return parts.length ? notice(`Missing: ${parts.join("; ")}.`) : null;
}

// A table. columns: [{ title, number, cell: (row) => text or td, sort: (row) => number or text }]. `onsort` is told
// by which column the reader sorts.
export function table(columns, rows, { caption, sorted = null, onsort = () => {} } = {}) {
  let order = sorted;
  const body = el("tbody");
  const headings = columns.map((column, index) => el("th",
    { class: column.number ? "number" : undefined, scope: "col" },
    column.sort ? el("button", { type: "button", onclick: () => sort(index) }, column.title) : column.title));
  function sort(index) {
    order = index;
    onsort(index);
    show();
  }
  function show() {
    const column = columns[order];
    const list = column?.sort
      ? [...rows].sort((a, b) => {
        const [left, right] = [column.sort(a), column.sort(b)];
        return left < right ? (column.number ? 1 : -1) : left > right ? (column.number ? -1 : 1) : 0;
      }) : rows;
    headings.forEach((heading, index) => {
      if (index === order) heading.setAttribute("aria-sort", columns[index].number ? "descending" : "ascending");
      else heading.removeAttribute("aria-sort");
    });
    fill(body, list.map((row) => el("tr", {}, columns.map((column) => {
      const made = column.cell(row);
      const cell = made instanceof HTMLTableCellElement ? made
        : el("td", { class: column.number ? "number" : undefined }, made);
      // Shown where the page is narrow.
      cell.dataset.title = column.title;
      return cell;
    }))));
  }
  show();
  return el("div", { class: "scroll" },
    el("table", {}, caption ? el("caption", { class: "visually-hidden" }, caption) : null,
      el("thead", {}, el("tr", {}, headings)), body));
}

// A number from a name, the same each time: FNV-1a.
export function hash(text) {
  let value = 0x811c9dc5;
  const end = Math.min(text.length, 4096);
  for (let index = 0; index < end; index += 1) value = Math.imul(value ^ text.charCodeAt(index), 0x01000193);
  return value >>> 0;
}

export const isDark = () => matchMedia("(prefers-color-scheme: dark)").matches;

// Colours of the page, for canvases, which CSS doesn't reach.
export function colours() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  return { text: colour("--text"), quiet: colour("--quiet"), line: colour("--line"), accent: colour("--accent"),
    back: colour("--accent-back"), panel: colour("--panel"), dark: isDark() };
}

// Draws a canvas in the pixels of the screen, and anew when its size or the colours change. Returns { draw, stop }.
export function surface(canvas, height, paint) {
  let scheduled = 0;
  const draw = () => {
    if (scheduled === 0) scheduled = requestAnimationFrame(() => { scheduled = 0; now(); });
  };
  function now() {
    const ratio = window.devicePixelRatio || 1;
    const width = canvas.clientWidth;
    if (width === 0) return;
    const tall = height(width);
    const [across, down] = [Math.round(width * ratio), Math.round(tall * ratio)];
    if (canvas.width !== across || canvas.height !== down) {
      [canvas.width, canvas.height] = [across, down];
      canvas.style.height = `${tall}px`;
    }
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, tall);
    paint(context, width, tall);
  }
  const watcher = new ResizeObserver(draw);
  watcher.observe(canvas);
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", draw);
  return {
    draw,
    stop() {
      watcher.disconnect();
      scheme.removeEventListener("change", draw);
      if (scheduled !== 0) cancelAnimationFrame(scheduled);
    },
  };
}
