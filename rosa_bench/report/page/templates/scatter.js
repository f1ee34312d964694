// Score against peak memory: the runs of one panel of panels.py, and the front that no other run beats in both.

// The size of the drawing on a wide and on a narrow screen.
function scatterBox(isNarrow) {
  const [width, height] = isNarrow ? [360, 300] : [720, 360];
  return { width, height, left: 46, right: width - 22, top: 12, bottom: height - 44 };
}

// The dots of a panel, those on the front last and from little memory to much.
function pointsOf(panel) {
  const points = panel.runs.map((run, place) => {
    const [x, y] = panel.points[place];
    return { run, x, y, isOnFront: panel.front[place] };
  });
  return points.sort((one, other) => one.isOnFront - other.isOnFront || one.x - other.x);
}

function frontLine(points, { x, y, right }) {
  const steps = points.flatMap((point, place) => {
    const before = points[place - 1];
    return [...(before ? [[x(point.x), y(before.y)]] : []), [x(point.x), y(point.y)]];
  });
  const last = [right, y(points.at(-1).y)];
  return shape("polyline", { class: "front", points: [...steps, last].map((pair) => pair.join(",")).join(" ") });
}

function dot(runs, point, { x, y }) {
  const name = `${labelText(runs, point.run)}: ${shortNumber(point.y)}, ${Math.round(point.x).toLocaleString("en")} MiB`;
  const look = { cx: x(point.x), cy: y(point.y), r: point.isOnFront ? 6 : 4, fill: valueOf(runs.colours, point.run) };
  return shape(
    "a",
    { href: addressOf(runs, [point.run]), "aria-label": name, ...(point.isOnFront ? {} : { tabindex: -1 }) },
    shape("circle", { ...look, class: point.isOnFront ? "dot on-front" : "dot" }, shape("title", {}, name)),
  );
}

function scatter(runs, panel, box) {
  const { left, right, top, bottom, width, height } = box;
  const points = pointsOf(panel);
  const best = points.filter((point) => point.isOnFront);
  const [across, up] = [axis(points.map((point) => point.x)), axis(points.map((point) => point.y))];
  const x = (value) => left + (right - left) * across.share(value);
  const y = (value) => bottom - (bottom - top) * up.share(value);
  const label = `${panel.name}: ${panel.lower ? "error" : "score"} of ${points.length} runs against peak memory; ${best.length} on the front`;
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
    ...points.map((point) => dot(runs, point, { x, y })),
  );
}

function methodLegend(runs, panel) {
  const method = fieldOf(runs, "Method");
  const colours = new Map(panel.runs.map((run) => [valueOf(method, run), valueOf(runs.colours, run)]));
  const size = { viewBox: "0 0 10 10", width: 10, height: 10, "aria-hidden": "true" };
  const items = [...colours]
    .sort()
    .map(([name, fill]) => element("li", {}, shape("svg", size, shape("circle", { cx: 5, cy: 5, r: 5, fill })), ` ${name}`));
  return element("ul", { class: "methods" }, ...items);
}

// Fill the box with a choice of panels and the plot of the one that is chosen.
function makeScatter(runs, part, narrow) {
  if (!runs.panels.length) return;
  part.hidden = false;
  const choice = part.querySelector("select");
  choice.append(...runs.panels.map(({ name, runs: its }) => element("option", {}, `${name} (${its.length})`)));
  const draw = () => {
    const panel = runs.panels[choice.selectedIndex];
    const picture = scatter(runs, panel, scatterBox(narrow.matches));
    part.querySelector(".plot").replaceChildren(picture, methodLegend(runs, panel));
  };
  choice.addEventListener("change", draw);
  narrow.addEventListener("change", draw);
  draw();
}
