// Axes of the small plots: linear or logarithmic, with ticks at round numbers.

const LOG_FROM = 100; // positive values that span more than this factor get a logarithmic axis
const DEPTH = 1e-30; // a logarithmic axis ends at this fraction of the largest value

function roundStep(range, count) {
  const rough = range / count;
  const unit = 10 ** Math.floor(Math.log10(rough));
  return unit * [1, 2, 2.5, 5, 10].find((factor) => factor * unit >= rough * 0.999);
}

function linearAxis(low, high) {
  const isLevel = high - low < 1e-3 * Math.max(Math.abs(low), Math.abs(high)) || low === high;
  const margin = isLevel ? Math.abs(low) / 10 || 1 : 0;
  const step = roundStep(high - low + 2 * margin, 4);
  const first = Math.floor((low - margin) / step + 1e-9);
  const last = Math.max(first + 1, Math.ceil((high + margin) / step - 1e-9));
  const ticks = Array.from({ length: last - first + 1 }, (_, place) => (first + place) * step);
  const [start, end] = [ticks[0], ticks.at(-1)];
  return { ticks, share: (value) => (value - start) / (end - start) };
}

function logAxis(low, high) {
  const first = Math.floor(Math.log10(Math.max(low, DEPTH * high)));
  const last = Math.max(first + 1, Math.ceil(Math.log10(high)));
  const every = Math.ceil((last - first) / 5);
  const ticks = [];
  for (let power = first; power <= last; power += every) ticks.push(10 ** power);
  return { ticks, share: (value) => Math.max(0, (Math.log10(value) - first) / (last - first)) };
}

function axis(values) {
  const [low, high] = [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
  return low > 0 && high / low > LOG_FROM ? logAxis(low, high) : linearAxis(low, high);
}

function epochTicks(count) {
  const step = Math.max(1, Math.round(roundStep(Math.max(1, count - 1), 5)));
  const ticks = [1];
  for (let epoch = step > 1 ? step : 2; epoch <= count; epoch += step) ticks.push(epoch);
  return ticks;
}

function shortNumber(value) {
  return String(Number(value.toPrecision(5)));
}

// Draw the frame of a plot: horizontal rules with their numbers, and the numbers below. x and y return positions.
function frame({ box, xTicks, yTicks, x, y, xTitle, format = shortNumber }) {
  const rules = yTicks.flatMap((tick) => [
    shape("line", { x1: box.left, x2: box.right, y1: y(tick), y2: y(tick), class: "rule" }),
    shape("text", { x: box.left - 6, y: y(tick) + 3.5, "text-anchor": "end" }, shortNumber(tick)),
  ]);
  const below = xTicks.map((tick) =>
    shape("text", { x: x(tick), y: box.bottom + 15, "text-anchor": "middle" }, format(tick)),
  );
  const title = shape("text", { x: box.right, y: box.bottom + 29, "text-anchor": "end" }, xTitle);
  return [...rules, ...below, title];
}
