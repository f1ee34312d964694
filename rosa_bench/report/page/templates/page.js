// Put the page together: the list, the panel of the chosen runs, the plot, the figures.

const NARROW = matchMedia("(max-width: 64rem)");
const DARK = matchMedia("(prefers-color-scheme: dark)");

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // typed by hand
  }
}

// The ids in the address, two at most.
function askedIds() {
  if (!location.hash.startsWith(PREFIX)) return [];
  return location.hash.slice(PREFIX.length).split("&").filter(Boolean).map(decoded).slice(0, 2);
}

function chosenRuns(runs) {
  return askedIds().map((id) => runs.ids.indexOf(id)).filter((run) => run >= 0);
}

function contentOf(runs, chosen) {
  const missing = askedIds().filter((id) => !runs.ids.includes(id));
  const notes = missing.map((id) => element("p", { class: "error" }, `No run on this page has the id ${id}.`));
  return [...notes, ...(chosen.length === 2 ? twoRuns(runs, chosen) : chosen.flatMap((run) => oneRun(runs, run)))];
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
  let byKeyboard = false; // whether a key followed a link there
  let row = null; // the row that the panel is under

  const place = (chosen) => {
    beside.append(panel);
    row?.child.remove();
    row = null;
    if (!NARROW.matches || !chosen.length) return;
    if (plot.contains(touched)) plot.after(panel);
    else if (!(row = putUnder(table, chosen.at(-1), panel))) beside.prepend(panel);
  };
  const show = () => {
    const chosen = chosenRuns(runs);
    const content = contentOf(runs, chosen);
    keepInPlace(touched?.closest("tr") ?? touched, () => {
      panel.hidden = !content.length;
      panel.querySelector(".content").replaceChildren(...content);
      place(chosen);
    });
    panel.scrollTop = 0;
    markChosen(table, chosen);
    document.getElementById("said").textContent = chosen.length
      ? `Details of ${chosen.map((run) => labelText(runs, run)).join(" and of ")} are shown.`
      : "";
    if (byKeyboard) panel.querySelector("h3")?.focus({ preventScroll: true });
    byKeyboard = false;
  };
  const choose = (chosen) => {
    if (chosen.length) location.hash = addressOf(runs, chosen);
    else {
      history.replaceState(null, "", "#all-runs");
      show();
    }
  };
  const close = () => {
    const [run] = chosenRuns(runs);
    choose([]);
    document.querySelector(`#runs tr[data-run="${run}"] a`)?.focus({ preventScroll: true });
  };

  const touch = ({ target, detail }) => {
    touched = target;
    byKeyboard = detail === 0 && target.closest("a") !== null;
  };
  document.addEventListener("click", touch, { capture: true });
  table.on("click", "tbody tr[data-run]", (event) => {
    const run = Number(event.currentTarget.dataset.run);
    if (event.target.matches("input")) {
      const others = chosenRuns(runs).filter((one) => one !== run);
      choose(event.target.checked ? [...others, run].slice(-2) : others);
    } else if (!event.target.closest("a")) choose([run]);
  });
  table.on("draw", () => markChosen(table, chosenRuns(runs)));
  panel.querySelector(".close").addEventListener("click", close);
  panel.addEventListener("keydown", ({ key }) => key === "Escape" && close());
  addEventListener("hashchange", show);
  NARROW.addEventListener("change", show);
  show();
  if (!panel.hidden) panel.scrollIntoView(); // the page was opened by the address of a run
}

async function showFigures() {
  for (const picture of document.querySelectorAll("img[data-packed]")) {
    picture.src = await unpackedAddress(picture.dataset.packed, "image/svg+xml");
  }
}

function followScheme() {
  document.documentElement.classList.toggle("dark", DARK.matches); // for DataTables; page.css asks by itself
}

async function showRuns() {
  const { default: DataTable } = await import(await unpackedAddress("packed-library", "text/javascript"));
  const runs = await unpacked("packed-runs").json();
  makeScatter(runs, document.getElementById("memory"), NARROW);
  makePanel(runs, makeList(DataTable, runs));
}

followScheme();
DARK.addEventListener("change", followScheme);
Promise.all([showFigures(), showRuns()]).catch((error) => {
  document.getElementById("needs").hidden = false;
  throw error;
});
