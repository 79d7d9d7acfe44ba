"use strict";
// What the page carries compressed: base64 of gzip. Nothing is asked of any server.

function bytesOf(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
  const binary = atob(base64);
  const bytes = new Uint8Array(binary.length);
  for (let index = 0; index < binary.length; index++) bytes[index] = binary.charCodeAt(index);
  return bytes;
}

async function inflate(base64) {
  if (!window.DecompressionStream) throw new Error("this browser is too old: it lacks DecompressionStream");
  const stream = new Blob([bytesOf(base64)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// A column as rlsys/report/columns.py packs it: JSON, or numbers in planes of bytes, lowest first.
async function unpack(column) {
  const bytes = await inflate(column.data);
  if (column.type === "json") return JSON.parse(new TextDecoder().decode(bytes));
  const size = Number(column.type[1]);
  const length = column.length;
  if (column.type[0] === "f") {
    const joined = new Uint8Array(4 * length);
    for (let plane = 0; plane < 4; plane++) {
      for (let index = 0; index < length; index++) joined[4 * index + plane] = bytes[plane * length + index];
    }
    return new Float32Array(joined.buffer);
  }
  if (size === 1) return bytes;
  const numbers = new Uint32Array(length);
  for (let plane = 0; plane < size; plane++) {
    const factor = 2 ** (8 * plane);
    for (let index = 0; index < length; index++) numbers[index] += bytes[plane * length + index] * factor;
  }
  return numbers;
}

function readJson(id) {
  return JSON.parse(document.getElementById(id).textContent);
}

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}
