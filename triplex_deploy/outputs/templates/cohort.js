"use strict";

(() => {
  const byId = (id) => document.getElementById(id);
  const values = JSON.parse(byId("data").textContent); // per card: gene -> [mean, Moran's I]
  const cards = [...document.querySelectorAll(".card")];
  const number = (text) => (text === "" || text === undefined ? null : Number(text));
  const slides = cards.map((card, i) => ({
    card,
    values: values[i],
    name: card.dataset.name,
    failed: card.dataset.status === "failed",
    error: card.querySelector(".error")?.textContent ?? "",
    link: card.querySelector("h2 a"),
    usual: card.querySelector(".gene")?.textContent ?? "",
    spots: card.dataset.status === "failed" ? null : number(card.dataset.spots),
    rate: number(card.dataset.rate),
    seconds: number(card.dataset.seconds),
    mean: null,
    moran: null,
  }));
  const hrefs = new Map(slides.filter(({ link }) => link).map(({ link }) => [link, link.getAttribute("href")]));
  const heads = [...document.querySelectorAll("[data-column]")];
  const known = new Map(values.flatMap((genes) => Object.keys(genes)).map((name) => [name.toUpperCase(), name]));
  let down = false;

  function show() {
    const gene = known.get(byId("gene").value.trim().toUpperCase());
    const part = byId("name").value.trim().toUpperCase();
    for (const slide of slides) {
      [slide.mean, slide.moran] = (gene !== undefined && slide.values[gene]) || [null, null];
      if (slide.link) slide.link.href = hrefs.get(slide.link) + (gene ? `#${encodeURIComponent(gene)}` : "");
      const line = slide.card.querySelector(".gene");
      if (line) line.textContent = gene ? describe(gene, slide) : slide.usual;
    }
    const status = byId("status").value;
    const found = slides
      .filter(({ name }) => name.toUpperCase().includes(part))
      .filter(({ failed }) => !status || failed === (status === "failed"))
      .sort(compare);
    for (const { card } of slides) card.hidden = true;
    for (const { card } of found) card.hidden = false;
    byId("cards").append(...found.map(({ card }) => card));
    byId("table").querySelector("tbody").replaceChildren(...found.map(row));
    const asTable = byId("view").value === "table";
    byId("cards").hidden = asTable;
    byId("table").hidden = !asTable;
    for (const head of heads) {
      const sorted = head.dataset.column === byId("order").value;
      if (head.dataset.column === "mean") {
        head.querySelector("button").textContent = gene ? `Mean of ${gene}` : "Mean";
      }
      head.setAttribute("aria-sort", sorted ? (down ? "descending" : "ascending") : "none");
    }
    say(gene, found.length);
  }

  function describe(gene, { mean, moran }) {
    if (mean === null && moran === null) return `${gene}: not among this slide’s genes`;
    return `${gene}: mean ${format(mean)}, Moran’s I ${format(moran)}`;
  }

  function say(gene, count) {
    const typed = byId("gene").value.trim();
    const filtered = count === slides.length ? `${count} slides` : `${count} of ${slides.length} slides`;
    byId("spoken").textContent = typed && !gene ? `${filtered}; no slide has a gene ${typed}` : filtered;
  }

  function compare(a, b) {
    const key = byId("order").value;
    if (key === "name") return (down ? -1 : 1) * a.name.localeCompare(b.name, undefined, { numeric: true });
    if (a[key] === null || b[key] === null) return (a[key] === null) - (b[key] === null);
    return (down ? -1 : 1) * (a[key] - b[key]);
  }

  function row(slide) {
    const line = document.createElement("tr");
    const head = document.createElement("th");
    head.scope = "row";
    if (slide.link) head.append(slide.link.cloneNode(true));
    else head.textContent = slide.name;
    const cells = ["spots", "rate", "seconds", "mean", "moran"].map((key) => {
      const cell = document.createElement("td");
      cell.className = "number";
      cell.textContent = key === "spots" ? slide.spots?.toLocaleString("en") ?? "–" : format(slide[key]);
      return cell;
    });
    const state = document.createElement("td");
    state.textContent = slide.failed ? slide.error : "Done";
    line.className = slide.failed ? "bad" : "";
    line.append(head, ...cells, state);
    return line;
  }

  function format(value) {
    return value === null ? "–" : String(Number(value.toPrecision(3))).replace("-", "−");
  }

  function order(key) {
    const same = key === byId("order").value;
    byId("order").value = key;
    down = same ? !down : key !== "name";
    show();
  }

  for (const id of ["name", "gene"]) byId(id).addEventListener("input", show);
  for (const id of ["status", "view"]) byId(id).addEventListener("change", show);
  byId("order").addEventListener("change", () => {
    down = byId("order").value !== "name";
    show();
  });
  for (const head of heads) {
    head.querySelector("button").addEventListener("click", () => order(head.dataset.column));
  }
  document.querySelector(".tools").addEventListener("submit", (event) => event.preventDefault());
  show();
})();
