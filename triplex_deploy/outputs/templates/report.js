"use strict";

(() => {
  const BINS = 48;
  const LISTED = 300; // options shown at once; typing narrows the rest
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const spots = decodeSpots(data.spots);
  const genes = decodeGenes(data.genes);
  const scales = Object.fromEntries(
    Object.entries(data.scales).map(([name, text]) => [name, decodeScale(bytes(text))]),
  );
  const chosen = { gene: -1, values: [], sorted: [], low: 0, high: 0 };
  const viewer = new Viewer(byId("canvas"), byId("thumbnail"), data.slide, spots, showSpot);

  function decodeSpots(coded) {
    const xy = new Float32Array(bytes(coded.xy).buffer);
    const rc = new Int32Array(bytes(coded.rc).buffer);
    return { xy, rc, count: xy.length / 2, diameter: coded.diameter, square: coded.square };
  }

  function decodeGenes(coded) {
    const raw = bytes(byId("codes").textContent);
    const codes = coded.bytes === 2 ? new Uint16Array(raw.buffer) : raw;
    return { ...coded, codes, missing: 256 ** coded.bytes - 1 };
  }

  function decodeScale(table) {
    return Array.from({ length: 256 }, (_, i) => `rgb(${table.subarray(3 * i, 3 * i + 3).join(" ")})`);
  }

  function valuesOf(gene) {
    const [low, high, top] = [genes.low[gene], genes.high[gene], genes.missing - 1];
    const codes = genes.codes.subarray(gene * spots.count, (gene + 1) * spots.count);
    return Float64Array.from(codes, (code) =>
      code === genes.missing ? NaN : low + (code / top) * (high - low),
    );
  }

  function format(value) {
    if (!Number.isFinite(value)) return "no value";
    const digits = Math.abs(value) >= 100 ? 1 : Math.abs(value) >= 10 ? 2 : 3;
    return value.toFixed(digits).replace("-", "−");
  }

  /* Linear between neighbours, as NumPy's default. */
  function quantile(sorted, part) {
    const place = part * (sorted.length - 1);
    const below = Math.floor(place);
    const above = Math.min(below + 1, sorted.length - 1);
    return sorted[below] + (place - below) * (sorted[above] - sorted[below]);
  }

  function choose(gene) {
    chosen.gene = gene;
    chosen.values = valuesOf(gene);
    chosen.sorted = chosen.values.filter(Number.isFinite).sort();
    byId("gene").value = genes.names[gene];
    for (const button of document.querySelectorAll("[data-gene]")) {
      button.setAttribute("aria-pressed", button.dataset.gene === genes.names[gene]);
    }
    history.replaceState(null, "", "#" + encodeURIComponent(genes.names[gene]));
    recolor();
    showStats();
  }

  function recolor() {
    const clip = byId("range").value === "clipped";
    chosen.low = quantile(chosen.sorted, clip ? 0.02 : 0);
    chosen.high = quantile(chosen.sorted, clip ? 0.98 : 1);
    const colors = scales[byId("scale").value];
    viewer.paint(Array.from(chosen.values, shadeOf), colors);
    drawHistogram(colors);
  }

  function shadeOf(value) {
    if (!Number.isFinite(value)) return -1;
    const part = (value - chosen.low) / (chosen.high - chosen.low || 1);
    return Math.round(255 * Math.min(Math.max(part, 0), 1));
  }

  /* Bars in the colours of their values, over the colour scale itself. */
  function drawHistogram(colors) {
    const [low, high] = [quantile(chosen.sorted, 0), quantile(chosen.sorted, 1)];
    const counts = new Array(BINS).fill(0);
    for (const value of chosen.sorted) {
      counts[Math.min(BINS - 1, Math.floor(((value - low) / (high - low || 1)) * BINS))]++;
    }
    const most = Math.max(...counts, 1);
    const svg = element("svg", { viewBox: `0 0 ${BINS} 100`, preserveAspectRatio: "none", role: "img" });
    svg.setAttribute("aria-label", histogramText(low, high));
    counts.forEach((count, bin) => {
      const fill = colors[Math.max(shadeOf(low + ((bin + 0.5) / BINS) * (high - low)), 0)];
      const height = count ? Math.max((count / most) * 84, 1) : 0;
      svg.append(element("rect", { class: "bar", x: bin + 0.06, y: 86 - height, width: 0.88, height, fill }));
      svg.append(element("rect", { x: bin, y: 91, width: 1.02, height: 9, fill }));
    });
    svg.append(element("rect", { class: "frame", x: 0, y: 91, width: BINS, height: 9 }));
    svg.append(element("rect", { class: "marker", y: 0, width: 0.28, height: 100, visibility: "hidden" }));
    byId("histogram").replaceChildren(svg);
    byId("axis").replaceChildren(text("span", format(low)), text("span", format(high)));
  }

  function histogramText(low, high) {
    const middle = quantile(chosen.sorted, 0.5);
    return (
      `Histogram of ${genes.names[chosen.gene]} over ${chosen.sorted.length} spots: ` +
      `minimum ${format(low)}, median ${format(middle)}, maximum ${format(high)}`
    );
  }

  function element(name, attributes) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    return node;
  }

  function text(name, content) {
    const node = document.createElement(name);
    node.textContent = content;
    return node;
  }

  function showStats() {
    const moran = genes.moran[chosen.gene];
    const ranked = genes.moran.filter((value) => value !== null && value > moran).length + 1;
    const rows = [
      ["Median", format(quantile(chosen.sorted, 0.5))],
      ["Middle half", `${format(quantile(chosen.sorted, 0.25))} to ${format(quantile(chosen.sorted, 0.75))}`],
      ["Moran’s I", moran === null ? "undefined" : format(moran)],
      ["Rank by Moran’s I", moran === null ? "none" : `${ranked} of ${genes.names.length}`],
    ];
    byId("stats").replaceChildren(...rows.flatMap(([label, value]) => [text("dt", label), text("dd", value)]));
  }

  function showSpot(spot, screen) {
    const tip = byId("tip");
    const marker = document.querySelector("#histogram .marker");
    tip.hidden = spot < 0;
    marker?.setAttribute("visibility", spot < 0 ? "hidden" : "visible");
    showScaleBar();
    if (spot < 0) return say("");
    const value = chosen.values[spot];
    const [row, column] = [spots.rc[2 * spot], spots.rc[2 * spot + 1]];
    const below = chosen.sorted.filter((other) => other < value).length / chosen.sorted.length;
    const micron = [0, 1].map((axis) => (spots.xy[2 * spot + axis] * data.slide.mpp) / 1000);
    const place = `row ${row}, column ${column}`;
    tip.replaceChildren(
      text("b", `${genes.names[chosen.gene]} ${format(value)}`),
      text("span", `above ${Math.round(100 * below)} % of spots`),
      text("span", `${place} (${micron.map((mm) => mm.toFixed(2)).join(", ")} mm)`),
    );
    placeTip(tip, screen);
    const [low, high] = [quantile(chosen.sorted, 0), quantile(chosen.sorted, 1)];
    marker?.setAttribute("x", ((value - low) / (high - low || 1)) * BINS - 0.14 || 0);
    if (viewer.pinned) say(`${genes.names[chosen.gene]} ${format(value)}, ${place}`);
  }

  function placeTip(tip, [x, y]) {
    const [width, height] = [tip.offsetWidth, tip.offsetHeight];
    const reach = (spots.diameter / 2) * viewer.scale + 10;
    const left = x + reach + width < viewer.width ? x + reach : x - reach - width;
    const top = Math.min(Math.max(y - height / 2, 4), viewer.height - height - 4);
    tip.style.transform = `translate(${Math.round(Math.max(left, 4))}px, ${Math.round(top)}px)`;
  }

  function say(words) {
    if (byId("spoken").textContent !== words) byId("spoken").textContent = words;
  }

  function showScaleBar() {
    const micronPerScreen = data.slide.mpp / viewer.scale;
    const longest = 130 * micronPerScreen;
    const power = 10 ** Math.floor(Math.log10(longest));
    const length = [5, 2, 1].find((step) => step * power <= longest) * power;
    const bar = document.createElement("i");
    bar.style.width = `${length / micronPerScreen}px`;
    byId("scale-bar").replaceChildren(text("span", length >= 1000 ? `${length / 1000} mm` : `${length} µm`), bar);
  }

  /* Gene selector: a combobox that filters as one types. */
  const input = byId("gene");
  const list = byId("genes");
  let active = -1;

  function openList(filter) {
    const wanted = filter.trim().toUpperCase();
    const starts = [];
    const contains = [];
    genes.names.forEach((name, gene) => {
      const at = name.toUpperCase().indexOf(wanted);
      if (at >= 0) (at ? contains : starts).push(gene);
    });
    const found = [...starts, ...contains];
    list.replaceChildren(...found.slice(0, LISTED).map(option));
    if (found.length !== Math.min(found.length, LISTED) || !found.length) list.append(remainder(found.length));
    list.hidden = false;
    input.setAttribute("aria-expanded", "true");
    activate(Math.max(found.slice(0, LISTED).indexOf(wanted ? found[0] : chosen.gene), 0));
  }

  function option(gene) {
    const node = text("li", genes.names[gene]);
    const moran = genes.moran[gene];
    Object.assign(node, { id: `gene-${gene}`, role: "option" });
    node.setAttribute("role", "option");
    node.dataset.index = gene;
    if (moran !== null) node.append(text("span", moran.toFixed(2).replace("-", "−")));
    return node;
  }

  function remainder(count) {
    const node = text("li", count ? `${count - LISTED} more; type to narrow` : "No such gene");
    node.className = "none";
    return node;
  }

  function options() {
    return list.querySelectorAll('[role="option"]');
  }

  function activate(place) {
    const nodes = options();
    active = nodes.length ? Math.min(Math.max(place, 0), nodes.length - 1) : -1;
    nodes.forEach((node, i) => node.setAttribute("aria-selected", i === active));
    if (active < 0) return input.removeAttribute("aria-activedescendant");
    input.setAttribute("aria-activedescendant", nodes[active].id);
    nodes[active].scrollIntoView({ block: "nearest" });
  }

  function closeList() {
    list.hidden = true;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
    input.value = genes.names[chosen.gene];
  }

  function take() {
    const node = options()[active];
    if (node) choose(Number(node.dataset.index));
    closeList();
  }

  input.addEventListener("input", () => openList(input.value));
  input.addEventListener("click", () => list.hidden && (input.select(), openList("")));
  input.addEventListener("blur", closeList);
  input.addEventListener("keydown", (event) => {
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 };
    if (event.key in moves) {
      event.preventDefault();
      if (list.hidden) openList("");
      else activate(active + moves[event.key]);
    } else if (event.key === "Enter" && !list.hidden) {
      event.preventDefault();
      take();
    } else if (event.key === "Escape") {
      closeList();
    }
  });
  list.addEventListener("mousedown", (event) => {
    event.preventDefault(); // keeps the focus in the input
    const node = event.target.closest('[role="option"]');
    if (!node) return;
    active = [...options()].indexOf(node);
    take();
  });

  function setOpacity() {
    byId("opacity-value").textContent = `${byId("opacity").value} %`;
    viewer.show({ opacity: byId("opacity").value / 100 });
  }

  byId("opacity").addEventListener("input", setOpacity);
  byId("tissue").addEventListener("change", (event) => viewer.show({ tissue: event.target.value }));
  for (const id of ["scale", "range"]) byId(id).addEventListener("change", recolor);
  byId("zoom-in").addEventListener("click", () => viewer.zoom(1.5));
  byId("zoom-out").addEventListener("click", () => viewer.zoom(1 / 1.5));
  byId("zoom-fit").addEventListener("click", () => viewer.fit());
  for (const button of document.querySelectorAll("[data-gene]")) {
    button.addEventListener("click", () => choose(genes.names.indexOf(button.dataset.gene)));
  }
  window.addEventListener("hashchange", () => choose(geneOfAddress()));

  function geneOfAddress() {
    const named = genes.names.indexOf(decodeURIComponent(location.hash.slice(1)));
    const top = document.querySelector("[data-gene]");
    return named >= 0 ? named : top ? genes.names.indexOf(top.dataset.gene) : 0;
  }

  setOpacity();
  choose(geneOfAddress());
})();
