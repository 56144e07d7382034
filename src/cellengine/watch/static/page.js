"use strict";
// The live page: asks for data every two seconds while it is visible. No framework, nothing from elsewhere.
const EVERY_MS = 2000, SLOW_TURN = 5, MOST_ZOOM = 32;
const at = (id) => document.getElementById(id);
const view = { id: null, follow: true, classes: [], scale: 1, x: 0, y: 0, pointers: new Map() };
let turn = 0, lastNumber = null;

function element(name, attributes = {}, text = "") {
  const svg = ["svg", "rect", "line", "text", "title", "g"].includes(name);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}
const number = (value) => Number(value).toLocaleString("en", { maximumFractionDigits: value < 10 ? 1 : 0 });
const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });

async function ask(path) {
  const answer = await fetch(path, { credentials: "same-origin" });
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

function showStatus(now) {
  view.classes = now.classes;
  at("folder").textContent = now.folder;
  document.title = `${now.counts.done} labelled, ${now.counts.waiting} waiting: ${now.folder}`;
  at("state").textContent = now.state;
  at("state").dataset.state = now.state;
  at("alert").hidden = now.state !== "paused";
  at("alert").textContent = now.reason;
  at("waiting").textContent = number(now.counts.waiting + now.counts.running);
  at("done").textContent = number(now.counts.done);
  at("failed").textContent = number(now.counts.failed);
  at("rate").textContent = number(now.pictures_per_min);
  at("busy").textContent = `${Math.round(100 * now.network_share)} %`;
  at("cpu").textContent = `${Math.round(now.cpu_percent / now.cpus)} %`;
  at("memory").textContent = `${number(now.memory_bytes / 1e6)} MB`;
  at("work").hidden = !now.picture;
  at("working").textContent = now.picture;
  at("tiles").max = Math.max(1, now.tiles);
  at("tiles").value = now.tiles_done;
  at("how").textContent = `model ${now.model}, ${now.backend} ${now.precision} on ${now.device}, ` +
    `running for ${number(now.running_s / 60)} min`;
}

function showPicture(result) {
  at("nothing").hidden = true;
  at("viewer").hidden = false;
  view.id = result.id;
  at("shown").src = result.overlay;
  at("shown").alt = `${result.file} with an outline around each of ${result.objects} objects`;
  at("table").href = result.table;
  at("caption").textContent = `${result.file}: ${number(result.objects)} objects, ${clock(result.finished)}, ` +
    `${result.latency_s.toFixed(1)} s after the file was complete`;
  for (const button of at("recent").querySelectorAll("button"))
    button.setAttribute("aria-pressed", String(Number(button.dataset.id) === view.id));
}

function showRecent(results) {
  const focused = document.activeElement?.dataset?.id;
  at("recent").replaceChildren(...results.map((result) => {
    const button = element("button", { type: "button", "data-id": result.id, "aria-pressed": result.id === view.id },
      `${result.file} (${result.objects})`);
    button.addEventListener("click", () => { follow(false); showPicture(result); });
    const item = element("li");
    item.append(button);
    return item;
  }));
  if (focused) at("recent").querySelector(`[data-id="${focused}"]`)?.focus({ preventScroll: true });
}

function follow(on) {
  view.follow = on;
  at("follow").setAttribute("aria-pressed", String(on));
}

function frame(title, height) {
  const figure = element("figure", { class: "chart" });
  const svg = element("svg", { viewBox: `0 0 800 ${height}`, role: "img", "aria-label": title });
  figure.append(element("figcaption", {}, title), svg);
  return [figure, svg];
}

function bars(history) {
  const most = Math.max(1, ...history.map((step) => step.objects / step.pictures));
  const total = history.reduce((sum, step) => sum + step.objects, 0);
  const [figure, svg] = frame(`Objects a picture over time; ${number(total)} objects in all`, 200);
  place(history, (step, x, width) => {
    const mean = step.objects / step.pictures, tall = 150 * mean / most;
    const bar = element("rect", { class: "bar", x, y: 170 - tall, width, height: tall });
    bar.append(element("title", {}, `${clock(step.time)}: ${number(mean)} objects a picture, ${step.pictures} pictures`));
    svg.append(bar);
  });
  axis(svg, history, number(most));
  return figure;
}

function shares(history) {
  // in the model's order, so that a class has the colour that its outlines have in the picture
  const found = new Set(history.flatMap((step) => Object.keys(step.classes)));
  const names = [...new Set([...view.classes, ...found])];
  if (names.length < 2 || !found.size) return null;
  const [figure, svg] = frame(`Shares of the classes over time: ${names.join(", ")}`, 200);
  place(history, (step, x, width) => {
    const all = Object.values(step.classes).reduce((sum, n) => sum + n, 0) || 1;
    let y = 170;
    names.forEach((name, i) => {
      const share = (step.classes[name] || 0) / all;
      y -= 150 * share;
      const bar = element("rect", { class: `c${i % 6}`, x, y, width, height: 150 * share });
      bar.append(element("title", {}, `${clock(step.time)}: ${name} ${Math.round(100 * share)} %`));
      svg.append(bar);
    });
  });
  axis(svg, history, "100 %");
  const key = element("div", { class: "key" });
  names.forEach((name, i) => {
    const mark = element("svg", { viewBox: "0 0 9 9", "aria-hidden": "true" });
    mark.append(element("rect", { class: `c${i % 6}`, width: 9, height: 9 }));
    const item = element("span", {}, "");
    item.append(mark, ` ${name}`);
    key.append(item);
  });
  figure.append(key);
  return figure;
}

function place(history, draw) {
  const first = history[0].time, span = Math.max(1, history[history.length - 1].time - first);
  const width = Math.max(2, Math.min(40, 700 / Math.max(120, history.length)));
  for (const step of history) draw(step, 50 + (700 - width) * (step.time - first) / span, width);
}

function axis(svg, history, top) {
  svg.append(element("line", { class: "axis", x1: 50, x2: 760, y1: 170, y2: 170 }));
  svg.append(element("text", { x: 44, y: 26, "text-anchor": "end" }, top));
  svg.append(element("text", { x: 44, y: 174, "text-anchor": "end" }, "0"));
  svg.append(element("text", { x: 50, y: 190 }, clock(history[0].time)));
  svg.append(element("text", { x: 760, y: 190, "text-anchor": "end" }, clock(history[history.length - 1].time)));
}

function showHistory(answer) {
  at("objects").textContent = number(answer.objects);
  const drawn = answer.history.length ? [bars(answer.history), shares(answer.history)] : [];
  at("charts").replaceChildren(...drawn.filter(Boolean));
}

function showFailures(failures) {
  at("no-failures").hidden = failures.length > 0;
  at("failures").hidden = failures.length === 0;
  at("failures").querySelector("tbody").replaceChildren(...failures.map((one) => {
    const row = element("tr");
    const state = one.kind === "failed" ? "set aside" : "tried again";
    for (const text of [one.name, state, one.failures, one.note]) row.append(element("td", {}, String(text)));
    return row;
  }));
}

async function refresh() {
  if (document.hidden) return;
  try {
    const now = await ask("/api/status");
    showStatus(now);
    const newest = now.latest ? now.latest.number : null;
    if (newest !== lastNumber) {
      lastNumber = newest;
      showRecent((await ask("/api/latest")).results);
      if (now.latest && (view.follow || view.id === null)) showPicture(now.latest);
    }
    if (turn++ % SLOW_TURN === 0) {
      showHistory(await ask("/api/history"));
      showFailures((await ask("/api/failures")).failures);
    }
  } catch (error) {
    at("state").textContent = "no connection";
    at("state").dataset.state = "lost";
    turn = 0;
  }
}

function move() {
  const stage = at("stage").getBoundingClientRect();
  view.scale = Math.min(MOST_ZOOM, Math.max(1, view.scale));
  view.x = Math.min(0, Math.max(stage.width * (1 - view.scale), view.x));
  view.y = Math.min(0, Math.max(stage.height * (1 - view.scale), view.y));
  at("shown").style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.scale})`;
  at("shown").style.imageRendering = view.scale > 4 ? "pixelated" : "auto";
}

function zoom(factor, clientX, clientY) {
  const stage = at("stage").getBoundingClientRect();
  const px = (clientX ?? stage.left + stage.width / 2) - stage.left;
  const py = (clientY ?? stage.top + stage.height / 2) - stage.top;
  const scale = Math.min(MOST_ZOOM, Math.max(1, view.scale * factor));
  view.x = px - (px - view.x) * scale / view.scale;
  view.y = py - (py - view.y) * scale / view.scale;
  view.scale = scale;
  move();
}

function drag(event) {
  const before = view.pointers.get(event.pointerId);
  if (!before) return;
  const others = [...view.pointers].filter(([id]) => id !== event.pointerId).map(([, point]) => point);
  if (others.length) {
    const far = (point) => Math.hypot(point.x - others[0].x, point.y - others[0].y) || 1;
    const now = { x: event.clientX, y: event.clientY };
    zoom(far(now) / far(before), (now.x + others[0].x) / 2, (now.y + others[0].y) / 2);
  } else {
    view.x += event.clientX - before.x;
    view.y += event.clientY - before.y;
    move();
  }
  view.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
}

const KEYS = {
  "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), "0": () => zoom(1 / MOST_ZOOM),
  ArrowLeft: () => { view.x += 60; move(); }, ArrowRight: () => { view.x -= 60; move(); },
  ArrowUp: () => { view.y += 60; move(); }, ArrowDown: () => { view.y -= 60; move(); },
};

const stage = at("stage");
stage.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom(event.deltaY < 0 ? 1.25 : 0.8, event.clientX, event.clientY);
}, { passive: false });
stage.addEventListener("pointerdown", (event) => {
  stage.setPointerCapture(event.pointerId);
  view.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
});
stage.addEventListener("pointermove", drag);
for (const end of ["pointerup", "pointercancel"])
  stage.addEventListener(end, (event) => view.pointers.delete(event.pointerId));
stage.addEventListener("keydown", (event) => {
  if (!KEYS[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  KEYS[event.key]();
});
at("zoom-in").addEventListener("click", () => zoom(1.5));
at("zoom-out").addEventListener("click", () => zoom(1 / 1.5));
at("zoom-all").addEventListener("click", () => zoom(1 / MOST_ZOOM));
at("follow").addEventListener("click", () => { follow(!view.follow); lastNumber = null; refresh(); });
document.addEventListener("visibilitychange", refresh);
setInterval(refresh, EVERY_MS);
refresh();
