"use strict";

(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const { genes } = data;
  const spots = decodeSpots(data.spots);
  const scales = Object.fromEntries(
    Object.entries(data.scales).map(([name, text]) => [name, decodeScale(GeneMap.bytes(text))]),
  );
  const maps = [newMap("", genes, data.measured ? "predicted" : "")];
  if (data.measured) maps.push(newMap("measured-", data.measured, "measured"));
  const [predicted] = maps;
  const { viewer } = predicted;
  maps.forEach((map, i) => (map.viewer.twin = maps[1 - i]?.viewer));
  const lasso = new Lasso(spots, showSelection, () => show({}));
  const spotTable = new SpotTable(byId("spot-table"), genes, spots, maps, choose);
  for (const map of maps) {
    Object.assign(map.viewer, { lasso, onClick: openSpot, tiles: newTiles(map.viewer) });
  }
  const selector = new GeneSelector(byId("gene"), byId("genes"), genes, choose);
  const table = byId("gene-table") && new GeneTable(byId("gene-table"), genes, choose);
  let chosen = -1;

  function newMap(ids, coded, label) {
    const canvas = byId(`${ids}canvas`);
    const place = new Viewer(canvas, byId("thumbnail"), data.slide, spots, showSpot);
    return new GeneMap(coded, byId(`${ids}codes`).textContent, spots, place, ids, label);
  }

  function newTiles(place) {
    if (!data.zoom) return null;
    const missing = () => (byId("no-tiles").hidden = false);
    const thumbnailScale = () => byId("thumbnail").naturalWidth / data.slide.width;
    const tiles = new TileLayer(data.zoom, thumbnailScale(), () => place.refresh(), missing);
    byId("thumbnail").addEventListener("load", () => (tiles.thumbnailScale = thumbnailScale()));
    return tiles;
  }

  function decodeSpots(coded) {
    const xy = new Float32Array(GeneMap.bytes(coded.xy).buffer);
    const rc = new Int32Array(GeneMap.bytes(coded.rc).buffer);
    return { xy, rc, count: xy.length / 2, diameter: coded.diameter, square: coded.square };
  }

  function decodeScale(shades) {
    return Array.from({ length: 256 }, (_, i) => `rgb(${shades.subarray(3 * i, 3 * i + 3).join(" ")})`);
  }

  function choose(gene) {
    chosen = gene;
    const name = genes.names[gene];
    for (const map of maps) map.choose(gene, name);
    selector.show(gene);
    table?.show(gene);
    for (const button of document.querySelectorAll("[data-gene]")) {
      button.setAttribute("aria-pressed", button.dataset.gene === name);
    }
    history.replaceState(null, "", "#" + encodeURIComponent(name));
    recolor();
    showStats();
    showSelection([...lasso.chosen]);
  }

  function placeOf(spot) {
    return `row ${spots.rc[2 * spot]}, column ${spots.rc[2 * spot + 1]}`;
  }

  function openSpot(spot) {
    spotTable.show(spot, spot < 0 ? "" : placeOf(spot));
    if (spot >= 0) viewer.point(spot, true);
  }

  function setLasso(active) {
    lasso.active = active;
    byId("lasso").setAttribute("aria-pressed", active);
    for (const map of maps) map.viewer.canvas.classList.toggle("draws", active);
  }

  /* The number of spots in the lasso, with the mean of the gene in and outside of it. */
  function showSelection(chosen) {
    byId("selection").hidden = !chosen.length;
    if (!chosen.length) return;
    const mean = (values) => {
      const known = values.filter(Number.isFinite);
      return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : NaN;
    };
    const { values, name } = predicted;
    const inside = mean(chosen.map((spot) => values[spot]));
    const outside = mean([...values].filter((_, spot) => !lasso.chosen.has(spot)));
    byId("selected").textContent =
      `${chosen.length} ${chosen.length === 1 ? "spot" : "spots"} selected; mean ${name} ` +
      `${GeneMap.format(inside)}, elsewhere ${GeneMap.format(outside)}`;
  }

  function recolor() {
    const ranges = maps.map((map) => map.colorRange(byId("range").value));
    const known = ranges.flat().filter(Number.isFinite);
    const whole = [Math.min(...known), Math.max(...known)];
    const shared = byId("shared")?.value === "one";
    maps.forEach((map, i) => map.paint(...(shared ? whole : ranges[i]), scales[byId("scale").value]));
  }

  function showStats() {
    const { format } = GeneMap;
    const rank = (values) =>
      `${values.filter((value) => value !== null && value > values[chosen]).length + 1} of ${values.length}`;
    const moran = genes.moran[chosen];
    const rows = [
      ["Median", format(predicted.quantile(0.5))],
      ["Middle half", `${format(predicted.quantile(0.25))} to ${format(predicted.quantile(0.75))}`],
      ["Moran’s I", moran === null ? "undefined" : format(moran)],
      ["Rank by Moran’s I", moran === null ? "none" : rank(genes.moran)],
    ];
    if (genes.pcc) {
      const pcc = genes.pcc[chosen];
      rows.splice(0, 2, ["Correlation (PCC)", pcc === null ? "undefined" : format(pcc)]);
      rows.splice(1, 0, ["Rank by PCC", pcc === null ? "none" : rank(genes.pcc)]);
    }
    rows.push(...reliability(format));
    byId("stats").replaceChildren(
      ...rows.flatMap(([label, value]) => [GeneMap.text("dt", label), GeneMap.text("dd", value)]),
    );
  }

  function reliability(format) {
    if (chosen >= genes.names.length - genes.sets) return [["Held-out PCC", "not measured for gene sets"]];
    if (!genes.heldout) return [["Held-out PCC", "not measured"]];
    const [pcc, low, high] = [genes.heldout, genes.heldout_low, genes.heldout_high].map((all) => all[chosen]);
    const known = pcc === null ? "undefined" : `${format(pcc)} (${format(low)} to ${format(high)})`;
    const ceiling = genes.ceiling[chosen];
    return [
      ["Held-out PCC", isUnsupported(genes, chosen) ? `${known}, not supported` : known],
      ["PCC ceiling", ceiling === null ? "unknown" : format(ceiling)],
      ["Held-out RMSE", format(genes.heldout_rmse[chosen])],
    ];
  }

  function showSpot(from, spot, screen) {
    const map = maps.find((one) => one.viewer === from);
    showScaleBar();
    if (spot < 0) {
      map.mark(spot);
      return say("");
    }
    const micron = [0, 1].map((axis) => (spots.xy[2 * spot + axis] * data.slide.mpp) / 1000);
    const place = placeOf(spot);
    map.mark(spot, screen, `${place} (${micron.map((mm) => mm.toFixed(2)).join(", ")} mm)`);
    if (!viewer.pinned) return;
    const values = maps.map((one) => `${one.label} ${GeneMap.format(one.values[spot])}`.trim());
    say(`${genes.names[chosen]} ${values.join(", ")}, ${place}`);
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
    const label = length >= 1000 ? `${length / 1000} mm` : `${length} µm`;
    byId("scale-bar").replaceChildren(GeneMap.text("span", label), bar);
  }

  function show(options) {
    for (const map of maps) map.viewer.show(options);
  }

  function setOpacity() {
    byId("opacity-value").textContent = `${byId("opacity").value} %`;
    show({ opacity: byId("opacity").value / 100 });
  }

  byId("opacity").addEventListener("input", setOpacity);
  byId("tissue").addEventListener("change", (event) => show({ tissue: event.target.value }));
  for (const id of ["scale", "range", "shared"]) byId(id)?.addEventListener("change", recolor);
  byId("zoom-in").addEventListener("click", () => viewer.zoom(1.5));
  byId("zoom-out").addEventListener("click", () => viewer.zoom(1 / 1.5));
  byId("zoom-fit").addEventListener("click", () => viewer.fit());
  byId("lasso").addEventListener("click", () => setLasso(!lasso.active));
  byId("unselect").addEventListener("click", () => lasso.choose([]));
  byId("download").addEventListener("click", () => {
    const chosen = [...lasso.chosen].sort((a, b) => a - b);
    SpotTable.download(`${data.slide.name}-selected.csv`, spotTable.csv(chosen));
  });
  for (const button of document.querySelectorAll("[data-gene]")) {
    button.addEventListener("click", () => choose(genes.names.indexOf(button.dataset.gene)));
  }
  window.addEventListener("hashchange", () => choose(geneOfAddress()));

  function nameInAddress() {
    try {
      return decodeURIComponent(location.hash.slice(1));
    } catch {
      return ""; // a lone % is not part of an address
    }
  }

  function geneOfAddress() {
    const named = genes.names.indexOf(nameInAddress());
    if (named >= 0) return named;
    const first = document.querySelector("[data-gene], #gene-table tbody button");
    return first ? Number(first.dataset.index ?? genes.names.indexOf(first.dataset.gene)) : 0;
  }

  setOpacity();
  choose(geneOfAddress());
})();
