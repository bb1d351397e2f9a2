// Which actions are held, by keys or by touch. Keys are the game's only while nobody is typing.

const DIRECTIONS = {
  north: { keys: ["ArrowUp", "KeyW"], sign: "↑", place: "up" },
  south: { keys: ["ArrowDown", "KeyS"], sign: "↓", place: "down" },
  west: { keys: ["ArrowLeft", "KeyA"], sign: "←", place: "left" },
  east: { keys: ["ArrowRight", "KeyD"], sign: "→", place: "right" },
  orbit_left: { keys: ["KeyQ", "Comma"], sign: "⟲", place: "orbit-left" },
  orbit_right: { keys: ["KeyE", "Period"], sign: "⟳", place: "orbit-right" },
};
const SAME = { up: "north", down: "south", left: "west", right: "east" };

export class Keyboard {
  constructor({ pad, shortcuts, held, shortcut }) {
    Object.assign(this, { pad, shortcuts, report: held, shortcut });
    this.actionOf = {}; // by key code
    this.down = new Map(); // source (key code or "touch:action") -> action, in the order of pressing
    addEventListener("keydown", (event) => this.keydown(event));
    addEventListener("keyup", (event) => this.release(event.code));
    addEventListener("blur", () => this.releaseAll());
    document.addEventListener("visibilitychange", () => this.releaseAll());
  }

  // The first action is the idle one; unknown names get the digits.
  bind(actions) {
    this.releaseAll();
    this.actionOf = {};
    this.pad.replaceChildren();
    let digit = 1;
    for (const action of actions.slice(1)) {
      const known = DIRECTIONS[SAME[action.toLowerCase()] ?? action.toLowerCase()];
      const { keys, sign, place } = known ?? { keys: [`Digit${digit}`], sign: digit++, place: "other" };
      for (const key of keys) this.actionOf[key] = action;
      const button = document.createElement("button");
      Object.assign(button, { textContent: sign, className: place, title: `${action.replace("_", " ")} (${keys.map(label).join(" or ")})`, tabIndex: -1 });
      button.dataset.action = action;
      button.addEventListener("pointerdown", (event) => {
        event.preventDefault();
        button.setPointerCapture(event.pointerId);
        this.press(`touch:${action}`, action);
      });
      for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) button.addEventListener(end, () => this.release(`touch:${action}`));
      this.pad.append(button);
    }
  }

  keydown(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
    const action = this.actionOf[event.code], shortcut = this.shortcuts[event.code];
    if (!action && !shortcut) return;
    if (event.code === "Space" && event.target.closest?.("button, a, select, summary")) return;
    event.preventDefault();
    if (action) this.press(event.code, action);
    else if (!event.repeat) this.shortcut(shortcut);
  }

  press(source, action) {
    if (this.down.has(source)) return;
    this.down.set(source, action);
    this.changed();
  }

  release(source) { if (this.down.delete(source)) this.changed(); }

  releaseAll() {
    if (!this.down.size) return;
    this.down.clear();
    this.changed();
  }

  changed() {
    const held = [...new Set(this.down.values())];
    for (const button of this.pad.children) button.classList.toggle("held", held.includes(button.dataset.action));
    this.report(held);
  }
}

function isTyping(target) { return !!target.closest?.("input:not([type=checkbox]), textarea, select, [contenteditable=true]"); }

function label(code) {
  return { ArrowUp: "↑", ArrowDown: "↓", ArrowLeft: "←", ArrowRight: "→", Comma: ",", Period: "." }[code] ?? code.replace(/Key|Digit/, "");
}
