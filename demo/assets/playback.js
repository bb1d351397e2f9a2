// Shows the frames of a step evenly spaced over the time to the next step, and says how fast that went.

const MEMORY = 3000; // ms that measurements look back
const LATE = 2; // steps that may wait before they are brought nearer
const CUSHION = 0.25; // of a step: how long a picture waits when none did, so that small delays don't show

export class Playback {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.queue = []; // {image, due}
    this.steps = []; // {at, ms}
    this.shown = []; // times
    this.interval = 1000 / 15; // ms a step takes, smoothed
    this.framesPerStep = 4;
    this.lastDue = 0;
    const tick = () => { this.draw(performance.now()); requestAnimationFrame(tick); };
    requestAnimationFrame(tick);
  }

  add({ frames, width, height, step_ms }, pixels) {
    const now = performance.now();
    if (step_ms > 0) {
      const before = this.steps.at(-1)?.at;
      if (before && now - before < 1000) this.interval += 0.15 * (now - before - this.interval);
      this.steps.push({ at: now, ms: step_ms });
      this.framesPerStep = frames;
    } else {
      this.forget(); // after an undo or a switch, what was to come no longer is
    }
    const spacing = this.interval / frames;
    const follows = this.lastDue + spacing;
    let due = follows > now ? follows : now + (step_ms > 0 ? CUSHION * this.interval : 0);
    for (let i = 0; i < frames; i++, due += spacing) {
      this.queue.push({ image: toImage(pixels.subarray(i * width * height * 3), width, height), due });
    }
    const surplus = due - now - this.interval * (1 + CUSHION);
    if (surplus > LATE * this.interval) for (const frame of this.queue) frame.due -= surplus;
    this.lastDue = this.queue.at(-1).due;
  }

  forget() { this.queue = []; this.lastDue = 0; }

  draw(now) {
    // One frame a refresh, skipping only those that are late by a whole one: at 60 frames/s on a 60 Hz screen
    // the two clocks differ by little, and every frame is seen.
    const spacing = this.interval / this.framesPerStep;
    if (!this.queue.length || this.queue[0].due > now) return;
    let { image } = this.queue.shift();
    while (this.queue.length && this.queue[0].due < now - spacing) ({ image } = this.queue.shift());
    if (this.canvas.width !== image.width || this.canvas.height !== image.height) {
      Object.assign(this.canvas, { width: image.width, height: image.height });
    }
    this.context.putImageData(image, 0, 0);
    this.shown.push(now);
  }

  measure() {
    const now = performance.now(), since = now - MEMORY;
    this.steps = this.steps.filter((step) => step.at > since);
    this.shown = this.shown.filter((at) => at > since);
    const ms = this.steps.map((step) => step.ms).sort((a, b) => a - b);
    const rate = (times) => (times.length < 2 ? 0 : ((times.length - 1) * 1000) / (times.at(-1) - times[0]));
    return {
      stepsPerS: rate(this.steps.map((step) => step.at)),
      framesPerS: rate(this.shown),
      framesPerStep: this.framesPerStep,
      p50: ms[Math.floor(ms.length * 0.5)],
      p95: ms[Math.floor(ms.length * 0.95)],
    };
  }
}

function toImage(rgb, width, height) {
  const image = new ImageData(width, height), words = new Uint32Array(image.data.buffer);
  for (let i = 0, at = 0; i < words.length; i++, at += 3) {
    words[i] = 0xff000000 | (rgb[at + 2] << 16) | (rgb[at + 1] << 8) | rgb[at]; // little-endian RGBA
  }
  return image;
}
