"use strict";
// Draws the points of dashboard/points. Text from the server goes through textContent only.
const LEVELS = ["#d1495b", "#edae49", "#66a182", "#2e86ab", "#5b5f97", "#8e6c8a"];
const WIDTH = 500, HEIGHT = 110, LEFT = 34, BOTTOM = 4;
const SVG = "http://www.w3.org/2000/svg";
const cards = new Map();
let points = [], after = 0, run = "", kept = 180, token = sessionStorage.getItem("token") || "";

const byId = (id) => document.getElementById(id);
const known = (value) => value !== null && value !== undefined;
const level = (index) => LEVELS[index % LEVELS.length];

function node(name, attributes = {}, text = null) {
  const it = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) it.setAttribute(key, value);
  if (text !== null) it.textContent = text;
  return it;
}

function mark(name, attributes, text = null) {
  const it = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) it.setAttribute(key, value);
  if (text !== null) it.textContent = text;
  return it;
}

const number = (value, digits = 1) => known(value) ? value.toFixed(digits) : "–";
const percent = (share) => known(share) ? (100 * share).toFixed(1) + " %" : "–";
const times = (pair) => pair ? `${pair[0].toFixed(1)} / ${pair[1].toFixed(1)} ms` : "–";
const mebibytes = (bytes) => (bytes / 2 ** 20).toFixed(0) + " MiB";

function facts(list, rows) {
  list.replaceChildren(...rows.filter(([, value]) => value !== null).map(([name, value, bad]) => {
    const row = node("div");
    row.append(node("dt", {}, name), node("dd", bad ? { class: "bad" } : {}, value));
    return row;
  }));
}

function card(name) {
  if (!cards.has(name)) {
    const it = node("article", { "data-model": name });
    it.append(node("h2"), node("p", { class: "cap bad", hidden: "" }), node("dl"), node("div", { class: "charts" }));
    byId("models").append(it);
    cards.set(name, it);
  }
  return cards.get(name);
}

const x = (index) => LEFT + (WIDTH - LEFT) * (kept - points.length + index + 0.5) / kept;
const y = (value, most) => HEIGHT - BOTTOM - (HEIGHT - BOTTOM - 8) * Math.min(value / most, 1);

function chart(title, legend, most, unit, draw) {
  const figure = node("figure"), caption = node("figcaption");
  caption.append(node("span", {}, title));
  for (const [name, colour] of legend) {
    const item = node("span"), swatch = node("i");
    swatch.style.background = colour;
    item.append(swatch, name);
    caption.append(item);
  }
  const svg = mark("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": title });
  for (const share of [0, 0.5, 1]) {
    svg.append(mark("line", { class: "axis", x1: LEFT, x2: WIDTH, y1: y(share * most, most), y2: y(share * most, most) }));
    const value = share * most, text = value >= 10 || value === 0 ? value.toFixed(0) : value.toFixed(1);
    svg.append(mark("text", { x: LEFT - 4, y: y(value, most) + 3, "text-anchor": "end" }, share === 1 ? text + unit : text));
  }
  draw(svg, most);
  figure.append(caption, svg);
  return figure;
}

function line(svg, values, most, colour, dashes = "none") {
  let path = "", pen = "M";
  values.forEach((value, index) => {
    if (!known(value)) { pen = "M"; return; }
    path += `${pen}${x(index).toFixed(1)} ${y(value, most).toFixed(1)}`;
    pen = "L";
  });
  const it = mark("path", { class: "line", d: path, "stroke-dasharray": dashes });
  it.style.stroke = colour;
  svg.append(it);
}

function bars(svg, shares) {
  const wide = (WIDTH - LEFT) / kept;
  shares.forEach((byLevel, index) => {
    let below = 0;
    for (const [name, share] of Object.entries(byLevel || {})) {
      const top = y(below + share, 1), bottom = y(below, 1);
      svg.append(mark("rect", { x: x(index) - wide / 2, width: wide + 0.2, y: top, height: bottom - top, fill: level(+name) }));
      below += share;
    }
  });
}

const roof = (values) => {
  const most = Math.max(1.8, ...values.filter(known)) * 1.1, scale = 10 ** Math.floor(Math.log10(most));
  return Math.ceil(most / scale * 2) / 2 * scale;
};

