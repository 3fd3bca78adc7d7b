"use strict";
// The page of view/cockpit_server.py: draws what /events sends, and sends commands, goals and questions.

const $ = (id) => document.getElementById(id);
const NEAR = 0.3; // m; nothing closer to the camera plane is drawn
let scene = null;
let goal = null; // m, base_link of the scene it was set in; not moved with the ego, drawn until the next goal
let shown = 0; // performance.now() when the scene arrived, ms
let lenses = []; // names of the covered cameras
let layers = []; // decoded: { seconds, above: picture, voxels: Uint16Array }
const behind = new Behind($("behind"));
$("behind").hidden = behind.absent;

const events = new EventSource("events");
events.onopen = () => link("live", "ok");
events.onerror = () => link("connection lost", "error");
events.addEventListener("scene", (e) => show(JSON.parse(e.data)));
events.addEventListener("states", (e) => states(JSON.parse(e.data)));
events.addEventListener("held", (e) => held(JSON.parse(e.data)));
events.addEventListener("simulator", (e) => simulator(JSON.parse(e.data)));
events.addEventListener("covered", (e) => covered(JSON.parse(e.data)));
events.addEventListener("delayed", (e) => { $("delay").value = JSON.parse(e.data); });
events.addEventListener("says", (e) => says(JSON.parse(e.data)));

const OLD = 3; // s without a new scene after which the page is marked as stale
setInterval(() => {
  const age = (performance.now() - shown) / 1000, level = $("link").dataset.level;
  if (!scene || level === "error") return;
  if (age > OLD) link(`nothing new for ${age.toFixed(0)} s`, "stale");
  else if (level === "stale") link("live", "ok");
}, 500);

function link(text, level) {
  $("link").textContent = text;
  $("link").dataset.level = level;
}

function picture(kind, data) {
  const image = new Image();
  image.src = `data:image/${kind};base64,${data}`;
  return image.decode().then(() => image);
}

async function voxels(data) {
  const packed = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint16Array(await new Response(stream).arrayBuffer());
}

async function show(next) {
  const decoded = await Promise.all(next.occupancy.map(async (layer) => ({
    seconds: layer.seconds, above: await picture("png", layer.above), voxels: await voxels(layer.voxels),
  })));
  const names = Object.keys(next.cameras);
  const images = await Promise.all(names.map((name) => picture("jpeg", next.cameras[name].jpeg)));
  scene = next;
  shown = performance.now();
  layers = decoded;
  $("speed").textContent = `${(3.6 * next.speed).toFixed(0)} km/h`;
  $("command").textContent = `${next.command} (${next.source})`;
  $("status").textContent = [next.status, ...next.reasons].join(": ").replaceAll("_", " ");
  $("status").dataset.status = next.status;
  $("latency").textContent = `${next.latency} ms camera to plan`;
  $("horizon").max = Math.max(0, layers.length - 1);
  legend(next.legend);
  drawOccupancy();
  names.forEach((name, i) => drawCamera(name, next.cameras[name], images[i]));
  document.body.dataset.scenes = Number(document.body.dataset.scenes || 0) + 1;
}

function legend(entries) {
  if ($("legend").childElementCount) return;
  for (const { name, colour } of entries) {
    const row = document.createElement("div"), box = document.createElement("i");
    box.style.background = colour;
    row.append(box, name);
    $("legend").append(row);
  }
}

// --- from above and from behind

const shownLayer = () => layers[Math.min(Number($("horizon").value), layers.length - 1)];

function drawOccupancy() {
  if (!scene) return;
  const { seconds } = shownLayer();
  $("seconds").textContent = seconds ? `+${seconds} s` : "now";
  behind.show(shownLayer().voxels, scene);
  drawAbove();
}

