import DataTable from "datatables";

const table = new DataTable("#runs", {
  autoWidth: false,
  order: [],
  pageLength: 25,
  columnControl: [["search"]],
  columnDefs: [{ targets: ".choice", columnControl: [["searchList"]] }],
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
const panel = document.querySelector("aside");

// Unpack what make_page.py packed: base64 of gzipped text.
function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

// The address names the run that is shown, so that it can be linked to.
const chosen = () => decodeURIComponent(location.hash.slice(1));

async function show() {
  const run = chosen();
  const details = document.querySelector(`script[id="${CSS.escape(run)}"]`);
  const text = details ? await unpacked(details.text) : "";
  if (run !== chosen()) return; // another run was selected meanwhile
  panel.hidden = !details;
  panel.lastElementChild.innerHTML = text;
  panel.scrollTop = 0;
  for (const row of table.rows().nodes().toArray()) row.classList.toggle("chosen", row.dataset.run === run);
}

table.on("click", "tbody tr", (event) => event.currentTarget.querySelector("a")?.click());
addEventListener("hashchange", show);
show();
