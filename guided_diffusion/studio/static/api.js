// Requests to the studio's server. Every one carries the token, which came in the address's fragment.

import { fromBytes, toBytes } from "./labels.js";

const STORED = "isdm-studio-token";

/** Move the token from the address to the tab's storage. */
export function takeToken() {
  const token = location.hash.slice(1);
  if (token) {
    sessionStorage.setItem(STORED, token);
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem(STORED);
}

async function request(path, options = {}) {
  const headers = { "X-ISDM-Token": sessionStorage.getItem(STORED) ?? "", ...options.headers };
  let response;
  try {
    response = await fetch(path, { ...options, headers, credentials: "omit", cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The studio does not answer. Is it still running in its terminal?");
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  const failed = new Error(told.error ?? `${path}: ${response.status}`);
  failed.status = response.status;
  throw failed;
}

/** What the server says as JSON. */
export async function getJson(path) {
  return (await request(path)).json();
}

/** A picture as an address that an <img> can show; free it by URL.revokeObjectURL. */
export async function getPicture(path, signal) {
  return URL.createObjectURL(await (await request(path, { signal })).blob());
}

/** Labels: {data, width, height}. */
export async function getLabels(path) {
  const response = await request(path);
  const [height, width] = response.headers.get("X-Size").split(",").map(Number);
  return { data: fromBytes(response.headers.get("X-Type") ?? "u8", await response.arrayBuffer()), width, height };
}

/** Send JSON, receive JSON. */
export async function post(path, body = {}) {
  const headers = { "Content-Type": "application/json" };
  const response = await request(path, { method: "POST", headers, body: JSON.stringify(body) });
  return response.status === 204 ? null : response.json();
}

/** Delete something, or cancel it. */
export async function remove(path) {
  await request(path, { method: "DELETE" });
}

/** Bytes, compressed. */
export async function gzip(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Bytes that gzip() made. */
export async function gunzip(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

/** Labels as short text, and back: for the storage of the tab. */
export async function packLabels(data) {
  const bytes = await gzip(toBytes(data));
  let text = "";
  for (let i = 0; i < bytes.length; i += 4096) text += String.fromCharCode(...bytes.subarray(i, i + 4096));
  return btoa(text);
}

export async function unpackLabels(type, text) {
  return fromBytes(type, await gunzip(Uint8Array.from(atob(text), letter => letter.charCodeAt(0))));
}

/** Send a head of JSON, a line feed, and labels, compressed. */
export async function postLabels(path, head, data) {
  const line = new TextEncoder().encode(`${JSON.stringify(head)}\n`),
    labels = await gzip(toBytes(data));
  const body = new Uint8Array(line.length + labels.length);
  body.set(line);
  body.set(labels, line.length);
  const headers = { "Content-Type": "application/octet-stream" };
  return (await request(path, { method: "POST", headers, body })).json();
}

/** Read a stream of events until it ends; onEvent gets each one. */
export async function events(path, onEvent, signal) {
  const response = await request(path, { signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n").filter(line => line.startsWith("data:"));
      if (lines.length) onEvent(JSON.parse(lines.map(line => line.slice(5)).join("\n")));
    }
  }
}

/** Read a stream again and again, as long as the page is open; a little later each time it fails. */
export async function follow(path, onEvent) {
  for (let pause = 1000; ; pause = Math.min(pause * 2, 30_000)) {
    try {
      await events(path, event => {
        pause = 1000;
        onEvent(event);
      });
    } catch (error) {
      if (error.status && error.status < 500) return; // there is no such stream
    }
    await new Promise(resolve => setTimeout(resolve, pause));
  }
}
