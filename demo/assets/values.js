// The state in numbers: a row per body, a line for everything else.

import { SceneReader } from "./schema.js";

const EVERY = 100; // ms; faster cannot be read

export class ValueTable {
  constructor(box) {
    [this.head, this.body, this.list] = ["thead", "tbody", "dl.values"].map((part) => box.querySelector(part));
    this.shownAt = 0;
  }

  setSchema(schema) {
    const scene = (this.scene = new SceneReader(schema));
    const dynamic = scene.player?.fields.filter((field) => !field.static && field.kind === "continuous") ?? [];
    this.columns = dynamic.flatMap((field) => Array.from({ length: field.size }, (_, i) => ({ field, i })));
    this.head.innerHTML = this.body.innerHTML = this.list.innerHTML = "";
    if (scene.bodies.length) {
      const title = ({ field, i }) => (field.size > 1 ? `${field.name[0] === "p" ? "" : field.name[0]}${"xyz"[i]}` : `${field.name.replaceAll("_", " ")}${unit(field).startsWith("°") ? " °" : ""}`);
      row(this.head, "th", ["body", ...this.columns.map(title)]);
      this.columns.forEach(({ field, i }, at) => { this.head.rows[0].cells[at + 1].title = `${field.name}${field.size > 1 ? ` ${"xyz"[i]}` : ""} in ${unit(field)}`; });
    }
    this.rows = scene.bodies.map((entity) => ({ entity, cells: row(this.body, "td", ["", ...this.columns.map(() => "")]) }));
    this.lines = scene.others.flatMap((entity) => entity.fields.map((field) => {
      const term = document.createElement("dt"), value = document.createElement("dd");
      term.textContent = `${entity.name} ${field.name}`.replaceAll("_", " ");
      const pair = document.createElement("div");
      pair.append(term, value);
      this.list.append(pair);
      return { field, value };
    }));
  }

  setState(state) {
    clearTimeout(this.later);
    const wait = this.shownAt + EVERY - performance.now();
    if (wait > 0) this.later = setTimeout(() => this.show(state), wait);
    else this.show(state);
  }

  show(state) {
    this.shownAt = performance.now();
    const { scene } = this;
    for (const { entity, cells } of this.rows) {
      const here = scene.present(state, entity);
      cells[0].parentElement.hidden = !here;
      if (!here) continue;
      const words = ["colour", "material", "shape"].map((role) => scene.name(state, entity, role)).filter(Boolean).join(" ");
      if (cells[0].title !== words) {
        cells[0].title = words;
        cells[0].innerHTML = `<i style="background:${scene.paint(state, entity)}"></i>`;
        cells[0].append(entity === scene.player ? `${words || entity.name} (you)` : words || entity.name);
      }
      this.columns.forEach(({ field, i }, at) => {
        const own = entity.fields.find((f) => f.name === field.name);
        cells[at + 1].textContent = own ? number(field, state[own.start + i]) : "";
      });
    }
    for (const { field, value } of this.lines) {
      const parts = state.slice(field.start, field.start + field.size);
      value.textContent = field.kind === "flag" ? (parts[0] > 0.5 ? "yes" : "no")
        : field.kind === "categorical" ? field.names[Math.round(parts[0])]
        : `${parts.map((part) => number(field, part)).join(", ")} ${unit(field)}`;
    }
  }
}

// Angles are read in degrees.
function unit(field) { return field.unit.replace("rad", "°"); }
function number(field, value) {
  const text = field.unit.startsWith("rad") ? ((value * 180) / Math.PI).toFixed(0) : value.toFixed(2);
  return /^-0(\.0*)?$/.test(text) ? text.slice(1) : text.replace("-", "−");
}

function row(parent, kind, texts) {
  const line = document.createElement("tr");
  const cells = texts.map((text) => Object.assign(document.createElement(kind), { textContent: text }));
  line.append(...cells);
  parent.append(line);
  return cells;
}
