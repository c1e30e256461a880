"use strict";

/* One map of expression over the tissue: its numbers, its colors, and its histogram. */
class GeneMap {
  static BINS = 48;

  /* coded: low, high, first, last and bytes per code; ids: the prefix of the elements it fills. */
  constructor(coded, text, spots, viewer, ids, label) {
    const raw = GeneMap.bytes(text);
    this.codes = coded.bytes === 2 ? new Uint16Array(raw.buffer) : raw;
    this.missing = 256 ** coded.bytes - 1;
    const { low, high, first, last } = coded;
    Object.assign(this, { low, high, first, last, spots, viewer, label });
    this.histogram = document.getElementById(`${ids}histogram`);
    this.axis = document.getElementById(`${ids}axis`);
    this.tip = document.getElementById(`${ids}tip`);
    this.values = [];
    this.sorted = [];
  }

  static bytes(text) {
    return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  }

  static format(value) {
    if (!Number.isFinite(value)) return "no value";
    const digits = Math.abs(value) >= 100 ? 1 : Math.abs(value) >= 10 ? 2 : 3;
    return value.toFixed(digits).replace("-", "−");
  }

  choose(gene, name) {
    const [low, high, top] = [this.low[gene], this.high[gene], this.missing - 1];
    const codes = this.codes.subarray(gene * this.spots.count, (gene + 1) * this.spots.count);
    this.values = Float64Array.from(codes, (code) =>
      code === this.missing ? NaN : low + (code / top) * (high - low),
    );
    this.sorted = this.values.filter(Number.isFinite).sort();
    this.name = name;
    this.gene = gene;
  }

  /* The values of the first and the last color: "like" is the same width for genes of like spread. */
  colorRange(kind) {
    if (kind === "like" && this.sorted.length) return [this.first[this.gene], this.last[this.gene]];
    const part = kind === "clipped" ? 0.02 : 0;
    return [this.quantile(part), this.quantile(1 - part)];
  }

  /* The value of any gene at a spot; NaN if there is none. */
  valueOf(gene, spot) {
    const code = this.codes[gene * this.spots.count + spot];
    if (code === this.missing) return NaN;
    return this.low[gene] + (code / (this.missing - 1)) * (this.high[gene] - this.low[gene]);
  }

  /* Linear between neighbors, as NumPy's default. */
  quantile(part) {
    const place = part * (this.sorted.length - 1);
    const below = Math.floor(place);
    const above = Math.min(below + 1, this.sorted.length - 1);
    return this.sorted[below] + (place - below) * (this.sorted[above] - this.sorted[below]);
  }

  /* From and to: the values of the first and the last color. */
  paint(from, to, colors) {
    const shade = (value) => {
      if (!Number.isFinite(value)) return -1;
      const part = (value - from) / (to - from || 1);
      return Math.round(255 * Math.min(Math.max(part, 0), 1));
    };
    this.viewer.paint(Array.from(this.values, shade), colors);
    this.drawHistogram(shade, colors);
  }

  /* Bars in the colors of their values, over the color scale. */
  drawHistogram(shade, colors) {
    const { BINS } = GeneMap;
    const [low, high] = [this.quantile(0), this.quantile(1)];
    const counts = new Array(BINS).fill(0);
    for (const value of this.sorted) {
      counts[Math.min(BINS - 1, Math.floor(((value - low) / (high - low || 1)) * BINS))]++;
    }
    const most = Math.max(...counts, 1);
    const svg = this.element("svg", { viewBox: `0 0 ${BINS} 100`, preserveAspectRatio: "none", role: "img" });
    svg.setAttribute("aria-label", this.describe(low, high));
    if (this.sorted.length) {
      counts.forEach((count, bin) => {
        const fill = colors[Math.max(shade(low + ((bin + 0.5) / BINS) * (high - low)), 0)];
        const height = count ? Math.max((count / most) * 84, 1) : 0;
        svg.append(this.element("rect", { class: "bar", x: bin + 0.06, y: 86 - height, width: 0.88, height, fill }));
        svg.append(this.element("rect", { x: bin, y: 91, width: 1.02, height: 9, fill }));
      });
    }
    svg.append(this.element("rect", { class: "frame", x: 0, y: 91, width: BINS, height: 9 }));
    svg.append(this.element("rect", { class: "marker", y: 0, width: 0.28, height: 100, visibility: "hidden" }));
    this.histogram.replaceChildren(svg);
    const ends = this.sorted.length ? [low, high].map(GeneMap.format) : ["not measured"];
    this.axis.replaceChildren(...ends.map((end) => GeneMap.text("span", end)));
  }

  describe(low, high) {
    if (!this.sorted.length) return `${this.name} was not measured`;
    const what = this.label ? `${this.label} ${this.name}` : this.name;
    return (
      `Histogram of ${what} over ${this.sorted.length} spots: minimum ${GeneMap.format(low)}, ` +
      `median ${GeneMap.format(this.quantile(0.5))}, maximum ${GeneMap.format(high)}`
    );
  }

  /* Shows the value of a spot beside it and on the histogram; -1 shows none. */
  mark(spot, screen, place) {
    const marker = this.histogram.querySelector(".marker");
    const value = spot < 0 ? NaN : this.values[spot];
    this.tip.hidden = spot < 0;
    marker?.setAttribute("visibility", Number.isFinite(value) ? "visible" : "hidden");
    if (spot < 0) return;
    const lines = [GeneMap.text("b", `${this.name} ${GeneMap.format(value)}`)];
    if (Number.isFinite(value)) {
      const below = this.sorted.filter((other) => other < value).length / this.sorted.length;
      const [low, high] = [this.quantile(0), this.quantile(1)];
      lines.push(GeneMap.text("span", `above ${Math.round(100 * below)} % of spots`));
      marker?.setAttribute("x", ((value - low) / (high - low || 1)) * (GeneMap.BINS - 0.28));
    }
    this.tip.replaceChildren(...lines, GeneMap.text("span", place));
    this.placeTip(screen);
  }

  placeTip([x, y]) {
    const { tip, viewer } = this;
    const [width, height] = [tip.offsetWidth, tip.offsetHeight];
    const reach = (this.spots.diameter / 2) * viewer.scale + 10;
    const left = x + reach + width < viewer.width ? x + reach : x - reach - width;
    const top = Math.min(Math.max(y - height / 2, 4), viewer.height - height - 4);
    tip.style.transform = `translate(${Math.round(Math.max(left, 4))}px, ${Math.round(top)}px)`;
  }

  element(name, attributes) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    return node;
  }

  static text(name, content) {
    const node = document.createElement(name);
    node.textContent = content;
    return node;
  }
}
