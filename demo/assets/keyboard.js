// Keys that do something while they are down. They are the game's only while nobody is typing.

export class Keyboard {
  // shortcuts: key code -> name; shortcut: called with the name of one that was pressed.
  constructor({ shortcuts, shortcut }) {
    Object.assign(this, { shortcuts, shortcut });
    this.bound = {}; // key code -> {press, release}
    this.down = new Map(); // source (key code, or what a finger holds) -> release
    addEventListener("keydown", (event) => this.keydown(event));
    addEventListener("keyup", (event) => this.release(event.code));
    addEventListener("blur", () => this.releaseAll());
    document.addEventListener("visibilitychange", () => this.releaseAll());
  }

  clear() {
    this.releaseAll();
    this.bound = {};
  }

  free(code) { return !this.bound[code] && !this.shortcuts[code]; }

  bind(code, press, release = () => {}) { this.bound[code] = { press, release }; }

  // A button that is held as a key is.
  bindButton(button, press, release) {
    button.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      button.setPointerCapture(event.pointerId);
      this.press(button, press, release);
    });
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) button.addEventListener(end, () => this.release(button));
  }

  keydown(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
    const own = this.bound[event.code], shortcut = this.shortcuts[event.code];
    if (!own && !shortcut) return;
    if (event.code === "Space" && event.target.closest?.("button, a, select, summary")) return;
    event.preventDefault();
    if (own) this.press(event.code, own.press, own.release);
    else if (!event.repeat) this.shortcut(shortcut);
  }

  press(source, press, release) {
    if (this.down.has(source)) return;
    this.down.set(source, release);
    press();
  }

  release(source) {
    const release = this.down.get(source);
    this.down.delete(source);
    release?.();
  }

  releaseAll() { for (const source of [...this.down.keys()]) this.release(source); }
}

function isTyping(target) { return !!target.closest?.("input:not([type=checkbox], [type=range]), textarea, select, [contenteditable=true]"); }

export function keyLabel(code) {
  return { ArrowUp: "↑", ArrowDown: "↓", ArrowLeft: "←", ArrowRight: "→", Comma: ",", Period: "." }[code] ?? code.replace(/Key|Digit/, "");
}
