"use strict";

/* Ways to a gene: a combobox that filters while the user types, and a table that sorts by a column. */
const LISTED = 300; // genes shown at once; typing narrows the rest

function signed(value) {
  return value === null ? "–" : value.toFixed(2).replace("-", "−");
}

class GeneSelector {
  /* genes: names and moran; onChoose takes an index. */
  constructor(input, list, genes, onChoose) {
    Object.assign(this, { input, list, genes, onChoose, active: -1, chosen: -1 });
    input.addEventListener("input", () => this.open(input.value));
    input.addEventListener("click", () => list.hidden && (input.select(), this.open("")));
    input.addEventListener("blur", () => this.close());
    input.addEventListener("keydown", (event) => this.key(event));
    list.addEventListener("mousedown", (event) => this.press(event));
  }

  show(gene) {
    this.chosen = gene;
    this.input.value = this.genes.names[gene];
  }

  open(filter) {
    const wanted = filter.trim().toUpperCase();
    const starts = [];
    const contains = [];
    this.genes.names.forEach((name, gene) => {
      const at = name.toUpperCase().indexOf(wanted);
      if (at >= 0) (at ? contains : starts).push(gene);
    });
    const found = [...starts, ...contains];
    const listed = found.slice(0, LISTED);
    this.list.replaceChildren(...listed.map((gene) => this.option(gene)));
    if (found.length > LISTED || !found.length) this.list.append(this.remainder(found.length));
    this.list.hidden = false;
    this.input.setAttribute("aria-expanded", "true");
    this.activate(Math.max(listed.indexOf(wanted ? found[0] : this.chosen), 0));
  }

  option(gene) {
    const node = GeneMap.text("li", this.genes.names[gene]);
    node.id = `gene-${gene}`;
    node.setAttribute("role", "option");
    node.dataset.index = gene;
    const { pcc, heldout, moran } = this.genes;
    const [label, known] = pcc ? ["PCC", pcc] : heldout ? ["Held-out PCC", heldout] : ["Moran’s I", moran];
    const value = known[gene];
    node.classList.toggle("unsupported", isUnsupported(this.genes, gene));
    if (value !== null) node.append(GeneMap.text("span", `${label} ${signed(value)}`));
    return node;
  }

  remainder(count) {
    const node = GeneMap.text("li", count ? `${count - LISTED} more; type to narrow` : "No such gene");
    node.className = "none";
    return node;
  }

  options() {
    return this.list.querySelectorAll('[role="option"]');
  }

  activate(place) {
    const nodes = this.options();
    this.active = nodes.length ? Math.min(Math.max(place, 0), nodes.length - 1) : -1;
    nodes.forEach((node, i) => node.setAttribute("aria-selected", i === this.active));
    if (this.active < 0) return this.input.removeAttribute("aria-activedescendant");
    this.input.setAttribute("aria-activedescendant", nodes[this.active].id);
    nodes[this.active].scrollIntoView({ block: "nearest" });
  }

  close() {
    this.list.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.input.removeAttribute("aria-activedescendant");
    this.input.value = this.genes.names[this.chosen];
  }

  take() {
    const node = this.options()[this.active];
    if (node) this.onChoose(Number(node.dataset.index));
    this.close();
  }

  key(event) {
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 };
    if (event.key in moves) {
      event.preventDefault();
      if (this.list.hidden) this.open("");
      else this.activate(this.active + moves[event.key]);
    } else if (event.key === "Enter" && !this.list.hidden) {
      event.preventDefault();
      this.take();
    } else if (event.key === "Escape") {
      this.close();
    }
  }

  press(event) {
    event.preventDefault(); // keeps the focus in the input
    const node = event.target.closest('[role="option"]');
    if (!node) return;
    this.active = [...this.options()].indexOf(node);
    this.take();
  }
}

/* True for a gene whose held-out spots show no correlation; false if that was not measured. */
function isUnsupported(genes, gene) {
  const isSet = gene >= genes.names.length - genes.sets;
  return genes.supported !== undefined && !isSet && !genes.supported[gene];
}

/* Every gene in a table; the heads are buttons, numbers sort from high to low. At first it is sorted by
   its first column of numbers. */
class GeneTable {
  constructor(table, genes, onChoose) {
    const heads = [...table.tHead.querySelectorAll("[data-column]")];
    const numbers = heads.map((head) => head.dataset.column).filter((name) => name !== "names");
    Object.assign(this, { table, genes, onChoose, numbers, chosen: -1, down: true, column: numbers[0] });
    for (const head of table.tHead.querySelectorAll("[data-column]")) {
      head.querySelector("button").addEventListener("click", () => this.sort(head.dataset.column));
    }
    table.tBodies[0].addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) onChoose(Number(button.dataset.index));
    });
    this.fill();
  }

  sort(column) {
    this.down = column === this.column ? !this.down : column !== "names";
    this.column = column;
    this.fill();
  }

  fill() {
    const values = this.genes[this.column];
    const sign = this.down ? -1 : 1;
    const compare = (a, b) => {
      if (values[a] === null || values[b] === null) return (values[a] === null) - (values[b] === null);
      return sign * (values[a] < values[b] ? -1 : values[a] > values[b] ? 1 : 0);
    };
    const order = this.genes.names.map((_, gene) => gene).sort(compare);
    this.table.tBodies[0].replaceChildren(...order.slice(0, LISTED).map((gene) => this.row(gene)));
    for (const head of this.table.tHead.querySelectorAll("[data-column]")) {
      const sorted = head.dataset.column === this.column;
      head.setAttribute("aria-sort", sorted ? (this.down ? "descending" : "ascending") : "none");
    }
  }

  row(gene) {
    const row = document.createElement("tr");
    const head = document.createElement("th");
    const button = GeneMap.text("button", this.genes.names[gene]);
    head.scope = "row";
    Object.assign(button, { type: "button" });
    button.dataset.index = gene;
    button.setAttribute("aria-pressed", gene === this.chosen);
    head.append(button);
    if (isUnsupported(this.genes, gene)) {
      row.className = "unsupported";
      head.append(GeneMap.text("small", "not supported"));
    }
    row.append(head, ...this.numbers.map((column) => this.number(this.genes[column][gene])));
    return row;
  }

  number(value) {
    const cell = GeneMap.text("td", signed(value));
    cell.className = "number";
    return cell;
  }

  show(gene) {
    this.chosen = gene;
    for (const button of this.table.tBodies[0].querySelectorAll("button")) {
      button.setAttribute("aria-pressed", Number(button.dataset.index) === gene);
    }
  }
}
