// Read what packing.py packed: base64 of gzip in a script element that is never run.

function unpacked(id) {
  const text = atob(document.getElementById(id).textContent);
  const packed = new Uint8Array(text.length);
  for (let place = 0; place < text.length; place += 1) packed[place] = text.charCodeAt(place);
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip")));
}

async function unpackedAddress(id, type) {
  return URL.createObjectURL(new Blob([await unpacked(id).arrayBuffer()], { type }));
}

// A column has each distinct value once, and for every run its place among them.
function valueOf(column, run) {
  const place = column.at[run];
  return place < 0 ? null : column.values[place];
}

function fieldOf(runs, title) {
  return runs.fields.find((field) => field.title === title);
}
