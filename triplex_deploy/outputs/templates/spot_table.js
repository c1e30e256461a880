"use strict";

/* All genes of one spot, and the table of many spots that a reader takes along. */
class SpotTable {
  /* maps: the maps of the page; onChoose takes a gene. */
  constructor(section, genes, spots, maps, onChoose) {
    Object.assign(this, { section, genes, spots, maps, spot: -1 });
    this.body = section.querySelector("tbody");
    this.heading = section.querySelector("h2");
    section.querySelector("[data-close]").addEventListener("click", () => this.show(-1));
    this.body.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) onChoose(Number(button.dataset.index));
    });
  }

  /* Shows the genes of a spot, those that are high in their color range first; -1 hides the table. */
  show(spot, place = "") {
    this.spot = spot;
    this.section.hidden = spot < 0;
    if (spot < 0) return;
    this.heading.textContent = `Spot in ${place}`;
    const [map] = this.maps;
    const rows = this.genes.names.map((name, gene) => {
      const value = map.valueOf(gene, spot);
      const part = (value - map.first[gene]) / (map.last[gene] - map.first[gene]);
      return { name, gene, value, part: Number.isFinite(part) ? Math.min(Math.max(part, 0), 1) : -1 };
    });
    rows.sort((a, b) => b.part - a.part || a.gene - b.gene);
    this.body.replaceChildren(...rows.map((row) => this.row(row, spot)));
  }

  row({ name, gene, value, part }, spot) {
    const row = document.createElement("tr");
    const head = document.createElement("th");
    head.scope = "row";
    const button = GeneMap.text("button", name);
    button.type = "button";
    button.dataset.index = gene;
    head.append(button);
    const bar = document.createElement("td");
    bar.className = "bar";
    const length = document.createElement("i");
    length.style.width = `${Math.max(part, 0) * 100}%`;
    bar.append(length);
    const others = this.maps.slice(1).map((map) => this.number(map.valueOf(gene, spot)));
    row.append(head, this.number(value), ...others, bar);
    return row;
  }

  number(value) {
    const cell = GeneMap.text("td", GeneMap.format(value));
    cell.className = "number";
    return cell;
  }

  /* The table of some spots as text: places, then a column per gene and map. */
  csv(chosen) {
    const head = ["spot", "array_row", "array_col", "level0_x_px", "level0_y_px"];
    for (const map of this.maps) {
      const label = map === this.maps[0] ? "" : ` ${map.label}`;
      head.push(...this.genes.names.map((name) => SpotTable.cell(name + label)));
    }
    const lines = chosen.map((spot) => {
      const [row, column] = [this.spots.rc[2 * spot], this.spots.rc[2 * spot + 1]];
      const place = [0, 1].map((axis) => Number(this.spots.xy[2 * spot + axis].toFixed(2)));
      const values = this.maps.flatMap((map) => this.genes.names.map((_, gene) => map.valueOf(gene, spot)));
      const texts = values.map((value) => (Number.isFinite(value) ? Number(value.toPrecision(6)) : ""));
      return [`${column}x${row}`, row, column, ...place, ...texts].join(",");
    });
    return [head.join(","), ...lines, ""].join("\n");
  }

  /* No spreadsheet runs a name as a formula, and no comma in it begins a column. */
  static cell(name) {
    const safe = /^[=+\-@\t\r]/.test(name) ? `'${name}` : name;
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  }

  static download(name, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }
}
