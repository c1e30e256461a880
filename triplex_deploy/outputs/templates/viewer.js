"use strict";

/* The tissue with its spots on a canvas: zoom, pan, and one spot at a time pointed out.
   Positions are level-0 pixels unless a name says screen (CSS pixels of the canvas). */
class Viewer {
  constructor(canvas, image, slide, spots, onSpot) {
    Object.assign(this, { canvas, image, slide, spots, onSpot });
    this.context = canvas.getContext("2d");
    this.tissue = "color";
    this.opacity = 0.8;
    this.colors = [];
    this.byShade = [];
    this.spot = -1;
    this.pinned = false;
    this.pointers = new Map();
    this.fitted = true;
    new ResizeObserver(() => this.resize()).observe(canvas);
    this.listen();
  }

  /* shades: one index into colors per spot, -1 where there is no value. */
  paint(shades, colors) {
    this.colors = colors;
    this.byShade = colors.map(() => []);
    shades.forEach((shade, spot) => shade >= 0 && this.byShade[shade].push(spot));
    this.refresh();
  }

  show(options) {
    Object.assign(this, options);
    this.refresh();
  }

  resize() {
    const box = this.canvas.getBoundingClientRect();
    const ratio = window.devicePixelRatio || 1;
    this.width = box.width;
    this.height = box.height;
    this.canvas.width = Math.round(box.width * ratio);
    this.canvas.height = Math.round(box.height * ratio);
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    if (this.fitted || !this.scale) this.fit();
    this.draw();
  }

  fit() {
    this.scale = this.smallestScale();
    this.left = (this.width - this.slide.width * this.scale) / 2;
    this.top = (this.height - this.slide.height * this.scale) / 2;
    this.fitted = true;
    this.moved();
  }

  smallestScale() {
    return Math.min(this.width / this.slide.width, this.height / this.slide.height);
  }

  zoom(factor, screenX = this.width / 2, screenY = this.height / 2) {
    const least = this.smallestScale();
    const scale = Math.min(Math.max(this.scale * factor, least), Math.max(2, 4 * least));
    if (scale <= least * 1.0001) return this.fit();
    this.left = screenX - ((screenX - this.left) / this.scale) * scale;
    this.top = screenY - ((screenY - this.top) / this.scale) * scale;
    this.scale = scale;
    this.fitted = false;
    this.keepInside();
  }

  pan(dx, dy) {
    this.left += dx;
    this.top += dy;
    this.fitted = false;
    this.keepInside();
  }

  /* A quarter of the window at least stays covered by the slide. */
  keepInside() {
    const [wide, high] = [this.slide.width * this.scale, this.slide.height * this.scale];
    this.left = Math.min(Math.max(this.left, this.width / 4 - wide), (3 * this.width) / 4);
    this.top = Math.min(Math.max(this.top, this.height / 4 - high), (3 * this.height) / 4);
    this.moved();
  }

  /* A twin of the same size shows the same part and points at the same spot. */
  moved() {
    this.refresh();
    this.twin?.follow(this);
  }

  follow({ scale, left, top, fitted, spot, pinned }) {
    if (!this.width) return;
    Object.assign(this, { scale, left, top, fitted, spot, pinned });
    this.refresh();
  }

  refresh() {
    if (this.pending || !this.width) return;
    this.pending = requestAnimationFrame(() => {
      this.pending = 0;
      this.draw();
    });
  }

  draw() {
    const { context, slide, scale, left, top } = this;
    context.clearRect(0, 0, this.width, this.height);
    const picture = this.picture();
    if (picture) {
      context.imageSmoothingQuality = "high";
      context.drawImage(picture, left, top, slide.width * scale, slide.height * scale);
      this.tiles?.draw(this);
    }
    context.globalAlpha = this.opacity;
    this.byShade.forEach((group, shade) => {
      if (!group.length) return;
      context.fillStyle = this.colors[shade];
      context.beginPath();
      for (const spot of group) this.trace(spot);
      context.fill();
    });
    context.globalAlpha = 1;
    this.lasso?.draw(this);
    if (this.spot >= 0) this.outline(this.spot);
    this.onSpot(this, this.spot, this.screenOf(this.spot));
  }

  /* Adds the outline of a spot to the path, unless it lies outside the window. */
  trace(spot, grow = 0) {
    const half = Math.max((this.spots.diameter / 2) * this.scale, 0.75) + grow;
    const x = this.spots.xy[2 * spot] * this.scale + this.left;
    const y = this.spots.xy[2 * spot + 1] * this.scale + this.top;
    if (x + half < 0 || y + half < 0 || x - half > this.width || y - half > this.height) return;
    if (!this.spots.square) {
      this.context.moveTo(x + half, y);
      this.context.arc(x, y, half, 0, 2 * Math.PI);
      return;
    }
    const ratio = window.devicePixelRatio || 1;
    const snap = (value) => Math.round(value * ratio) / ratio; // tiles that touch leave no seam
    const [x0, y0] = [snap(x - half), snap(y - half)];
    this.context.rect(x0, y0, snap(x + half) - x0, snap(y + half) - y0);
  }

  outline(spot) {
    for (const [color, width] of [["#ffffff", 5], ["#101214", 2]]) {
      this.context.strokeStyle = color;
      this.context.lineWidth = width;
      this.context.beginPath();
      this.trace(spot, 1.5);
      this.context.stroke();
    }
  }

  picture() {
    if (this.tissue === "none" || !this.image.naturalWidth) return null;
    if (this.tissue === "color") return this.image;
    this.gray ??= grayed(this.image);
    return this.gray;
  }

