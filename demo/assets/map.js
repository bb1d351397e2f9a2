// The scene from above, drawn from the state; dragging a body writes it.

import { SceneReader } from "./schema.js";

const MARGIN = 0.14; // of the canvas, around the table: where camera and light stand
const EDIT_EVERY = 40; // ms

export class SceneMap {
  constructor(canvas, edit) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.edit = edit;
    this.state = null;
    this.drag = null; // {x, y, sentAt, sent}: the chosen body in the player's hand
    this.dirty = false;
    canvas.addEventListener("pointerdown", (event) => this.grab(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", () => this.drop());
    canvas.addEventListener("pointercancel", () => this.drop());
    canvas.addEventListener("keydown", (event) => this.key(event));
    const tick = () => { if (this.dirty) this.draw(); requestAnimationFrame(tick); };
    requestAnimationFrame(tick);
    new ResizeObserver(() => { this.dirty = true; }).observe(canvas);
    new MutationObserver(() => { this.dirty = true; }).observe(document.body, { attributeFilter: ["class"] });
  }

  setSchema(schema) {
    this.scene = new SceneReader(schema);
    this.chosen = this.scene.player;
    const place = this.scene.player && this.scene.field(this.scene.player, "position");
    [this.low, this.high] = place ? [place.low, place.high] : [0, 1];
    this.flat = schema.view?.kind === "plane"; // y grows downwards, as in the picture
    this.canvas.closest("figure").hidden = !place || place.size < 2;
  }

  setState(state) { this.state = state; this.dirty = true; }

  // -- table <-> canvas

  get size() { return this.canvas.clientWidth; }
  get scale() { return (this.size * (1 - 2 * MARGIN)) / (this.high - this.low); }
  toX(x) { return this.size * MARGIN + (x - this.low) * this.scale; }
  toY(y) { return this.size * MARGIN + (this.flat ? y - this.low : this.high - y) * this.scale; }

  toTable(event) {
    const box = this.canvas.getBoundingClientRect();
    const x = (event.clientX - box.left - this.size * MARGIN) / this.scale, y = (event.clientY - box.top - this.size * MARGIN) / this.scale;
    return [this.low + x, this.flat ? this.low + y : this.high - y];
  }

  // -- dragging

  grab(event) {
    if (!this.state) return;
    const [x, y] = this.toTable(event);
    const reach = (body) => Math.max(this.half(body) * 1.3, 10 / this.scale);
    const near = this.scene.bodies
      .filter((body) => this.scene.present(this.state, body))
      .map((body) => ({ body, away: Math.hypot(x - this.at(body)[0], y - this.at(body)[1]) }))
      .filter(({ body, away }) => away < reach(body))
      .sort((a, b) => a.away - b.away);
    if (near.length) this.chosen = near[0].body;
    if (!near.length && (Math.min(x, y) < this.low || Math.max(x, y) > this.high)) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.drag = { sentAt: 0, sent: false };
    if (!near.length) this.move(event); // a click on the bare table calls the chosen body there
  }

  // Enter chooses the next body, arrows move it: what a mouse does, without one.
  key(event) {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, this.flat ? -1 : 1], ArrowDown: [0, this.flat ? 1 : -1] }[event.code];
    if (!this.state || (!way && event.code !== "Enter")) return;
    event.preventDefault();
    event.stopPropagation(); // the game has arrows too
    if (way) {
      const stride = (this.high - this.low) / 20, [x, y] = this.at(this.chosen);
      this.drag = { sentAt: 0, sent: event.repeat };
      this.put([x + way[0] * stride, y + way[1] * stride]);
      this.drop();
    } else {
      const there = this.scene.bodies.filter((body) => this.scene.present(this.state, body));
      this.chosen = there[(there.indexOf(this.chosen) + 1) % there.length];
      this.dirty = true;
    }
  }

  // Where the chosen body is to be, as far in as it is large.
  put(place) {
    const inside = this.half(this.chosen);
    [this.drag.x, this.drag.y] = place.map((v) => Math.min(Math.max(v, this.low + inside), this.high - inside));
  }

  move(event) {
    if (!this.drag || (event.type === "pointermove" && !event.buttons)) return;
    this.put(this.toTable(event));
    if (performance.now() - this.drag.sentAt > EDIT_EVERY) this.send();
    this.dirty = true;
  }

  drop() {
    if (this.drag?.x !== undefined) this.send();
    this.drag = null;
    this.dirty = true;
  }

  send() {
    this.drag.sentAt = performance.now();
    const fields = {};
    for (const role of ["position", "velocity", "angular_velocity"]) {
      const field = this.scene.field(this.chosen, role);
      if (!field || field.static) continue;
      const values = role === "position" ? [this.drag.x, this.drag.y].map((v) => Number(v.toFixed(4))) : Array(field.size).fill(0);
      fields[field.name] = field.size === 1 ? values[0] : values;
    }
    this.edit({ [this.chosen.name]: fields }, this.drag.sent);
    this.drag.sent = true;
  }

  // -- drawing

  at(body) { return body === this.chosen && this.drag?.x !== undefined ? [this.drag.x, this.drag.y] : this.scene.get(this.state, body, "position"); }
  half(body) { return this.scene.get(this.state, body, "size")?.[0] || (this.high - this.low) * 0.04; }

  draw() {
    this.dirty = false;
    if (!this.state || !this.scene.player) return;
    const { canvas, context: c, scene, state, size } = this, ratio = devicePixelRatio;
    if (canvas.width !== Math.round(size * ratio)) canvas.width = canvas.height = Math.round(size * ratio);
    const style = getComputedStyle(canvas);
    this.ink = style.getPropertyValue("--ink").trim();
    this.faint = style.getPropertyValue("--faint").trim();
    this.accent = style.getPropertyValue("--accent").trim();
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, size, size);
    this.drawTable(style);
    for (const spot of scene.spots) if (scene.present(state, spot)) this.drawSpot(...scene.get(state, spot, "position"));
    for (const body of scene.bodies) if (scene.present(state, body)) this.drawBody(body);
    this.drawLight();
    this.drawCamera();
  }

  drawTable(style) {
    const c = this.context, edge = this.size * MARGIN, side = this.size - 2 * edge;
    c.fillStyle = style.getPropertyValue("--table");
    c.strokeStyle = this.faint;
    c.lineWidth = 1;
    c.beginPath();
    c.roundRect(edge - 5, edge - 5, side + 10, side + 10, 6);
    c.fill();
    c.stroke();
    c.globalAlpha = 0.45;
    c.beginPath();
    for (let i = 1; i < 4; i++) {
      const at = Math.round(edge + (side * i) / 4) + 0.5;
      c.moveTo(at, edge); c.lineTo(at, edge + side);
      c.moveTo(edge, at); c.lineTo(edge + side, at);
    }
    c.stroke();
    c.globalAlpha = 1;
  }

  drawSpot(x, y) {
    const c = this.context;
    c.strokeStyle = this.ink;
    c.lineWidth = 2;
    c.setLineDash([4, 3]);
    c.beginPath();
    c.arc(this.toX(x), this.toY(y), 0.08 * (this.high - this.low) * this.scale, 0, 7);
    c.stroke();
    c.setLineDash([]);
    c.beginPath();
    c.arc(this.toX(x), this.toY(y), 2, 0, 7);
    c.stroke();
  }

  drawBody(body) {
    const { context: c, scene, state } = this;
    const [x, y] = this.at(body), r = this.half(body) * this.scale, shape = scene.name(state, body, "shape");
    const px = this.toX(x), py = this.toY(y), up = this.flat ? 1 : -1;
    c.save();
    c.translate(px, py);
    c.save();
    c.rotate(up * (scene.get(state, body, "orientation")?.[0] ?? 0));
    c.fillStyle = scene.paint(state, body);
    c.beginPath();
    if (shape === "box") c.roundRect(-r, -r, 2 * r, 2 * r, 2);
    else c.arc(0, 0, r, 0, 7);
    c.fill();
    c.strokeStyle = "rgba(0,0,0,.35)";
    c.lineWidth = 1;
    c.stroke();
    if (shape === "cylinder") { c.beginPath(); c.arc(0, 0, r * 0.62, 0, 7); c.stroke(); }
    if (shape === "ball") { c.fillStyle = "rgba(255,255,255,.5)"; c.beginPath(); c.arc(-r * 0.32, -r * 0.32, r * 0.25, 0, 7); c.fill(); }
    c.restore();
    if (body === scene.player) { // marked white on the table, so here too
      c.fillStyle = "#fff";
      c.beginPath(); c.arc(0, 0, Math.max(3, r * 0.3), 0, 7); c.fill();
      c.strokeStyle = "rgba(0,0,0,.5)"; c.stroke();
    }
    if (body === this.chosen) {
      c.strokeStyle = this.accent; c.lineWidth = 2;
      c.beginPath(); c.arc(0, 0, (shape === "box" ? 1.42 : 1) * r + 4, 0, 7); c.stroke();
    }
    const velocity = scene.get(state, body, "velocity");
    if (velocity && !(this.drag && body === this.chosen)) this.drawArrow(velocity[0] * this.scale * 0.25, up * velocity[1] * this.scale * 0.25);
    c.restore();
  }

  drawArrow(dx, dy) {
    const c = this.context, length = Math.hypot(dx, dy);
    if (length < 4) return;
    c.strokeStyle = this.ink; c.lineWidth = 1.5;
    c.beginPath();
    c.moveTo(0, 0); c.lineTo(dx, dy);
    for (const turn of [2.6, -2.6]) {
      const angle = Math.atan2(dy, dx) + turn;
      c.moveTo(dx, dy); c.lineTo(dx + 5 * Math.cos(angle), dy + 5 * Math.sin(angle));
    }
    c.stroke();
  }

  // Both stand on a ring around the table; angles are the table's, so y is turned over.
  onRing(angle, ring) {
    const middle = this.size / 2;
    return [middle + Math.cos(angle) * ring * this.size, middle - Math.sin(angle) * ring * this.size];
  }

  drawLight() {
    const angle = this.scene.find(this.state, "light")?.[0];
    if (angle === undefined) return;
    const c = this.context, [x, y] = this.onRing(angle, 0.46), bright = this.scene.find(this.state, "light_brightness")?.[0] ?? 1;
    c.save();
    c.globalAlpha = 0.35 + 0.65 * bright;
    c.strokeStyle = c.fillStyle = "#f5b301";
    c.lineWidth = 2;
    c.beginPath(); c.arc(x, y, 5, 0, 7); c.fill();
    c.beginPath();
    for (let i = 0; i < 8; i++) {
      const turn = (i * Math.PI) / 4;
      c.moveTo(x + 7.5 * Math.cos(turn), y + 7.5 * Math.sin(turn));
      c.lineTo(x + (8 + 4 * bright) * Math.cos(turn), y + (8 + 4 * bright) * Math.sin(turn));
    }
    c.stroke();
    c.restore();
  }

  drawCamera() {
    const azimuth = this.schemaAzimuth();
    if (azimuth === undefined) return;
    const c = this.context, [x, y] = this.onRing(azimuth - Math.PI / 2, 0.42), middle = this.size / 2;
    const gaze = Math.atan2(middle - y, middle - x);
    c.save();
    c.translate(x, y);
    c.rotate(gaze);
    c.fillStyle = this.ink;
    c.beginPath(); c.roundRect(-8, -5, 11, 10, 2); c.fill();
    c.beginPath(); c.moveTo(2, 0); c.lineTo(8, -5); c.lineTo(8, 5); c.fill();
    c.strokeStyle = this.faint; c.setLineDash([3, 3]);
    c.beginPath();
    for (const side of [-0.38, 0.38]) { c.moveTo(9, 0); c.lineTo(9 + 42 * Math.cos(side), 42 * Math.sin(side)); }
    c.stroke();
    c.restore();
  }

  schemaAzimuth() {
    const [entity, field] = (this.scene.schema.view?.kind === "orbit" ? this.scene.schema.view.azimuth_of : ".").split(".");
    const found = this.scene.entities.find((e) => e.name === entity)?.fields.find((f) => f.name === field);
    return found && this.state[found.start];
  }
}
