// Score against peak memory: the runs of one task, model and protocol, and the front that no other run beats in both.

// The size of the drawing on a wide and on a narrow screen.
function scatterBox(isNarrow) {
  const [width, height] = isNarrow ? [360, 300] : [720, 360];
  return { width, height, left: 46, right: width - 14, top: 12, bottom: height - 44 };
}

function fieldOf(runs, title) {
  return runs.fields.find((field) => field.title === title);
}

function numberOf(field, run) {
  const [, number] = valueOf(field, run);
  return number === "" ? NaN : Number(number);
}

// The runs that have both numbers, by panel, those with the most runs first.
function panels(runs) {
  const [score, memory] = [fieldOf(runs, "Score"), fieldOf(runs, "Memory (MiB)")];
  const found = new Map();
  runs.ids.forEach((_, run) => {
    const point = { run, x: numberOf(memory, run), y: numberOf(score, run) };
    if (!Number.isFinite(point.x) || !Number.isFinite(point.y)) return;
    const [panel] = valueOf(runs.panels, run);
    if (!found.has(panel)) found.set(panel, []);
    found.get(panel).push(point);
  });
  return new Map([...found].sort(([, some], [, others]) => others.length - some.length));
}

// The points than which none has both less memory and a better score, from little memory to much.
function front(points, isBetter) {
  const found = [];
  const ordered = points.toSorted((one, other) => one.x - other.x || (isBetter(one.y, other.y) ? -1 : 1));
  for (const point of ordered) if (!found.length || isBetter(point.y, found.at(-1).y)) found.push(point);
  return found;
}

function frontLine(points, { x, y, right }) {
  const steps = points.flatMap((point, place) => {
    const before = points[place - 1];
    return [...(before ? [[x(point.x), y(before.y)]] : []), [x(point.x), y(point.y)]];
  });
  const last = [right, y(points.at(-1).y)];
  return shape("polyline", { class: "front", points: [...steps, last].map((pair) => pair.join(",")).join(" ") });
}

function dot(runs, point, { x, y, isOnFront }) {
  const name = `${labelText(runs, point.run)}: ${shortNumber(point.y)}, ${Math.round(point.x).toLocaleString("en")} MiB`;
  const look = { cx: x(point.x), cy: y(point.y), r: isOnFront ? 6 : 4, fill: valueOf(runs.colours, point.run) };
  return shape(
    "a",
    { href: `#run:${runs.ids[point.run]}`, "aria-label": name, ...(isOnFront ? {} : { tabindex: -1 }) },
    shape("circle", { ...look, class: isOnFront ? "dot on-front" : "dot" }, shape("title", {}, name)),
  );
}

function scatter(runs, points, { name, box }) {
  const { left, right, top, bottom, width, height } = box;
  const [across, up] = [axis(points.map((point) => point.x)), axis(points.map((point) => point.y))];
  const x = (value) => left + (right - left) * across.share(value);
  const y = (value) => bottom - (bottom - top) * up.share(value);
  const isLower = valueOf(runs.lower, points[0].run);
  const best = front(points, (one, other) => (isLower ? one < other : one > other));
  const label = `${name}: ${isLower ? "error" : "score"} of ${points.length} runs against peak memory; ${best.length} on the front`;
  const ordered = [...points.filter((point) => !best.includes(point)), ...best];
  return shape(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": label },
    ...frame({
      box,
      xTicks: across.ticks,
      yTicks: up.ticks,
      x,
      y,
      xTitle: "peak memory in training, MiB",
      format: (tick) => tick.toLocaleString("en"),
    }),
    frontLine(best, { x, y, right }),
    ...ordered.map((point) => dot(runs, point, { x, y, isOnFront: best.includes(point) })),
  );
}

function methodLegend(runs, points) {
  const method = fieldOf(runs, "Method");
  const colours = new Map(points.map(({ run }) => [valueOf(method, run), valueOf(runs.colours, run)]));
  const size = { viewBox: "0 0 10 10", width: 10, height: 10, "aria-hidden": "true" };
  const items = [...colours]
    .sort()
    .map(([name, fill]) => element("li", {}, shape("svg", size, shape("circle", { cx: 5, cy: 5, r: 5, fill })), ` ${name}`));
  return element("ul", { class: "methods" }, ...items);
}

// Fill the box with a choice of panels and the plot of the one that is chosen.
function makeScatter(runs, part, narrow) {
  const found = panels(runs);
  part.hidden = found.size === 0;
  const choice = part.querySelector("select");
  choice.append(...[...found].map(([name, points]) => element("option", { value: name }, `${name} (${points.length})`)));
  const draw = () => {
    const [name, points] = [choice.value, found.get(choice.value)];
    const picture = scatter(runs, points, { name, box: scatterBox(narrow.matches) });
    part.querySelector(".plot").replaceChildren(picture, methodLegend(runs, points));
  };
  if (!found.size) return;
  choice.addEventListener("change", draw);
  narrow.addEventListener("change", draw);
  draw();
}
