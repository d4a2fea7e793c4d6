// SPDX-License-Identifier: Apache-2.0
// Questions to the server. Over TCP a token goes with each, in a header: it came with the link, behind the #, and is
// kept for this tab alone. On a socket that asks for none, none is sent.

const key = "allocsd-token";

export function keepToken(token) { sessionStorage.setItem(key, token); }

// Takes the token out of the page's address, so that it is in no history and in no copied link.
export function takeToken() {
  const fields = new URLSearchParams(location.hash.slice(1));
  const [token, process] = [fields.get("token"), fields.get("process")];
  if (token === null && process === null) return;
  if (token !== null) keepToken(token);
  history.replaceState(null, "", process ? `#/process/${encodeURIComponent(process)}` : "#/");
}

// Why a question got no answer. kind: "gone" (no server), "token", "denied", "missing", "late", "other".
export class Problem extends Error {
  constructor(kind, message) {
    super(message);
    this.kind = kind;
  }
}

const kinds = { 401: "token", 403: "denied", 404: "missing", 413: "late", 503: "late", 504: "late" };

function address(path, parameters) {
  const query = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null)
    .map(([name, value]) => `${encodeURIComponent(name)}=${encodeURIComponent(value)}`).join("&");
  return query ? `${path}?${query}` : path;
}

// The JSON that the server answers with. Throws a Problem, or an AbortError if `signal` says so.
export async function ask(path, parameters = {}, signal = undefined) {
  const headers = { Accept: "application/json" };
  const token = sessionStorage.getItem(key);
  if (token !== null) headers.Authorization = `Bearer ${token}`;
  let response;
  let text;
  try {
    response = await fetch(address(path, parameters), { headers, signal, cache: "no-store", redirect: "error" });
    text = await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("gone", "The server can't be reached. It may have been stopped: this page asks again by itself.");
  }
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    value = undefined;
  }
  if (!response.ok) {
    throw new Problem(kinds[response.status] ?? "other", value?.error ?? `The server answered ${response.status}.`);
  }
  if (value === undefined) throw new Problem("other", "The server's answer is no JSON.");
  return value;
}

// The server's broker reads the first line of root's requests as it stands, so the @ stays.
export const pathOf = (process) => `/v1/processes/${encodeURIComponent(process).replace("%40", "@")}`;
