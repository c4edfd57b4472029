"use strict";
// Draws the figures in the colours of the page, and lets tables be sorted and filtered.
const dark = window.matchMedia("(prefers-color-scheme: dark)");

function colours(isDark) {
  const ink = isDark ? "#ececec" : "#1b1b1b", soft = isDark ? "#a9adb3" : "#5a5a5a", line = isDark ? "#3a3f47" : "#d5d8dd";
  const words = { labelColor: ink, titleColor: ink };
  return {
    background: "transparent",
    font: "system-ui, 'DejaVu Sans', sans-serif",
    axis: { ...words, gridColor: line, domainColor: soft, tickColor: soft, titleFontWeight: "normal" },
    legend: { ...words, titleFontWeight: "normal" },
    title: { color: soft },
    view: { stroke: null },
  };
}

async function draw(isDark) {
  for (const place of document.querySelectorAll(".chart")) {
    const spec = JSON.parse(document.getElementById("spec-" + place.dataset.figure).textContent);
    delete spec.config;
    const actions = { export: true, source: false, compiled: false, editor: false };
    try {
      await vegaEmbed(place, spec, { renderer: "svg", config: colours(isDark), actions });
      place.dataset.drawn = "yes";
    } catch (error) {
      place.textContent = "This figure could not be drawn: " + error;
      console.error(error);
    }
  }
  document.body.dataset.drawn = "yes";
}

draw(dark.matches);
dark.addEventListener("change", () => draw(dark.matches));
window.addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details")) part.open = true;
});

const number = (text) => {
  const found = text.replaceAll(",", "").match(/^[+-]?[\d.]+/);
  return found ? parseFloat(found[0]) : NaN;
};

function compare(a, b) {
  const x = number(a), y = number(b);
  if (isNaN(x) && isNaN(y)) return a.localeCompare(b);
  return isNaN(x) ? 1 : isNaN(y) ? -1 : x - y;
}

for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  table.querySelectorAll("th").forEach((head, column) => {
    const button = document.createElement("button");
    button.textContent = head.textContent;
    head.replaceChildren(button);
    head.addEventListener("click", () => {
      const way = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", way);
      const text = (row) => row.cells[column].textContent;
      const rows = [...body.rows].sort((a, b) => compare(text(a), text(b)) * (way === "ascending" ? 1 : -1));
      body.replaceChildren(...rows);
    });
  });
}

for (const input of document.querySelectorAll(".filter input")) {
  const rows = () => input.closest("section, details").querySelector("tbody").rows;
  input.addEventListener("input", () => {
    for (const row of rows()) row.hidden = !row.textContent.toLowerCase().includes(input.value.toLowerCase());
  });
}
