// SPDX-License-Identifier: Apache-2.0
// Where resident memory goes, as a picture and two tables: the parts that add up to the kernel's figure, and of the
// heap, which allocator and which of the C library's arenas holds it.

import { bytes, count, el, fill, losses, short, some, table } from "./parts.js";

// What the heap's resident memory is, in the pictures and in words.
const kinds = [
  { key: "live", words: "live blocks", hue: 210 },
  { key: "rounded", words: "rounded up", hue: 55 },
  { key: "gaps", words: "gaps", hue: 190 },
  { key: "free", words: "free pages", hue: 25 },
];
const hueOf = Object.fromEntries(kinds.map(({ key, hue }) => [key, hue]));
// Arenas of an allocator that have a row of their own.
const arenaLimit = 8;

function paint(mark, hue) {
  mark.style.background = `hsl(${hue} 55% 52%)`;
  return mark;
}

// A bar of pieces { words, value, hue }; what `whole` has above their sum stays empty.
function bar(pieces, whole, name, label) {
  const rest = { value: whole - pieces.reduce((sum, piece) => sum + piece.value, 0) };
  return el("div", { class: name, role: "img", "aria-label": label },
    [...pieces, rest].filter((piece) => piece.value > 0).map((piece) => {
      const part = el("div", { title: piece.words && `${piece.words}: ${bytes(piece.value)}` });
      part.style.flex = `${piece.value / Math.max(1, whole)} 0 0`;
      return piece.words ? paint(part, piece.hue) : part;
    }));
}

function partsOf({ heap, parts }) {
  const pieces = [];
  const add = (words, value, swapped, hue) => {
    if (value > 0 || swapped > 0) pieces.push({ words, value, swapped, hue });
  };
  if (heap.resident_live === undefined) add("Heap", parts.heap?.resident ?? 0, parts.heap?.swapped ?? 0, hueOf.live);
  else {
    const rounded = heap.resident_rounded ?? 0;
    add("Live blocks, as asked for", heap.resident_live, 0, hueOf.live);
    add("What glibc rounds them up by", rounded, 0, hueOf.rounded);
    add(`The rest of their pages: ${rounded ? "gaps" : "rounding, gaps"}`, heap.resident_beside - rounded, 0,
      hueOf.gaps);
    add("Pages without a live block: the allocator keeps them", heap.resident_free, parts.heap?.swapped ?? 0,
      hueOf.free);
  }
  const titles = { index: ["The index, and the agent", 280], stacks: ["Stacks", 130], code: ["Code", 100],
    data: ["Data of modules", 70], files: ["Mapped files", 0], shared: ["Shared memory", 330],
    anonymous: ["Mapped by the program itself", 250], other: ["The kernel's own", 310] };
  for (const [name, [words, hue]] of Object.entries(titles)) {
    add(words, parts[name]?.resident ?? 0, parts[name]?.swapped ?? 0, hue);
  }
  return pieces;
}

// What an allocator holds, or one of its arenas. `rounded` is not known of allocators that don't tell it.
function holding(part) {
  return { blocks: part.live_blocks, resident: part.resident, live: part.resident_live, rounded: part.resident_rounded,
    gaps: part.resident_beside - (part.resident_rounded ?? 0), free: part.resident_free };
}

function less(whole, parts) {
  const rest = { ...whole };
  for (const part of parts) {
    for (const [key, value] of Object.entries(part)) if (value !== undefined) rest[key] -= value;
  }
  return rest;
}

function wordsOf(arena) {
  switch (arena.kind) {
  case "main": return "The program break";
  case "thread": return `Heap ${arena.start ?? ""}`;
  case "single": return "Blocks with mappings of their own";
  default: return "Other mappings";
  }
}

// Rows of the heap: each allocator, and below it its arenas, those that hold most by themselves and the rest in sum.
export function heapRows(allocators) {
  return allocators.flatMap((part) => {
    const whole = holding(part);
    const rows = [{ ...whole, name: part.allocator ?? "Allocator not known", place: part.allocator_module }];
    const shown = (part.arenas ?? []).slice(0, arenaLimit)
      .map((arena) => ({ ...holding(arena), name: wordsOf(arena), inner: true }));
    rows.push(...shown);
    const others = (part.arena_count ?? 0) - shown.length;
    if (others > 0) {
      rows.push({ ...less(whole, shown.map(({ name, inner, ...numbers }) => numbers)),
        name: some(others, "other part"), inner: true });
    }
    return rows;
  });
}

// The heap by allocator; null where its pages can't be told apart.
function heapTable({ heap, allocators }) {
  if (heap.resident_live === undefined || !allocators?.length) return null;
  const rows = heapRows(allocators);
  const most = Math.max(1, ...rows.map((row) => row.resident));
  const amount = (title, key) => ({ title, number: true,
    cell: (row) => (row[key] === undefined ? "not told" : bytes(row[key])) });
  const columns = [
    amount("Resident", "resident"), amount("Live", "live"), amount("Rounded up", "rounded"), amount("Gaps", "gaps"),
    amount("Free pages", "free"), { title: "Blocks", number: true, cell: (row) => count(row.blocks) },
    { title: "Held by", cell: (row) => {
      const pieces = kinds.map(({ key, words, hue }) => ({ words, hue, value: row[key] ?? 0 }));
      const label = pieces.map((piece) => `${piece.words} ${bytes(piece.value)}`).join(", ");
      return el("td", { class: row.inner ? "wide inner" : "wide" },
        el("div", { class: "clamp" }, short(row.name)), row.place && el("div", { class: "place" }, short(row.place)),
        bar(pieces, most, "stackbar thin", label));
    } },
  ];
  return el("section", { class: "below" }, el("h2", {}, "The heap by allocator"),
    el("p", { class: "quiet" }, kinds.map(({ words, hue }) => el("span", { class: "key" },
      paint(el("span", { class: "swatch" }), hue), words))),
    table(columns, rows, { caption: "Resident memory of the heap by allocator and arena" }));
}

// Shows an answer of /v1/processes/PID/memory.
export function showMemory(element, memory) {
  const pieces = partsOf(memory);
  const { total } = memory;
  const columns = [
    { title: "Resident", number: true, cell: (piece) => bytes(piece.value), sort: (piece) => piece.value },
    { title: "Share", number: true,
      cell: (piece) => `${(100 * piece.value / Math.max(1, total.resident)).toFixed(1)} %` },
    { title: "Swapped", number: true, cell: (piece) => (piece.swapped ? bytes(piece.swapped) : "") },
    { title: "Of what", cell: (piece) => el("td", { class: "wide" }, paint(el("span", { class: "swatch" }), piece.hue),
      piece.words) },
  ];
  fill(element, el("p", {}, `${bytes(total.resident)} resident`
    + (total.swapped ? `, ${bytes(total.swapped)} swapped out` : "")
    + (memory.page_tables ? `; page tables take ${bytes(memory.page_tables)} more.` : ".")),
  bar(pieces, total.resident, "stackbar", "Where resident memory goes; the table says the same"),
  table(columns, pieces, { caption: "Resident memory" }), heapTable(memory), losses(memory));
}
