"use strict";

/* Spots that the reader draws a line around. Positions are level-0 pixels. */
class Lasso {
  constructor(spots, onSelect, onDraw) {
    Object.assign(this, { spots, onSelect, onDraw, active: false, line: [], chosen: new Set() });
  }

  begin(x, y) {
    this.line = [[x, y]];
    this.onDraw();
  }

  extend(x, y) {
    if (!this.line.length) return;
    this.line.push([x, y]);
    this.onDraw();
  }

  end() {
    const { line } = this;
    this.line = [];
    if (line.length > 2) this.choose(this.inside(line));
    else this.onDraw();
  }

  choose(spots) {
    this.chosen = new Set(spots);
    this.onSelect([...this.chosen]);
    this.onDraw();
  }

  inside(line) {
    const found = [];
    for (let spot = 0; spot < this.spots.count; spot++) {
      if (Lasso.contains(line, this.spots.xy[2 * spot], this.spots.xy[2 * spot + 1])) found.push(spot);
    }
    return found;
  }

  /* Even-odd rule: a ray to the right crosses the closed line an odd number of times. */
  static contains(line, x, y) {
    let isInside = false;
    for (let i = 0, j = line.length - 1; i < line.length; j = i++) {
      const [[xi, yi], [xj, yj]] = [line[i], line[j]];
      if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) isInside = !isInside;
    }
    return isInside;
  }

  draw(view) {
    const { context } = view;
    for (const [color, width] of [["#ffffff", 3], ["#101214", 1.25]]) {
      context.strokeStyle = color;
      context.lineWidth = width;
      context.beginPath();
      for (const spot of this.chosen) view.trace(spot);
      const [start, ...rest] = this.line.map(([x, y]) => [x * view.scale + view.left, y * view.scale + view.top]);
      if (start) {
        context.moveTo(...start);
        for (const point of rest) context.lineTo(...point);
      }
      context.stroke();
    }
  }
}
