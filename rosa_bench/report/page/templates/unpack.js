// Read what packing.py packed: base64 of gzip in a script element that is never run.

async function unpacked(id) {
  const packed = Uint8Array.from(atob(document.getElementById(id).textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

async function unpackedRuns() {
  return JSON.parse(new TextDecoder().decode(await unpacked("packed-runs")));
}

async function unpackedAddress(id, type) {
  return URL.createObjectURL(new Blob([await unpacked(id)], { type }));
}

// A column has each distinct value once, and for every run its place among them.
function valueOf(column, run) {
  const place = column.at[run];
  return place < 0 ? null : column.values[place];
}
