// What the player holds: a key for each choice, a switch, a slider or a stick for the other parts of an action.

import { keyLabel } from "./keyboard.js";

const ARROWS = {
  up: { keys: ["ArrowUp", "KeyW"], sign: "↑", place: "up" },
  down: { keys: ["ArrowDown", "KeyS"], sign: "↓", place: "down" },
  left: { keys: ["ArrowLeft", "KeyA"], sign: "←", place: "left" },
  right: { keys: ["ArrowRight", "KeyD"], sign: "→", place: "right" },
};
const PLACES = [...Object.keys(ARROWS), "turn-left", "turn-right"]; // on the picture; others stand in a row
const SPARE = [..."1234567890"].map((digit) => `Digit${digit}`).concat([..."TYIOPFGHJKLXVM"].map((letter) => `Key${letter}`));
const PAIRS = [["ArrowLeft", "ArrowRight"], ["ArrowDown", "ArrowUp"], ["KeyA", "KeyD"], ["KeyS", "KeyW"], ["KeyQ", "KeyE"]];
const STICK = [[["ArrowLeft", "ArrowRight"], ["KeyA", "KeyD"]], [["ArrowDown", "ArrowUp"], ["KeyS", "KeyW"]]]; // across, up

export class Controls {
  constructor({ pad, panel, keyboard, changed }) {
    Object.assign(this, { pad, panel, keyboard, changed });
    this.held = new Map(); // choice -> how many keys and fingers hold it, in the order of pressing
    this.values = {}; // part -> number
  }

  bind(controls) {
    this.keyboard.clear();
    this.held.clear();
    this.values = {};
    this.lit = {}; // choice -> its button
    this.pad.replaceChildren();
    this.panel.replaceChildren();
    const of = (kind) => controls.filter((control) => control.kind === kind);
    const choices = of("choice"); // the arrows are theirs first
    for (const control of choices) choices.length === 1 ? this.onPicture(control) : this.inRow(control);
    for (const control of of("binary")) this.switch(control);
    for (const control of of("stick")) this.stick(control);
    for (const control of of("binned")) this.slider(control);
    this.panel.hidden = !this.panel.childElementCount;
    this.pad.hidden = !this.pad.childElementCount;
    this.panel.parentElement.style.setProperty("--panel", `${this.panel.offsetHeight}px`);
  }

  report() {
    for (const [choice, button] of Object.entries(this.lit)) button.classList.toggle("held", this.held.has(choice));
    this.changed({ held: [...this.held.keys()], values: this.values });
  }

  // -- choices: the first is what is done while nothing is held

  onPicture({ choices }) {
    for (const choice of choices.slice(1)) {
      const key = this.keyOf(choice), place = PLACES.includes(key.place) ? key.place : "other";
      const button = this.choiceButton(choice, key, key.sign ?? (key.keys.length ? keyLabel(key.keys[0]) : choice.label));
      button.classList.add(place);
      this.pad.append(button);
    }
  }

  inRow({ name, choices }) {
    const row = this.row(name);
    for (const choice of choices.slice(1)) {
      const key = this.keyOf(choice);
      const button = this.choiceButton(choice, key, choice.label.replaceAll("_", " "));
      if (key.keys.length) button.append(" ", kbd(key.keys[0]));
      row.append(button);
    }
  }

  choiceButton(choice, key, text) {
    const press = () => { this.hold(choice.held, 1); }, release = () => { this.hold(choice.held, -1); };
    const button = make("button", { textContent: text, title: title(choice.label, key.keys), tabIndex: -1, type: "button" });
    button.dataset.action = choice.held;
    for (const code of key.keys) this.keyboard.bind(code, press, release);
    this.keyboard.bindButton(button, press, release);
    this.lit[choice.held] = button;
    return button;
  }

  hold(choice, change) {
    const count = (this.held.get(choice) ?? 0) + change;
    if (count > 0) this.held.set(choice, count);
    else this.held.delete(choice);
    this.report();
  }

  // The page's keys, or arrows for words of direction, or the next that is free.
  keyOf({ keys, sign, place, label }) {
    if (Array.isArray(keys)) return { keys, sign, place };
    const word = { north: "up", south: "down", west: "left", east: "right" }[label.toLowerCase()] ?? label.toLowerCase();
    const arrow = Object.hasOwn(ARROWS, word) && ARROWS[word];
    if (arrow && arrow.keys.every((code) => this.keyboard.free(code))) return arrow;
    return { keys: this.spare(), sign, place };
  }

  spare() {
    const code = SPARE.find((code) => this.keyboard.free(code));
    return code ? [code] : [];
  }

  // -- switches

  switch({ name, idle, keys }) {
    const codes = Array.isArray(keys) ? keys : this.spare();
    const button = make("button", { textContent: name.replaceAll("_", " "), title: title(name, codes), type: "button", tabIndex: -1 });
    if (codes.length) button.append(" ", kbd(codes[0]));
    const toggle = () => {
      this.values[name] = 1 - this.values[name];
      button.setAttribute("aria-pressed", this.values[name] === 1);
      this.report();
    };
    this.values[name] = idle;
    button.setAttribute("aria-pressed", idle === 1);
    button.addEventListener("click", toggle);
    for (const code of codes) this.keyboard.bind(code, toggle);
    (this.panel.querySelector(".switches") ?? this.row("", "switches")).append(button);
  }