function drawAbove() {
  const canvas = $("above"), pen = canvas.getContext("2d"), size = canvas.width;
  const [back, front, right, left] = scene.reach;
  const at = ([x, y]) => [size * (left - y) / (left - right), size * (front - x) / (front - back)];
  pen.fillStyle = "#161b22";
  pen.fillRect(0, 0, size, size);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(shownLayer().above, 0, 0, size, size);
  pen.strokeStyle = "#ffffff22";
  for (let r = 10; r <= 40; r += 10) {
    pen.beginPath();
    pen.arc(...at([0, 0]), size * r / (front - back), 0, 7);
    pen.stroke();
  }
  for (const candidate of scene.candidates) {
    if (candidate.chosen) continue;
    pen.strokeStyle = `rgba(150, 190, 230, ${0.15 + 0.6 * candidate.score})`;
    pen.lineWidth = 1.5;
    line(pen, [[0, 0], ...candidate.points].map(at), false);
    pen.stroke();
  }
  if (scene.path.length) {
    pen.fillStyle = scene.colour + "cc";
    line(pen, scene.path.map(at), true);
    pen.fill();
  }
  const { front: nose, rear, width } = scene.vehicle;
  pen.fillStyle = "#dfe6f0";
  line(pen, [[nose, width / 2], [nose, -width / 2], [rear, -width / 2], [rear, width / 2]].map(at), true);
  pen.fill();
  if (goal) {
    const [u, v] = at(goal);
    pen.strokeStyle = "#7fd0ff";
    pen.lineWidth = 3;
    pen.beginPath();
    pen.arc(u, v, 9, 0, 7);
    pen.moveTo(u - 14, v); pen.lineTo(u + 14, v); pen.moveTo(u, v - 14); pen.lineTo(u, v + 14);
    pen.stroke();
  }
}

function line(pen, points, closed) {
  pen.beginPath();
  points.forEach(([u, v], i) => (i ? pen.lineTo(u, v) : pen.moveTo(u, v)));
  if (closed) pen.closePath();
}

$("horizon").addEventListener("input", drawOccupancy);
$("above").addEventListener("click", (e) => {
  if (!scene) return;
  const box = e.target.getBoundingClientRect(), [back, front, right, left] = scene.reach;
  goal = [front - (front - back) * (e.clientY - box.top) / box.height,
          left - (left - right) * (e.clientX - box.left) / box.width];
  post("goal", { x: goal[0], y: goal[1] }).then((done) => { if (!done) goal = null; drawAbove(); });
});

// --- cameras

function drawCamera(name, camera, image) {
  let figure = document.querySelector(`figure[data-name="${CSS.escape(name)}"]`);
  if (!figure) {
    figure = document.createElement("figure");
    figure.dataset.name = name;
    const caption = document.createElement("figcaption"), cover = document.createElement("button");
    caption.textContent = name.replace("CAM_", "").replaceAll("_", " ").toLowerCase();
    cover.textContent = "cover";
    cover.setAttribute("aria-pressed", String(lenses.includes(name)));
    cover.addEventListener("click", () =>
      post("cover", { camera: name, on: cover.getAttribute("aria-pressed") !== "true" }));
    figure.append(document.createElement("canvas"), caption, cover);
    const order = scene.rows.flat();
    const after = [...$("cameras").children].find((f) => order.indexOf(f.dataset.name) > order.indexOf(name));
    $("cameras").insertBefore(figure, after || null);
  }
  figure.style.setProperty("--ratio", `${camera.width} / ${camera.height}`);
  figure.classList.toggle("missing", !camera.seen);
  const canvas = figure.firstChild, pen = canvas.getContext("2d"), zoom = 2;
  canvas.width = zoom * camera.width;
  canvas.height = zoom * camera.height;
  pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  const half = scene.path.length / 2;
  pen.fillStyle = scene.colour + "88";
  for (let i = 0; i + 1 < half; i++) {
    const quad = [scene.path[i], scene.path[i + 1], scene.path.at(-2 - i), scene.path.at(-1 - i)];
    const pixels = quad.map(([x, y]) => project(camera.matrix, x, y));
    if (pixels.some((p) => p === null)) continue;
    line(pen, pixels.map(([u, v]) => [zoom * u, zoom * v]), true);
    pen.fill();
  }
}

function project(m, x, y) {
  const depth = m[8] * x + m[9] * y + m[11];
  if (depth < NEAR) return null;
  return [(m[0] * x + m[1] * y + m[3]) / depth, (m[4] * x + m[5] * y + m[7]) / depth];
}

// --- nodes

function states(nodes) {
  const body = document.querySelector("#states tbody"), rows = Object.fromEntries([...body.rows].map((r) => [r.dataset.name, r]));
  const whole = (text) => (text === undefined ? "" : Number(text).toFixed(0));
  // Rows are reused, so a button pressed during an update still gets its click.
  body.replaceChildren(...nodes.map((node) => {
    const row = rows[node.name] || nodeRow(node.name), [name, state, p50, p95, rate, end] = row.cells;
    row.dataset.level = node.silent ? "stale" : node.level;
    name.textContent = node.name;
    state.textContent = state.title = node.silent ? "gone" : node.message;
    p50.textContent = whole(node.latency_p50_ms);
    p95.textContent = whole(node.latency_p95_ms);
    rate.textContent = node.rate_hz === undefined ? "" : Number(node.rate_hz).toFixed(1);
    end.firstChild.hidden = !node.switch || node.silent;
    end.lastChild.hidden = !node.switch;
    end.firstChild.textContent = node.message.startsWith("INACTIVE") ? "on" : "off";
    return row;
  }));
}

