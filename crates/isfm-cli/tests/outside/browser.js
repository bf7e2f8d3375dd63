// Loads `page` at two widths, uses it as a reader would, and writes what happened into #seen.
"use strict";

async function use(width) {
  const frame = document.createElement("iframe");
  frame.width = width;
  frame.height = 800;
  frame.style.border = "0";
  const loaded = new Promise((done) => frame.addEventListener("load", done));
  // Before the page's own script, so that its errors are seen.
  frame.srcdoc = page.replace(
    "<head>",
    "<head><script>window.errors = []; addEventListener('error', (e) => errors.push(e.message));<\/script>",
  );
  document.body.append(frame);
  await loaded;
  const { contentDocument: doc, contentWindow: win } = frame;
  const failed = [];
  const expect = (holds, what) => holds || failed.push(what);

  // Whether a picture's pixels are there, and not all the same.
  const shows = (image) => {
    const canvas = doc.createElement("canvas");
    const { naturalWidth: w, naturalHeight: h } = image;
    if (!image.complete || !w || image.getBoundingClientRect().width < 50) return false;
    [canvas.width, canvas.height] = [w, h];
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    const { data } = context.getImageData(0, 0, w, h);
    return data.some((v, i) => i % 4 < 3 && v !== data[i % 4]);
  };
  const images = [...doc.querySelectorAll("#pictures img")];
  const drawn = images.filter(shows).length;

  let heads = 0;
  let sorted = 0;
  for (const table of doc.querySelectorAll("table.sortable")) {
    const cells = [...table.tHead.rows[0].cells];
    for (const [column, head] of cells.entries()) {
      heads++;
      const rows = table.tBodies[0].rows.length;
      for (const direction of [head.dataset.first, null]) {
        head.querySelector("button").click();
        const order = head.getAttribute("aria-sort");
        if (direction) expect(order === direction, `${head.textContent} sorts ${order} first`);
        const values = [...table.tBodies[0].rows].map((row) => {
          const cell = row.cells[column];
          return cell.dataset.v === undefined ? cell.textContent : cell.dataset.v && Number(cell.dataset.v);
        });
        const known = values.filter((v) => v !== "");
        const before = (a, b) => (typeof a === "string" ? a.localeCompare(b) < 0 : a < b);
        const right =
          values.length === rows &&
          values.slice(known.length).every((v) => v === "") &&
          known.every((v, i) => !i || !(order === "ascending" ? before(v, known[i - 1]) : before(known[i - 1], v)));
        sorted += right;
        expect(right, `${head.textContent} ${order}: ${values}`);
        expect(table.querySelectorAll("[aria-sort]").length === 1, "two columns look sorted");
      }
    }
  }

  // The difference comes and goes with the pointer and with the focus.
  const figure = doc.querySelector("figure[data-key=m0]");
  const view = figure.querySelector(".view");
  const seenOver = () => view.querySelector(".over");
  view.dispatchEvent(new win.PointerEvent("pointerenter"));
  expect(seenOver()?.src === figure.parentElement.querySelector("[data-key=visible] img").src, "no difference");
  expect(win.getComputedStyle(seenOver()).mixBlendMode === "difference", "not blended");
  expect(win.getComputedStyle(view).filter === "brightness(2)", win.getComputedStyle(view).filter);
  view.dispatchEvent(new win.PointerEvent("pointerleave"));
  expect(!seenOver() && !view.classList.contains("differs"), "the difference stays");
  doc.getElementById("reference").value = "m0";
  view.dispatchEvent(new win.PointerEvent("pointerenter"));
  expect(!seenOver(), "a difference to itself");
  doc.getElementById("reference").value = "m1";
  view.focus();
  view.dispatchEvent(new win.FocusEvent("focus"));
  expect(seenOver()?.src === figure.parentElement.querySelector("[data-key=m1] img").src, "no focus");
  view.dispatchEvent(new win.FocusEvent("blur"));

  const output = figure.querySelector("output");
  const select = doc.getElementById("shown");
  for (const at of [0, select.options.length - 1]) {
    select.selectedIndex = at;
    select.dispatchEvent(new win.Event("change"));
    const digits = Number(output.textContent.split(" ")[1]);
    const row = doc.getElementById("v0-0").cells[2 + at].dataset.v;
    expect(Math.abs(digits - Number(row)) < 1e-4, `${output.textContent}, not ${row}`);
  }

  const theme = () => {
    const [r, g, b] = win.getComputedStyle(doc.body).backgroundColor.match(/[\d.]+/g).map(Number);
    return r + g + b < 384 ? "dark" : "light";
  };
  const before = theme();
  doc.getElementById("theme").click();
  const toggled = theme();
  doc.getElementById("theme").click();
  expect(theme() === before, "the theme does not come back");

  for (const link of doc.querySelectorAll("a")) {
    const target = doc.getElementById(link.getAttribute("href").slice(1));
    expect(target, "nothing at " + link.getAttribute("href"));
  }
  failed.push(...win.errors);
  const root = doc.documentElement;
  return {
    failed, heads, sorted, drawn, theme: before, toggled,
    pictures: images.length,
    missing: doc.querySelectorAll(".none").length,
    plots: doc.querySelectorAll("#distributions svg").length,
    inner: win.innerWidth,
    scroll: root.scrollWidth,
  };
}

(async () => {
  const seen = {};
  try {
    seen.phone = await use(390);
    seen.screen = await use(1280);
  } catch (error) {
    seen.error = error.stack;
  }
  document.getElementById("seen").textContent = JSON.stringify(seen).replace(/[<>&]/g, "?");
})();