function drawModel(name) {
  const of = points.map((point) => point.models.find((model) => model.name === name) || {});
  const now = of[of.length - 1], it = card(name), [title, cap, list, charts] = it.children;
  title.textContent = `${name} · ${now.state || "gone"}`;
  title.className = now.state === "ready" ? "" : "bad";
  cap.hidden = !now.capped_by;
  cap.textContent = now.capped_by ? `Levels above ${now.highest_level} are off: ${now.capped_by}` : "";
  const total = of.map((each) => each.total_ms), late = known(now.slo_ms) && now.total_ms && now.total_ms[1] > now.slo_ms;
  const shares = Object.entries(now.level_shares || {}).map(([each, share]) => `${each}: ${(100 * share).toFixed(0)} %`);
  facts(list, [
    ["Requests", number(now.per_s) + " /s"],
    ["In time", percent(now.in_time_share), known(now.in_time_share) && now.in_time_share < 0.99],
    ["Levels", shares.join(", ") || "–"],
    ["Latency p50 / p99", times(now.total_ms), late],
    ["SLO", known(now.slo_ms) ? now.slo_ms + " ms" : "–"],
    ["Queue p50 / p99", times(now.queue_ms)],
    ["Compute p50 / p99", times(now.compute_ms)],
    ["Waiting", known(now.queue_length) ? String(now.queue_length) : "–"],
    ["Slowdown", number(now.slowdown, 2)],
    ["Late, shed, expired", [now.late, now.shed, now.expired].map((each) => known(each) ? each : "–").join(", ")],
  ]);
  const p99 = total.map((pair) => pair && pair[1]), p50 = total.map((pair) => pair && pair[0]);
  const slow = of.map((each) => each.slowdown), queue = of.map((each) => each.queue_length);
  const style = getComputedStyle(document.documentElement), colour = (each) => style.getPropertyValue(each).trim();
  const colours = { slo: colour("--slo"), p50: colour("--p50"), p99: colour("--p99") };
  const indices = [...Array(now.levels || 0).keys()];
  charts.replaceChildren(
    chart("Level, share of answers", indices.map((each) => [String(each), level(each)]), 1, "", (svg) => bars(svg, of.map((each) => each.level_shares))),
    chart("Latency, ms", [["p50", colours.p50], ["p99", colours.p99], ["SLO", colours.slo]], roof([...p99, now.slo_ms]), "", (svg, most) => {
      line(svg, of.map((each) => each.slo_ms), most, colours.slo, "4 3");
      line(svg, p50, most, colours.p50);
      line(svg, p99, most, colours.p99);
    }),
    chart("Waiting requests", [["now", colours.p50]], roof(queue), "", (svg, most) => line(svg, queue, most, colours.p50)),
    chart("Slowdown, measured over profiled", [["now", colours.p50]], roof(slow), " ×", (svg, most) => line(svg, slow, most, colours.p50)),
  );
}

function drawDevice(device) {
  const share = (name) => known(device[name]) ? device[name].toFixed(1) + " %" : null;
  facts(byId("readings"), [
    ["Usable cores", known(device.usable_cores) ? String(device.usable_cores) : null],
    ["Available memory", known(device.available_memory_bytes) ? mebibytes(device.available_memory_bytes) : null],
    ["Stalled for CPU", share("cpu_stall_percent")],
    ["Stalled for memory", share("memory_stall_percent")],
    ["Stalled for disks", share("io_stall_percent")],
    ["Throttled by quota", share("throttled_percent")],
    ["Taken by other guests", share("steal_percent")],
    ["Temperature", known(device.temperature_celsius) ? device.temperature_celsius.toFixed(0) + " °C" : null],
    ["Frequency", known(device.frequency_mhz) ? device.frequency_mhz.toFixed(0) + " MHz" : null],
    ["Battery", share("battery_percent")],
  ]);
}

function tell(text, bad) {
  byId("state").textContent = text;
  byId("state").className = bad ? "bad" : "";
}

function draw() {
  const now = points[points.length - 1];
  if (!now) return;
  byId("server").textContent = now.server;
  tell(now.state, now.state !== "ready");
  const names = new Set(now.models.map((model) => model.name));
  for (const [name, it] of cards) if (!names.has(name)) { it.remove(); cards.delete(name); }
  for (const name of names) drawModel(name);
  drawDevice(now.device);
  document.body.dataset.points = points.length;
}

async function poll() {
  let pause_ms = 1000;
  try {
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    const answer = await fetch(`dashboard/points?after=${after}`, { headers, cache: "no-store" });
    byId("login").hidden = answer.status !== 401 && answer.status !== 403;
    if (!answer.ok) throw new Error((await answer.json()).error || answer.status);
    const told = await answer.json();
    if (told.run !== run) { points = []; run = told.run; }
    pause_ms = 1000 * told.period_s;
    kept = told.kept;
    points = points.concat(told.points).slice(-kept);
    after = told.number;
    draw();
  } catch (error) {
    tell(error.message, true);
  }
  setTimeout(poll, pause_ms);
}

byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  token = byId("token").value.trim();
  sessionStorage.setItem("token", token);
});
poll();