  // -- quantities

  slider({ name, levels, labels, idle, keys }) {
    const pair = Array.isArray(keys) ? keys : PAIRS.find((codes) => codes.every((code) => this.keyboard.free(code))) ?? [];
    const row = this.row(name);
    const slider = make("input", { type: "range", min: 0, max: levels.length - 1, step: 1, value: levels.indexOf(idle), tabIndex: -1 });
    slider.setAttribute("aria-label", name);
    slider.title = `${name}: double-click goes back to ${number(idle)}` + (pair.length === 2 ? `, ${pair.map(keyLabel).join(" and ")} push to the ends` : "");
    const value = make("output", {});
    const put = (level) => {
      this.values[name] = level;
      value.textContent = labels[levels.indexOf(level)] ?? number(level);
      slider.value = levels.indexOf(level);
    };
    let rest = idle;
    put(idle);
    slider.addEventListener("input", () => { put((rest = levels[Number(slider.value)])); this.report(); });
    slider.addEventListener("change", () => slider.blur());
    slider.addEventListener("dblclick", () => { put((rest = idle)); this.report(); });
    this.bindEnds(pair, [levels[0], levels.at(-1)], () => rest, put);
    if (pair.length === 2) row.append(kbd(pair[0]), slider, kbd(pair[1]), value);
    else row.append(slider, value);
  }

  stick({ name, axes }) {
    const box = make("div", { className: "stick", title: `${name}: drag it, or use the arrows; it springs back` }), knob = make("i", {}), value = make("output", {});
    box.append(knob);
    // From -1 to 1 of the stick to the quantity's own range, with what it springs back to in the middle.
    const scale = ({ levels, idle }, share) => idle + share * (share > 0 ? levels.at(-1) - idle : idle - levels[0]);
    const share = ({ levels, idle }, level) => (level - idle) / ((level > idle ? levels.at(-1) - idle : idle - levels[0]) || 1);
    const show = () => {
      const [x, y] = axes.map((axis) => share(axis, this.values[axis.name]));
      knob.style.transform = `translate(${x * 100}%, ${-y * 100}%)`;
      value.textContent = axes.map((axis) => number(this.values[axis.name])).join(", ");
    };
    const put = (levels) => {
      axes.forEach((axis, i) => { if (levels[i] !== undefined) this.values[axis.name] = levels[i]; });
      show();
    };
    put(axes.map(({ idle }) => idle));
    const drag = (event) => {
      const area = box.getBoundingClientRect();
      const at = [(event.clientX - area.left) / area.width, 1 - (event.clientY - area.top) / area.height];
      put(axes.map((axis, i) => scale(axis, Math.min(Math.max((at[i] * 2 - 1) * 1.5, -1), 1))));
      this.report();
    };
    box.addEventListener("pointerdown", (event) => { event.preventDefault(); box.setPointerCapture(event.pointerId); drag(event); });
    box.addEventListener("pointermove", (event) => { if (box.hasPointerCapture(event.pointerId)) drag(event); });
    box.addEventListener("lostpointercapture", () => { put(axes.map(({ idle }) => idle)); this.report(); });
    axes.forEach((axis, i) => {
      const pairs = Array.isArray(axis.keys) ? [axis.keys] : STICK[i].filter((pair) => pair.every((code) => this.keyboard.free(code)));
      for (const pair of pairs) this.bindEnds(pair, [axis.levels[0], axis.levels.at(-1)], () => axis.idle, (level) => put(i ? [undefined, level] : [level]));
    });
    this.row(name === "stick" ? "" : name).append(box, value);
  }

  // Two keys that push a quantity to its ends while they are down; the one pressed last counts.
  bindEnds(pair, ends, rest, put) {
    if (pair.length !== 2) return;
    const pushed = [];
    const settle = () => { put(pushed.length ? ends[pushed.at(-1)] : rest()); this.report(); };
    pair.forEach((code, end) => this.keyboard.bind(code, () => { pushed.push(end); settle(); }, () => { pushed.splice(pushed.indexOf(end), 1); settle(); }));
  }

  row(name, className = "") {
    const row = make("div", { className: `control ${className}` });
    if (name) row.append(make("label", { textContent: name.replaceAll("_", " ") }));
    this.panel.append(row);
    return row;
  }
}

function make(tag, about) { return Object.assign(document.createElement(tag), about); }
function kbd(code) { return make("kbd", { textContent: keyLabel(code) }); }
function title(label, keys) { return label.replaceAll("_", " ") + (keys.length ? ` (${keys.map(keyLabel).join(" or ")})` : ""); }
function number(value) { return String(Number(value.toFixed(2))).replace("-", "−"); }
