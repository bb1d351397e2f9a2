// Joins the parts of the page: keys and buttons to the socket, pictures to the canvas, the state to map and table.

import { Controls } from "./controls.js";
import { Keyboard } from "./keyboard.js";
import { SceneMap } from "./map.js";
import { Playback } from "./playback.js";
import { PlaySocket } from "./play_socket.js";
import { ValueTable } from "./values.js";

const SHORTCUTS = { Space: "pause", KeyR: "restart", KeyN: "next", KeyZ: "undo", KeyB: "fork", KeyC: "record", KeyU: "upsample" };

export function play(stage, scene) {
  const find = (selector) => stage.querySelector(selector);
  const button = (name) => find(`[data-do=${name}]`);
  const toast = find(".toast"), banner = find(".banner"), download = find(".download");
  const playback = new Playback(find(".picture"));
  const socket = new PlaySocket({ hello, picture, caption, recording, error: complain, closed });
  const keyboard = new Keyboard({ shortcuts: SHORTCUTS, shortcut: act });
  const controls = new Controls({ pad: find(".pad"), panel: find(".controls"), keyboard, changed: (hand) => socket.send({ type: "keys", ...hand }) });
  const map = new SceneMap(scene.querySelector(".map canvas"), (edit, continues) => socket.send({ type: "edit", edit, continues }));
  const table = new ValueTable(scene);
  let world = { caption: null, seed: 7, state: null }; // as it was started last
  let asked = world; // as it was asked for last, which may be refused
  let realTime = 15, last = null, toastTimer = 0, hiddenWhilePlaying = false, recordingSince = 0;

  // -- from the server

  function hello(message) {
    realTime = message.steps_per_s;
    controls.bind(message.controls);
    map.setSchema(message.schema);
    table.setSchema(message.schema);
    scene.hidden = !message.schema.entities.length;
    const upsample = button("upsample");
    upsample.disabled = !message.upsampler;
    upsample.title = message.upsampler ? "Draw at twice the size (U)" : "This world has no upsampler";
    find(".tell input").placeholder = message.event ? `Tell what happens: ${message.event}` : "Tell what happens";
    find(".tell input").hidden = find(".tell button").hidden = !message.tell;
    button("describe").hidden = !message.describe;
    find(".tell").hidden = !message.tell && !message.describe;
    setPace();
    if (pressed("upsample")) socket.send({ type: "upsample", on: true });
    start(world);
  }

  function picture(header, pixels) {
    if (!header.time) world = asked; // not refused
    last = header;
    stage.style.setProperty("--aspect", header.width / header.height);
    playback.add(header, pixels);
    map.setState(header.state);
    table.setState(header.state);
    showStatus();
    showBranches(header);
    if (pressed("record") !== header.recording) press("record", header.recording);
    find(".recording-dot").hidden = !header.recording;
  }

  function caption({ text }) {
    find(".caption").textContent = text;
    find(".caption").hidden = false;
  }

  function recording(header, bytes) {
    URL.revokeObjectURL(download.href);
    download.href = URL.createObjectURL(new Blob([bytes], { type: "video/mp4" }));
    download.download = `world-${world.seed}.mp4`;
    download.textContent = `Save ${header.seconds.toFixed(1)} s`;
    download.title = "Save the recording as an mp4";
    download.hidden = false;
    press("record", false);
    find(".recording-dot").hidden = true;
  }

  function complain(message) {
    toast.textContent = message;
    toast.hidden = false;
    clearTimeout(toastTimer);
    toastTimer = setTimeout(() => { toast.hidden = true; }, 7000);
    asked = world;
    if (!last) show("No world yet", "Change the prompt and start again");
  }

  function closed(seconds, full) {
    if (last) last.playing = false;
    playback.forget();
    press("record", false);
    find(".recording-dot").hidden = true;
    show(full ? "Waiting for a seat" : "Connection lost", `Trying again in ${seconds} s`);
  }

  // -- from the player

  function start({ caption, seed, state }) {
    asked = { caption, seed, state };
    last = null;
    toast.hidden = find(".caption").hidden = true;
    show("Imagining…", caption || "a world of the model's own choice");
    socket.send({ type: "start", caption, seed, state });
    document.activeElement?.blur(); // keys are for playing now
  }

  function act(what) {
    switch (what) {
      case "pause": if (last) setPlaying(!last.playing); break;
      case "restart": start(world); break;
      case "next": document.dispatchEvent(new CustomEvent("world:next")); break;
      case "undo": playback.forget(); socket.send({ type: "undo" }); break;
      case "describe": socket.send({ type: "describe" }); break;
      case "fork": socket.send({ type: "fork" }); break;
      case "record":
        press("record", !pressed("record"));
        recordingSince = performance.now();
        socket.send({ type: "record", on: pressed("record") });
        break;
      case "upsample":
        if (button("upsample").disabled) break;
        press("upsample", !pressed("upsample"));
        socket.send({ type: "upsample", on: pressed("upsample") });
        break;
      case "smooth":
        press("smooth", !pressed("smooth"));
        find(".picture").classList.toggle("smooth", pressed("smooth"));
        break;
    }
  }

  function setPlaying(on) {
    last.playing = on;
    if (on) last.terminated = false;
    socket.send({ type: "pause", on: !on });
    showStatus();
  }

  function setPace() {
    const factor = Number(find(".pace").value);
    socket.send({ type: "pace", steps_per_s: factor ? factor * realTime : null });
  }

  stage.addEventListener("click", (event) => {
    const chosen = event.target.closest("[data-do], [data-branch]");
    if (!chosen) return;
    if (chosen.dataset.do) act(chosen.dataset.do);
    else socket.send({ type: "switch", index: Number(chosen.dataset.branch) });
  });
  find(".tell").addEventListener("submit", (event) => {
    event.preventDefault();
    const { event: told } = event.target.elements;
    if (told.value.trim()) socket.send({ type: "tell", event: told.value });
    told.select();
    told.blur(); // keys are for playing now
  });
  find(".pace").addEventListener("change", (event) => { setPace(); event.target.blur(); });
  document.addEventListener("click", (event) => {
    if (event.detail) event.target.closest("button")?.blur(); // clicked with the mouse: Space stays the game's
  });
  document.addEventListener("world:start", (event) => start(event.detail));
  document.addEventListener("visibilitychange", () => {
    if (document.hidden && last?.playing) { hiddenWhilePlaying = true; setPlaying(false); }
    else if (!document.hidden && hiddenWhilePlaying) { hiddenWhilePlaying = false; setPlaying(true); }
  });
  setInterval(() => {
    if (!last) return;
    const m = playback.measure();
    find(".fps").textContent = last.playing ? `${m.framesPerS.toFixed(0)} frames/s` : "still";
    const model = m.p50 ? `model ${m.p50.toFixed(0)} ms (p95 ${m.p95.toFixed(0)})` : "";
    find(".detail").textContent = [last.playing ? `${m.stepsPerS.toFixed(1)} steps/s` : `step ${last.time}`, model].filter(Boolean).join(" · ");
    find(".meter").title = `Step ${last.time}. Measured over the last three seconds` + (m.p50 ? `; flat out, the model could show ${((m.framesPerStep * 1000) / m.p50).toFixed(0)} frames/s` : "");
    if (last.recording) find(".recording-dot span").textContent = `${((performance.now() - recordingSince) / 1000).toFixed(0)} s`;
  }, 500);

  // -- what is shown

  function showStatus() {
    if (last.terminated) show(last.reward ? `The end: reward ${Number(last.reward.toFixed(2))}` : "The end", "<kbd>R</kbd> again · <kbd>N</kbd> next world · <kbd>Space</kbd> play on", last.reward > 0 ? "won" : "");
    else if (!last.playing) show("Paused", "<kbd>Space</kbd> to play on");
    else banner.hidden = true;
    button("pause").querySelector("span").textContent = last.playing ? "Pause" : "Play";
  }

  function show(title, hint, kind = "") {
    banner.className = `banner ${kind}`;
    banner.innerHTML = "<strong></strong><span></span>";
    banner.firstChild.textContent = title;
    if (hint.includes("<kbd>")) banner.lastChild.innerHTML = hint;
    else banner.lastChild.textContent = hint;
    banner.hidden = false;
  }

  function showBranches({ branch, branches }) {
    const box = find(".branches");
    box.hidden = branches < 2;
    if (box.childElementCount !== branches) {
      box.replaceChildren(...Array.from({ length: branches }, (_, i) => {
        const choice = document.createElement("button");
        Object.assign(choice, { textContent: i + 1, title: `Play branch ${i + 1}` });
        choice.dataset.branch = i;
        return choice;
      }));
    }
    [...box.children].forEach((choice, i) => choice.setAttribute("aria-pressed", i === branch));
  }

  function pressed(name) { return button(name).getAttribute("aria-pressed") === "true"; }
  function press(name, on) { button(name).setAttribute("aria-pressed", on); }
}