function nodeRow(name) {
  const row = document.createElement("tr"), button = document.createElement("button");
  row.dataset.name = name;
  for (let i = 0; i < 6; i++) row.append(document.createElement("td"));
  button.setAttribute("aria-label", `switch ${name}`);
  button.addEventListener("click", () => post("switch", { node: name, on: button.textContent === "on" }));
  const kill = Object.assign(document.createElement("button"), { textContent: "kill", className: "kill" });
  kill.setAttribute("aria-label", `kill ${name}`);
  kill.addEventListener("click", () => post("kill", { node: name }));
  row.lastChild.append(button, kill);
  return row;
}

// --- the simulated world

function simulator({ scenarios, weathers, delays }) {
  if (!$("world").hidden) return;
  $("world").hidden = false;
  document.body.classList.add("simulated");
  for (const [id, words] of [["scenario", scenarios], ["weather", weathers]])
    $(id).append(...words.map((w) => new Option(w ? w.replaceAll("_", " ") : "by the seed", w)));
  $("delay").append(...delays.map((s) => new Option(s ? `${s} s late` : "at once", s)));
}

function covered(names) {
  lenses = names;
  for (const figure of document.querySelectorAll("#cameras figure"))
    figure.querySelector("button").setAttribute("aria-pressed", String(names.includes(figure.dataset.name)));
}

$("delay").addEventListener("change", () => post("delay", { seconds: Number($("delay").value) }));
$("begin").addEventListener("click", () =>
  post("begin", { scenario: $("scenario").value, weather: $("weather").value, seed: Number($("seed").value) }));

// --- command and chat

async function post(what, body) {
  try {
    const answer = await fetch(what, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
    if (answer.ok) return answer;
    note((await answer.json()).error);
  } catch {
    note("the cockpit does not answer");
  }
  return null;
}

function note(text) {
  $("note").textContent = text;
  $("note").hidden = false;
  clearTimeout(note.timer);
  note.timer = setTimeout(() => { $("note").hidden = true; }, 5000);
}

let commanded = Promise.resolve(); // sequential, because concurrent requests may overtake each other
const command = (value) => { commanded = commanded.then(() => post("command", { command: value })); };

function held(value) {
  for (const button of document.querySelectorAll("#drive button"))
    button.setAttribute("aria-pressed", String(button.dataset.command === value && value !== ""));
}

for (const button of document.querySelectorAll("#drive button"))
  button.addEventListener("click", () => command(button.dataset.command));

document.addEventListener("keydown", (e) => {
  if (["INPUT", "SELECT"].includes(e.target.tagName)) {
    if (e.key === "Escape") e.target.blur();
    return;
  }
  const keys = { ArrowLeft: "left", ArrowUp: "straight", ArrowRight: "right", Escape: "" };
  if (e.key in keys) command(keys[e.key]);
  else if (e.key === "/") $("question").focus();
  else return;
  e.preventDefault();
});

function say(text, kind) {
  const item = Object.assign(document.createElement("li"), { textContent: text, className: kind });
  $("talk").append(item);
  while ($("talk").childElementCount > 60) $("talk").firstChild.remove();
  $("talk").scrollTop = $("talk").scrollHeight;
  return item;
}

let asking = 0; // own questions in progress; their answers also arrive as "says" events
function says(text) {
  if (!asking && text !== $("talk").lastChild?.textContent) say(text, "itself");
}

$("ask").addEventListener("submit", async (e) => {
  e.preventDefault();
  const question = $("question").value.trim();
  if (!question) return;
  $("question").value = "";
  say(question, "me");
  const item = say("…", "answer");
  asking++;
  try {
    const answer = await post("ask", { question });
    if (!answer) { item.remove(); return; }
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    item.textContent = "";
    for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
      item.textContent += piece.value;
      $("talk").scrollTop = $("talk").scrollHeight;
    }
  } finally {
    setTimeout(() => asking--, 500);
  }
});
