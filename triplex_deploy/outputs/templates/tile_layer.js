"use strict";

/* The slide's tiles under the spots, from a folder beside the page: a pyramid in Deep Zoom's layout.
   Level 0 is one pixel; the last level is the finest. Coarser tiles show until finer ones are there. */
class TileLayer {
  static KEPT = 400; // pictures in memory
  static AT_ONCE = 8; // pictures on their way
  static COARSER = 1.15; // enlargement of the thumbnail that is not seen

  /* pyramid: folder, width, height, scale (level-0 pixels per pixel), tile and present, by level. */
  constructor(pyramid, thumbnailScale, onChange, onMissing) {
    Object.assign(this, pyramid, { thumbnailScale, onChange, onMissing });
    this.finest = this.present.length - 1;
    this.pictures = new Map();
    this.coming = 0;
  }

  /* Draws the part in view, unless the thumbnail shows as much. */
  draw(view) {
    const ratio = window.devicePixelRatio || 1;
    if (view.scale * ratio <= this.thumbnailScale * TileLayer.COARSER) return;
    const pixel = view.scale * this.scale * ratio; // device pixels per pixel of the finest level
    const level = Math.max(this.finest - Math.max(Math.floor(-Math.log2(pixel)), 0), 0);
    if (view.tissue === "gray") view.context.filter = "grayscale(1)";
    for (const shown of [level - 4, level - 2, level]) {
      if (shown >= 0) this.drawLevel(view, shown, ratio);
    }
    view.context.filter = "none";
  }

  drawLevel(view, level, ratio) {
    const pixel = 2 ** (this.finest - level) * this.scale * view.scale; // CSS pixels per pixel of the level
    const side = this.tile * pixel;
    const rows = this.present[level];
    const [firstRow, lastRow] = this.inView(-view.top, view.height, side, rows.length);
    const [firstColumn, lastColumn] = this.inView(-view.left, view.width, side, rows[0].length);
    const snap = (value) => Math.round(value * ratio) / ratio; // tiles that touch leave no seam
    for (let row = firstRow; row <= lastRow; row++) {
      for (let column = firstColumn; column <= lastColumn; column++) {
        if (rows[row][column] !== "1") continue;
        const picture = this.picture(level, column, row);
        if (!picture) continue;
        const [x, y] = [view.left + column * side, view.top + row * side];
        const [left, top] = [snap(x), snap(y)];
        const width = snap(x + picture.naturalWidth * pixel) - left;
        view.context.drawImage(picture, left, top, width, snap(y + picture.naturalHeight * pixel) - top);
      }
    }
  }

  inView(from, length, side, count) {
    return [Math.max(Math.floor(from / side), 0), Math.min(Math.floor((from + length) / side), count - 1)];
  }

  /* Returns a loaded picture, or asks for it. */
  picture(level, column, row) {
    const address = `${this.folder}/slide_files/${level}/${column}_${row}.jpg`;
    const known = this.pictures.get(address);
    if (known) {
      this.pictures.delete(address);
      this.pictures.set(address, known); // the last of the list was used last
      return known.complete && known.naturalWidth ? known : null;
    }
    if (this.coming >= TileLayer.AT_ONCE) return null;
    const picture = new Image();
    this.coming++;
    picture.onload = () => this.came();
    picture.onerror = () => {
      this.came();
      this.onMissing();
    };
    picture.src = address;
    this.pictures.set(address, picture);
    if (this.pictures.size > TileLayer.KEPT) this.pictures.delete(this.pictures.keys().next().value);
    return null;
  }

  came() {
    this.coming--;
    this.onChange();
  }
}
