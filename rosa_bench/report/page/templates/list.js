// The list of all runs, by DataTables: sorted, filtered, searched and paged.

function labelCell(runs, run) {
  const box = element("input", { type: "checkbox", "aria-label": `Overlay ${labelText(runs, run)}`, "data-run": run });
  const link = element("a", { href: addressOf(runs, [run]) }, ...labelOf(runs, run));
  return element("div", { class: "label" }, box, link);
}

// A column of numbers. DataTables filters by number if a type's name has "num" in it.
const NUMBER = "num-known-first";

// Compare two numbers, -1 to sort descending. Unknown ones, which are empty, are last both ways.
function byNumber(direction) {
  return (one, other) => (one === "") - (other === "") || direction * (one - other);
}

// Filter by the number that is shown: 68.9, and not 68.868515. One that is shown otherwise (627 k) is filtered in full.
function numberOf([text, number], type) {
  return type === "display" || (type === "filter" && Number.isFinite(Number(text))) ? text : number;
}

// What DataTables reads for some purpose: display, filter, sort. It takes every text as HTML, so all are escaped.
function cellOf(field, { run, type }) {
  const value = valueOf(field, run);
  return escaped(field.kind === "number" ? numberOf(value, type) : value);
}

// The cells that are more than their text.
const DRAWN = { Variant: labelCell, Status: statusOf };

function columnOf(runs, field) {
  const filter = { extend: field.kind === "choice" ? "searchList" : "search", titleAttr: `Filter ${field.title}` };
  return {
    className: field.kind,
    type: field.kind === "number" ? NUMBER : "string",
    columnControl: [{ extend: "dropdown", text: `Filter ${field.title}`, content: [filter] }],
    data: ({ run }, type) => cellOf(field, { run, type }),
    createdCell: (cell, _, { run }) => {
      if (field.title in DRAWN) cell.replaceChildren(DRAWN[field.title](runs, run));
    },
  };
}

function makeList(DataTable, runs) {
  DataTable.type(NUMBER, { className: "dt-type-numeric", order: { asc: byNumber(1), desc: byNumber(-1) } });
  return new DataTable("#runs", {
    data: runs.ids.map((_, run) => ({ run })),
    columns: runs.fields.map((field) => columnOf(runs, field)),
    createdRow: (row, { run }) => (row.dataset.run = run),
    deferRender: true,
    autoWidth: false,
    order: [],
    pageLength: 25,
    layout: {
      topStart: "search",
      topEnd: { buttons: [{ extend: "ccSearchClear", text: "Clear filters" }, { extend: "colvis", text: "Columns" }] },
      bottomStart: "info",
      bottomEnd: ["pageLength", "paging"],
    },
    language: {
      search: '<span class="unseen">Search all columns</span>',
      searchPlaceholder: "Search all columns",
      info: "_START_ to _END_ of _TOTAL_ runs",
      infoEmpty: "no run",
      infoFiltered: "(of _MAX_)",
      zeroRecords: "No run fits these filters.",
      lengthMenu: "_MENU_ a page",
    },
  });
}

// Name what DataTables does not: in the filter of a number, the choice of equal, greater and so on.
document.addEventListener("focusin", ({ target }) => {
  if (target.matches(".dtcc-dropdown select")) target.ariaLabel = "Comparison";
});

// Show in the list which runs are chosen.
function markChosen(table, chosen) {
  for (const row of table.table().body().querySelectorAll("tr[data-run]")) {
    const isChosen = chosen.includes(Number(row.dataset.run));
    row.classList.toggle("chosen", isChosen);
    row.querySelector("input").checked = isChosen;
  }
}

// Put the panel under a run's row, on whatever page that is. Returns that row; null if the filters leave it out.
function putUnder(table, run, panel) {
  const order = table.rows({ search: "applied", order: "applied" }).indexes().toArray();
  const place = order.indexOf(run);
  if (place < 0) return null;
  const page = Math.floor(place / table.page.len());
  if (page !== table.page()) table.page(page).draw("page");
  const row = table.row(run);
  row.child(panel, "under").show();
  return row;
}
