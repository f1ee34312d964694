// Make elements. Text is always set as text, so that nothing in a record becomes markup.

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function shape(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function escaped(text) {
  return text.replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);
}

// The address names the chosen runs, so that they can be linked to: #run:one or #run:one&other.
const PREFIX = "#run:";

function addressOf(runs, chosen) {
  return PREFIX + chosen.map((run) => encodeURIComponent(runs.ids[run])).join("&");
}

// A run's label: a method with its rank in bold, and what else sets it apart.
function labelOf(runs, run) {
  const [name, others] = valueOf(runs.labels, run);
  return [element("b", {}, name), " ", element("span", { class: "changes" }, others)];
}

function labelText(runs, run) {
  return valueOf(runs.labels, run).join(", ");
}

function statusOf(runs, run) {
  const status = valueOf(fieldOf(runs, "Status"), run);
  return element("span", { class: "status", "data-status": status }, status);
}
