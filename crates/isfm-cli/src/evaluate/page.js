"use strict";
{
  const root = document.documentElement;
  const $ = (id) => document.getElementById(id);

  // A file's storage may be forbidden; then the choice lasts as long as the page.
  const store = (value) => {
    try {
      if (value) localStorage.setItem("theme", value);
      return localStorage.getItem("theme");
    } catch {
      return null;
    }
  };
  const stored = store();
  if (stored === "light" || stored === "dark") root.dataset.theme = stored;
  $("theme").addEventListener("click", () => {
    const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    root.dataset.theme = (root.dataset.theme || system) === "dark" ? "light" : "dark";
    store(root.dataset.theme);
  });

  // Numbers by all their digits, missing ones last in either order; names by language.
  const compare = (a, b, sign) => {
    if (a.dataset.v === undefined) {
      return sign * a.textContent.localeCompare(b.textContent, undefined, { numeric: true });
    }
    if (!a.dataset.v || !b.dataset.v) return !a.dataset.v - !b.dataset.v;
    const [x, y] = [Number(a.dataset.v), Number(b.dataset.v)];
    return x === y ? 0 : sign * (x < y ? -1 : 1);
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      head.firstElementChild.addEventListener("click", () => {
        const other = head.dataset.first === "ascending" ? "descending" : "ascending";
        const order = head.getAttribute("aria-sort") === head.dataset.first ? other : head.dataset.first;
        heads.forEach((h) => h.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", order);
        const sign = order === "ascending" ? 1 : -1;
        const rows = [...table.tBodies[0].rows];
        rows.sort((a, b) => compare(a.cells[column], b.cells[column], sign));
        table.tBodies[0].append(...rows);
      });
    });
  }

  const shown = () => {
    const at = $("shown").selectedIndex;
    for (const output of document.querySelectorAll("output")) {
      output.textContent = $("shown").value + " " + output.dataset.all.split(" ")[at];
    }
  };
  // Scores that were read from files come without pictures.
  if ($("shown")) {
    $("shown").addEventListener("change", shown);
    shown();
  }

  // The reference lies over the result, and what they share blends to black.
  const hide = (view) => {
    if (!view.classList.contains("differs")) return;
    view.classList.remove("differs");
    view.lastElementChild.remove();
  };
  const show = (view) => {
    const key = $("reference").value;
    const figure = view.parentElement;
    const source = figure.parentElement.querySelector(`[data-key="${key}"] img`);
    if (!source || figure.dataset.key === key || view.classList.contains("differs")) return;
    const over = new Image();
    over.src = source.src;
    over.className = "over";
    over.alt = "";
    view.style.setProperty("--gain", $("gain").value);
    view.append(over);
    view.classList.add("differs");
  };
  for (const view of document.querySelectorAll(".view[tabindex]")) {
    view.addEventListener("pointerenter", () => show(view));
    view.addEventListener("pointerleave", () => hide(view));
    view.addEventListener("focus", () => show(view));
    view.addEventListener("blur", () => hide(view));
  }
  $("options")?.addEventListener("submit", (event) => event.preventDefault());
}