  screenOf(spot) {
    if (spot < 0) return null;
    const [x, y] = [this.spots.xy[2 * spot], this.spots.xy[2 * spot + 1]];
    return [x * this.scale + this.left, y * this.scale + this.top];
  }

  spotAt(screenX, screenY) {
    const [x, y] = [(screenX - this.left) / this.scale, (screenY - this.top) / this.scale];
    const reach = Math.max(this.spots.diameter * (this.spots.square ? 0.71 : 0.5), 5 / this.scale);
    return this.nearest((dx, dy) => dx * dx + dy * dy <= reach * reach, x, y);
  }

  nearest(accept, x, y) {
    let [best, least] = [-1, Infinity];
    for (let spot = 0; spot < this.spots.count; spot++) {
      const [dx, dy] = [this.spots.xy[2 * spot] - x, this.spots.xy[2 * spot + 1] - y];
      const distance = dx * dx + dy * dy;
      if (distance < least && accept(dx, dy)) [best, least] = [spot, distance];
    }
    return best;
  }

  point(spot, pinned) {
    const pins = pinned && spot >= 0;
    if (spot === this.spot && pins === this.pinned) return;
    Object.assign(this, { spot, pinned: pins });
    this.moved();
  }

  /* From the spot pointed at to the nearest within 45 degrees of a direction. */
  step(right, down) {
    if (this.spot < 0) {
      const [x, y] = [(this.width / 2 - this.left) / this.scale, (this.height / 2 - this.top) / this.scale];
      return this.point(this.nearest(() => true, x, y), true);
    }
    const ahead = (dx, dy) => {
      const forward = dx * right + dy * down;
      return forward > 0 && Math.abs(dx * down + dy * right) <= forward;
    };
    const [x, y] = [this.spots.xy[2 * this.spot], this.spots.xy[2 * this.spot + 1]];
    const next = this.nearest(ahead, x, y);
    if (next >= 0) this.point(next, true);
    this.reveal();
  }

  reveal() {
    const [x, y] = this.screenOf(this.spot);
    const margin = 30;
    const shift = (at, size) => (at < margin ? margin - at : Math.min(size - margin - at, 0));
    const [dx, dy] = [shift(x, this.width), shift(y, this.height)];
    if (!this.fitted && (dx || dy)) this.pan(dx, dy);
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const kind of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(kind, (event) => this.release(event));
    }
    canvas.addEventListener("pointerleave", () => this.pinned || this.point(-1, false));
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("blur", () => this.point(-1, false));
    this.image.addEventListener("load", () => this.refresh());
  }

  wheel(event) {
    const factor = Math.exp(-Math.max(-60, Math.min(60, event.deltaY)) / 240);
    if (factor < 1 && this.fitted) return; // the page may scroll on
    event.preventDefault();
    this.zoom(factor, event.offsetX, event.offsetY);
  }

  press(event) {
    this.canvas.setPointerCapture(event.pointerId);
    if (this.lasso?.active) return this.lasso.begin(...this.level0(event.offsetX, event.offsetY));
    this.pressedAt = [event.offsetX, event.offsetY];
    this.pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
    this.point(this.spotAt(event.offsetX, event.offsetY), false);
  }

  /* A press and release at one place is a click. */
  release(event) {
    const held = this.pointers.delete(event.pointerId);
    if (this.lasso?.active) return this.lasso.end();
    if (!held || this.pointers.size || event.type !== "pointerup") return;
    const [x, y] = this.pressedAt;
    if (Math.hypot(event.offsetX - x, event.offsetY - y) > 4) return;
    this.onClick?.(this.spotAt(event.offsetX, event.offsetY));
  }

  level0(screenX, screenY) {
    return [(screenX - this.left) / this.scale, (screenY - this.top) / this.scale];
  }

  move(event) {
    if (this.lasso?.active) {
      if (event.buttons) this.lasso.extend(...this.level0(event.offsetX, event.offsetY));
      return;
    }
    const last = this.pointers.get(event.pointerId);
    const now = [event.offsetX, event.offsetY];
    if (this.pinned && !event.movementX && !event.movementY) return; // the page moved below it
    if (!last) return this.point(this.spotAt(...now), false);
    this.pointers.set(event.pointerId, now);
    if (this.pointers.size === 1) return this.pan(now[0] - last[0], now[1] - last[1]);
    const other = [...this.pointers].find(([id]) => id !== event.pointerId)[1];
    const apart = (a, b) => Math.max(Math.hypot(a[0] - b[0], a[1] - b[1]), 1);
    this.zoom(apart(now, other) / apart(last, other), ...other);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const act = {
      ArrowLeft: () => this.step(-1, 0),
      ArrowRight: () => this.step(1, 0),
      ArrowUp: () => this.step(0, -1),
      ArrowDown: () => this.step(0, 1),
      "+": () => this.zoom(1.5),
      "=": () => this.zoom(1.5),
      "-": () => this.zoom(1 / 1.5),
      0: () => this.fit(),
      Enter: () => this.spot >= 0 && this.onClick?.(this.spot),
      Escape: () => this.point(-1, false),
    }[event.key];
    if (!act) return;
    event.preventDefault();
    if (!this.width) this.resize(); // a key may come before the observer
    act();
  }
}

function grayed(image) {
  const copy = document.createElement("canvas");
  [copy.width, copy.height] = [image.naturalWidth, image.naturalHeight];
  const context = copy.getContext("2d");
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, copy.width, copy.height);
  for (let i = 0; i < pixels.data.length; i += 4) {
    const [red, green, blue] = pixels.data.subarray(i, i + 3);
    pixels.data.fill(0.3 * red + 0.59 * green + 0.11 * blue, i, i + 3);
  }
  context.putImageData(pixels, 0, 0);
  return copy;
}
