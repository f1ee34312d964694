// The panel beside the list: one run, or two runs overlaid.

const PAIR = [
  { colour: "#0b5cad", dash: "none" },
  { colour: "#c2410c", dash: "6 3" },
];

// The lines of some runs' details, by group: [{ group, lines: [{ key, texts, expected }] }], as far as any run has them.
function factsOf(runs, chosen) {
  const groups = new Map();
  for (const column of runs.facts) {
    const found = chosen.map((run) => valueOf(column, run));
    if (found.every((fact) => fact === null)) continue;
    if (!groups.has(column.group)) groups.set(column.group, []);
    groups.get(column.group).push({ key: column.key, texts: found.map((fact) => fact && fact[0]), found });
  }
  return groups;
}

function factLine({ key, found: [[text, expected]] }) {
  const shown =
    expected === null
      ? [text]
      : [element("mark", {}, text), " ", element("span", { class: "quiet" }, `(protocol: ${expected})`)];
  return [element("dt", {}, key), element("dd", {}, ...shown)];
}

function factList(group, lines) {
  return [element("h4", {}, group), element("dl", { class: "facts" }, ...lines.flatMap(factLine))];
}

function statusOf(runs, run) {
  const column = runs.fields.find((field) => field.title === "Status");
  const status = valueOf(column, run);
  return element("span", { class: "status", "data-status": status }, status);
}

function oneRun(runs, run) {
  const error = valueOf(runs.errors, run);
  const looks = new Map([[run, { colour: valueOf(runs.colours, run), dash: "none", name: "" }]]);
  return [
    element("h3", { tabindex: -1 }, ...labelOf(runs, run)),
    element("p", {}, statusOf(runs, run), " ", element("span", { class: "quiet id" }, runs.ids[run])),
    ...(error === null ? [] : [element("p", { class: "error" }, error)]),
    ...curvesOf(runs, [run]).map((curves) => curvePlot(runs, curves, looks)),
    element("p", { class: "quiet" }, "Tick the box of another run to lay both over each other."),
    ...[...factsOf(runs, [run])].flatMap(([group, lines]) => factList(group, lines)),
  ];
}

function differences(lines, names) {
  const head = element("tr", {}, ...["", ...names].map((name) => element("th", { scope: "col" }, name)));
  const rows = lines.map(({ key, texts }) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, key),
      ...texts.map((text) => element("td", {}, text === null ? "–" : text)),
    ),
  );
  const table = element("table", { class: "figures" }, element("thead", {}, head), element("tbody", {}, ...rows));
  return element("div", { class: "wide" }, table);
}

function swatch({ colour, dash }) {
  const line = shape("line", { x1: 0, x2: 28, y1: 6, y2: 6, stroke: colour, "stroke-width": 2.5, "stroke-dasharray": dash });
  return shape("svg", { viewBox: "0 0 28 12", width: 28, height: 12, "aria-hidden": "true" }, line);
}

function twoRuns(runs, chosen) {
  const names = ["A", "B"];
  const looks = new Map(chosen.map((run, place) => [run, { ...PAIR[place], name: `${names[place]}: ` }]));
  const legend = chosen.map((run, place) =>
    element(
      "li",
      {},
      swatch(PAIR[place]),
      ` ${names[place]}: `,
      ...labelOf(runs, run),
      element("a", { class: "id", href: `#run:${runs.ids[run]}` }, runs.ids[run]),
    ),
  );
  const differing = [...factsOf(runs, chosen)]
    .map(([group, lines]) => [group, lines.filter(({ texts }) => texts[0] !== texts[1])])
    .filter(([, lines]) => lines.length);
  const settings = differing.filter(([group]) => group === "Settings");
  const others = differing.filter(([group]) => group !== "Settings");
  return [
    element("h3", { tabindex: -1 }, "Two runs overlaid"),
    element("ul", { class: "legend" }, ...legend),
    ...curvesOf(runs, chosen).map((curves) => curvePlot(runs, curves, looks)),
    element("h4", {}, "Settings that differ"),
    ...(settings.length
      ? settings.map(([, lines]) => differences(lines, names))
      : [element("p", { class: "quiet" }, "None.")]),
    element(
      "details",
      {},
      element("summary", {}, "Scores, costs and provenance that differ"),
      ...others.flatMap(([group, lines]) => [element("h4", {}, group), differences(lines, names)]),
    ),
  ];
}
