"use strict";
// The page is whole without this: it only filters the ledger, and opens what is folded before printing.
const form = document.querySelector(".filter");
const rows = [...document.querySelectorAll("#claims tbody tr")];
form.hidden = rows.length === 0;
function filter() {
  const { paper, verdict } = form.elements;
  let shown = 0;
  for (const row of rows) {
    row.hidden = (paper.value && row.dataset.paper !== paper.value) || (verdict.value && row.dataset.verdict !== verdict.value);
    shown += row.hidden ? 0 : 1;
  }
  form.querySelector("output").textContent = `${shown} of ${rows.length} claims`;
}
form.addEventListener("change", filter);
form.addEventListener("submit", (event) => event.preventDefault());
filter();
const folded = () => [...document.querySelectorAll("details:not([open])")];
let opened = [];
addEventListener("beforeprint", () => { opened = folded(); opened.forEach((part) => { part.open = true; }); });
addEventListener("afterprint", () => { opened.forEach((part) => { part.open = false; }); });
