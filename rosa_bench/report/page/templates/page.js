// Put the page together: the list, the panel of the chosen runs, the plot, the figures.

const NARROW = matchMedia("(max-width: 64rem)");
const DARK = matchMedia("(prefers-color-scheme: dark)");
const PREFIX = "#run:";

// The address names the chosen runs, so that they can be linked to: #run:one or #run:one&other.
function chosenRuns(runs) {
  if (!location.hash.startsWith(PREFIX)) return [];
  const ids = location.hash.slice(PREFIX.length).split("&").map(decodeURIComponent);
  return ids.map((id) => runs.ids.indexOf(id)).filter((run) => run >= 0).slice(0, 2);
}

function addressOf(runs, chosen) {
  return PREFIX + chosen.map((run) => encodeURIComponent(runs.ids[run])).join("&");
}

// What is at the finger must not move while the panel moves there.
function keepInPlace(node, change) {
  const before = node?.getBoundingClientRect().top;
  change();
  if (node?.isConnected) scrollBy({ top: node.getBoundingClientRect().top - before, behavior: "instant" });
}

function makePanel(runs, table) {
  const panel = document.querySelector("aside");
  const beside = document.getElementById("beside");
  const plot = document.getElementById("memory");
  let touched = null; // where the last run was chosen

  const place = (chosen) => {
    takeFromUnder(table, beside, panel);
    if (!NARROW.matches || !chosen.length) return;
    if (plot.contains(touched)) plot.after(panel);
    else if (!putUnder(table, chosen.at(-1), panel)) beside.prepend(panel);
  };
  const show = () => {
    const chosen = chosenRuns(runs);
    const content = chosen.length === 2 ? twoRuns(runs, chosen) : chosen.flatMap((run) => oneRun(runs, run));
    keepInPlace(touched?.closest("tr") ?? touched, () => {
      panel.hidden = !chosen.length;
      panel.querySelector(".content").replaceChildren(...content);
      place(chosen);
    });
    panel.scrollTop = 0;
    markChosen(table, chosen);
    document.getElementById("said").textContent = chosen.length
      ? `Details of ${chosen.map((run) => labelText(runs, run)).join(" and of ")} are shown.`
      : "";
  };
  const choose = (chosen) => {
    if (chosen.length) location.hash = addressOf(runs, chosen);
    else {
      history.replaceState(null, "", "#all-runs");
      show();
    }
  };

  document.addEventListener("click", (event) => (touched = event.target), { capture: true });
  table.on("click", "tbody tr[data-run]", (event) => {
    const run = Number(event.currentTarget.dataset.run);
    if (event.target.matches("input")) {
      const others = chosenRuns(runs).filter((one) => one !== run);
      choose(event.target.checked ? [...others, run].slice(-2) : others);
    } else if (!event.target.closest("a")) choose([run]);
  });
  table.on("draw", () => markChosen(table, chosenRuns(runs)));
  panel.querySelector(".close").addEventListener("click", () => {
    const [run] = chosenRuns(runs);
    choose([]);
    document.querySelector(`#runs tr[data-run="${run}"] a`)?.focus({ preventScroll: true });
  });
  addEventListener("hashchange", show);
  NARROW.addEventListener("change", show);
  show();
}

async function showFigures() {
  for (const picture of document.querySelectorAll("img[data-packed]")) {
    picture.src = await unpackedAddress(picture.dataset.packed, "image/svg+xml");
  }
}

function followScheme() {
  document.documentElement.classList.toggle("dark", DARK.matches); // DataTables' own name
}

async function showRuns() {
  const { default: DataTable } = await import(await unpackedAddress("packed-library", "text/javascript"));
  const runs = await unpackedRuns();
  makeScatter(runs, document.getElementById("memory"), NARROW);
  makePanel(runs, makeList(DataTable, runs));
}

followScheme();
DARK.addEventListener("change", followScheme);
if ("DecompressionStream" in window) {
  document.getElementById("needs").hidden = true;
  showFigures();
  showRuns();
}
