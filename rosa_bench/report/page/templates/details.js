// The panel beside the list: one run, or two runs overlaid.

const PAIR = [
  { colour: "#0b5cad", dash: "none" },
  { colour: "#c2410c", dash: "6 3" },
];

// The lines of some runs' details that any of them has, by group. A fact is its text and, if a setting differs from it,
// the protocol's value.
function factsOf(runs, chosen) {
  const groups = new Map();
  for (const column of runs.facts) {
    const facts = chosen.map((run) => valueOf(column, run));
    if (facts.every((fact) => fact === null)) continue;
    if (!groups.has(column.group)) groups.set(column.group, []);
    groups.get(column.group).push({ key: column.key, facts });
  }
  return groups;
}

function factLine({ key, facts: [[text, expected]] }) {
  const shown =
    expected === null
      ? [text]
      : [element("mark", {}, text), " ", element("span", { class: "quiet" }, `(protocol: ${expected})`)];
  return [element("dt", {}, key), element("dd", {}, ...shown)];
}

function factList(group, lines) {
  return [element("h4", {}, group), element("dl", { class: "facts" }, ...lines.flatMap(factLine))];
}

function oneRun(runs, run) {
  const error = valueOf(runs.errors, run);
  const looks = new Map([[run, { colour: valueOf(runs.colours, run), dash: "none", name: "" }]]);
  return [
    element("h3", { tabindex: -1 }, ...labelOf(runs, run)),
    element("p", {}, statusOf(runs, run), " ", element("span", { class: "quiet id" }, runs.ids[run])),
    ...(error === null ? [] : [element("p", { class: "error" }, error)]),
    curvePlots(runs, [run], looks),
    element("p", { class: "quiet" }, "Tick the box of another run to lay both over each other."),
    ...[...factsOf(runs, [run])].flatMap(([group, lines]) => factList(group, lines)),
  ];
}

function differences(group, lines, names) {
  const head = element("tr", {}, ...[group, ...names].map((name) => element("th", { scope: "col" }, name)));
  const rows = lines.map(({ key, facts }) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, key),
      ...facts.map((fact) => element("td", {}, fact === null ? "–" : fact[0])),
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
      element("a", { class: "id", href: addressOf(runs, [run]) }, runs.ids[run]),
    ),
  );
  const differing = [...factsOf(runs, chosen)]
    .map(([group, lines]) => [group, lines.filter(({ facts: [one, other] }) => one?.[0] !== other?.[0])])
    .filter(([, lines]) => lines.length);
  const settings = differing.filter(([group]) => group === "Settings");
  const others = differing.filter(([group]) => group !== "Settings");
  return [
    element("h3", { tabindex: -1 }, "Two runs overlaid"),
    element("ul", { class: "legend" }, ...legend),
    curvePlots(runs, chosen, looks),
    element("h4", {}, "Settings that differ"),
    ...(settings.length
      ? settings.map(([group, lines]) => differences(group, lines, names))
      : [element("p", { class: "quiet" }, "None.")]),
    element(
      "details",
      {},
      element("summary", {}, "Scores, costs and provenance that differ"),
      ...others.map(([group, lines]) => differences(group, lines, names)),
    ),
  ];
}
