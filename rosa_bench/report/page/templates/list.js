// The list of all runs, by DataTables: sorted, filtered, searched and paged.

function labelCell(runs, run) {
  const box = element("input", { type: "checkbox", "aria-label": `Overlay ${labelText(runs, run)}`, "data-run": run });
  const link = element("a", { href: `#run:${runs.ids[run]}` }, ...labelOf(runs, run));
  return element("div", { class: "label" }, box, link);
}

function statusText(status) {
  return `<span class="status" data-status="${status}">${status}</span>`;
}

// What DataTables reads for some purpose: display, filter, sort. It takes every text as HTML, so all are escaped.
function cellOf(runs, field, { run, type }) {
  const value = valueOf(field, run);
  if (type === "display" && field.title === "Variant") return labelCell(runs, run);
  if (type === "display" && field.title === "Status") return statusText(escaped(value));
  if (field.kind === "number") return escaped(value[type === "display" ? 0 : 1]);
  return escaped(value);
}

function columnOf(runs, field) {
  return {
    className: field.kind,
    type: field.kind === "number" ? "num" : "string",
    columnControl: [[field.kind === "choice" ? "searchList" : "search"]],
    data: ({ run }, type) => cellOf(runs, field, { run, type }),
  };
}

function makeList(DataTable, runs) {
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
      search: "",
      searchPlaceholder: "Search all columns",
      info: "_START_ to _END_ of _TOTAL_ runs",
      infoEmpty: "no run",
      infoFiltered: "(of _MAX_)",
      zeroRecords: "No run fits these filters.",
      lengthMenu: "_MENU_ a page",
    },
  });
}

// Show in the list which runs are chosen.
function markChosen(table, chosen) {
  for (const row of table.table().body().querySelectorAll("tr[data-run]")) {
    const isChosen = chosen.includes(Number(row.dataset.run));
    row.classList.toggle("chosen", isChosen);
    row.querySelector("input").checked = isChosen;
  }
}

// Put the panel under a run's row, on whatever page that is. Returns whether the filters let the run through.
function putUnder(table, run, panel) {
  const order = table.rows({ search: "applied", order: "applied" }).indexes().toArray();
  const place = order.indexOf(run);
  if (place < 0) return false;
  const page = Math.floor(place / table.page.len());
  if (page !== table.page()) table.page(page).draw("page");
  table.row(run).child(panel, "under").show();
  return true;
}

function takeFromUnder(table, holder, panel) {
  holder.append(panel);
  table.rows().every(function () {
    if (this.child.isShown()) this.child.remove();
  });
}
