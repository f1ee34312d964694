// Curves of one or two runs against epochs.

const CURVES = { width: 340, height: 160, left: 56, right: 324, top: 8, bottom: 124 };
const MARKED = 30; // curves of at most this many points have a mark at each; longer ones at single points between gaps

// The curves of the runs by title: [{ title, lines: [{ run, epochs, values }] }].
function curvesOf(runs, chosen) {
  const found = runs.curves.map(({ title, epochs, values }) => ({
    title,
    lines: chosen
      .filter((run) => values[run])
      .map((run) => ({ run, epochs: valueOf(epochs, run), values: values[run] })),
  }));
  return found.filter(({ lines }) => lines.length);
}

// Split a curve where a value is missing.
function pieces(line) {
  const found = [[]];
  line.values.forEach((value, place) => {
    if (value === null) found.push([]);
    else found.at(-1).push([line.epochs[place], value]);
  });
  return found.filter((piece) => piece.length);
}

function drawLine(line, { x, y, look, selected }) {
  const points = pieces(line);
  const drawn = points.map((piece) =>
    shape("polyline", {
      points: piece.map(([epoch, value]) => `${x(epoch).toFixed(1)},${y(value).toFixed(1)}`).join(" "),
      stroke: look.colour,
      "stroke-dasharray": look.dash,
    }),
  );
  const marked = points.flatMap((piece) =>
    piece.filter(([epoch]) => line.values.length <= MARKED || piece.length === 1 || epoch === selected),
  );
  const marks = marked.map(([epoch, value]) =>
    shape(
      "circle",
      { cx: x(epoch), cy: y(value), r: epoch === selected ? 4 : 2.2, fill: look.colour },
      shape("title", {}, `${look.name}epoch ${epoch}: ${shortNumber(value)}${epoch === selected ? ", selected" : ""}`),
    ),
  );
  return [...drawn, ...marks];
}

function lastValue(line) {
  return line.values.findLast((value) => value !== null);
}

// looks: for every run its colour, dashes and name.
function curvePlot(runs, { title, lines }, looks) {
  const { left, right, top, bottom, width, height } = CURVES;
  const count = Math.max(...lines.map((line) => line.epochs.at(-1)));
  const vertical = axis(lines.flatMap((line) => line.values.filter((value) => value !== null)));
  const x = (epoch) => left + ((right - left) * (epoch - 1)) / Math.max(1, count - 1);
  const y = (value) => bottom - (bottom - top) * vertical.share(value);
  const said = lines.map((line) => `${looks.get(line.run).name}ends at ${shortNumber(lastValue(line))}`);
  const picture = shape(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title} against epochs: ${said.join("; ")}` },
    ...frame({ box: CURVES, xTicks: epochTicks(count), yTicks: vertical.ticks, x, y, xTitle: "epoch" }),
    ...lines.flatMap((line) =>
      drawLine(line, { x, y, look: looks.get(line.run), selected: runs.selected[line.run] }),
    ),
  );
  return element("figure", { class: "curve" }, element("figcaption", {}, title), picture);
}

function curvePlots(runs, chosen, looks) {
  const plots = curvesOf(runs, chosen).map((curves) => curvePlot(runs, curves, looks));
  return element("div", { class: "curves" }, ...plots);
}
