"use strict";
(() => {
const D = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const S = D.strings, T = D.tests, P = D.ports, F = D.findings;
const text = n => n < 0 ? "" : S[n];
const BAD = new Set(["failed", "error"]);

// --- what is drawn: rows, made anew when the grouping changes ---------------------------------

const LANES = ["#3f7fd1", "#d1743f", "#3fa56b", "#a45fd0", "#c9a227", "#2aa7b8", "#d0568f", "#7c8a99"];
const laneColour = n => LANES[n % LANES.length];
const HEAD = 20, TEST = 16, PORT = 12, FOUND = 16, THIN = 7, GAP = 8;

// An index of intervals: sorted by their beginning, with the largest end so far, so that what is
// in view is found by two searches however long some of them are.
function indexed(items, begin, end) {
  items.sort((a, b) => begin[a] - begin[b]);
  const most = new Float64Array(items.length);
  let max = -Infinity;
  items.forEach((item, n) => { max = Math.max(max, end[item]); most[n] = max; });
  return {items, most, begin, end};
}
function first(array, atLeast) {
  let low = 0, high = array.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (array[middle] < atLeast) low = middle + 1; else high = middle;
  }
  return low;
}

const key = n => P.transport[n] * 65536 + P.port[n];
const users = new Map();                       // port -> its lanes
for (let n = 0; n < P.port.length; n++) {
  if (!users.has(key(n))) users.set(key(n), new Set());
  users.get(key(n)).add(P.lane[n]);
}
const struck = new Set(D.collisions.map(c => c.port));
for (let n = 0; n < P.port.length; n++) if (P.error[n] >= 0) struck.add(P.port[n]);
// Numbers that the kernel or a lease gave, and that two runs were given one after the other, are not.
const given = new Set(["kernel", "lease", "unheld"].map(name => S.indexOf(name)).filter(n => n >= 0));
const chosen = new Set();
for (let n = 0; n < P.port.length; n++) if (!given.has(P.origin[n])) chosen.add(key(n));
const contested = k => struck.has(k % 65536) ||
  (chosen.has(k) && users.get(k).size > 1 && D.lanes.length > 1);

// What is wrong with a bind: the worst of its findings.
const LEVELS = ["", "error", "warning", "note"];
const rank = f => Math.max(0, LEVELS.indexOf(F[f].level)) || 3;
const level = new Uint8Array(P.port.length), worst = new Int32Array(P.port.length).fill(-1);
const wrong = new Map();                       // port -> its worst level
for (let n = 0; n < P.port.length; n++) {
  for (const f of P.findings[n]) if (!level[n] || rank(f) < level[n]) { level[n] = rank(f); worst[n] = f; }
  if (level[n]) wrong.set(key(n), Math.min(level[n], wrong.get(key(n)) || 9));
}
const stands = k => contested(k) || (chosen.has(k) && wrong.has(k));
const worstFirst = (a, b) => contested(b) - contested(a) || (wrong.get(a) || 9) - (wrong.get(b) || 9) ||
  a % 65536 - b % 65536;
const highest = items => items.some(n => level[n]) ? FOUND : PORT;

let rows = [], bottoms = [], height = 0, grouping = "lanes";

function build() {
  rows = []; height = 6;
  const add = (kind, h, more) => { rows.push({kind, y: height, h, ...more}); height += h; };
  if (grouping === "lanes") {
    const tests = D.lanes.map(() => new Map()), ports = D.lanes.map(() => new Map());
    for (let n = 0; n < T.lane.length; n++) {
      const by = tests[T.lane[n]], worker = T.worker[n];
      if (!by.has(worker)) by.set(worker, []);
      by.get(worker).push(n);
    }
    for (let n = 0; n < P.port.length; n++) {
      // A row for each port that matters, one for each rule that other numbers break, one for the rest.
      const by = ports[P.lane[n]], k = stands(key(n)) ? key(n) : level[n] ? F[worst[n]].name.split(" ")[0] : -1;
      if (!by.has(k)) by.set(k, []);
      by.get(k).push(n);
    }
    D.lanes.forEach((lane, number) => {
      add("lane", HEAD, {lane: number});
      const workers = [...tests[number]].sort((a, b) => a[0] - b[0]);
      for (const [worker, items] of workers)
        add("tests", TEST, {lane: number, label: text(worker), ...indexed(items, T.begin, T.end)});
      const own = [...ports[number]].filter(([k]) => k >= 0).sort((a, b) => worstFirst(a[0], b[0]));
      for (const [k, items] of own)
        add("port", highest(items), {lane: number, label: portLabel(k), ...indexed(items, P.begin, P.end)});
      const broken = [...ports[number]].filter(([k]) => typeof k === "string").sort();
      for (const [rule, all] of broken) pack(all).forEach((items, n) =>
        add("found", FOUND, {lane: number, label: n ? "" : rule, ...indexed(items, P.begin, P.end)}));
      if (ports[number].has(-1)) pack(ports[number].get(-1)).forEach((items, n, all) =>
        add("others", THIN, {lane: number, label: n || all.length < 1 ? "" : "others",
          ...indexed(items, P.begin, P.end)}));
      height += GAP;
    });
  } else {
    const by = new Map();
    for (let n = 0; n < P.port.length; n++) {
      if (!by.has(key(n))) by.set(key(n), new Map());
      const lanes = by.get(key(n));
      if (!lanes.has(P.lane[n])) lanes.set(P.lane[n], []);
      lanes.get(P.lane[n]).push(n);
    }
    const order = [...by].sort((a, b) => worstFirst(a[0], b[0]));
    for (const [k, lanes] of order) {
      add("head", stands(k) ? HEAD - 3 : 3, {label: stands(k) ? portTitle(k, lanes) : ""});
      for (const [lane, items] of [...lanes].sort((a, b) => a[0] - b[0]))
        add("port", highest(items) - 1, {lane, coloured: true,
          label: stands(k) ? D.lanes[lane].name : portLabel(k), ...indexed(items, P.begin, P.end)});
    }
    if (!by.size) add("head", HEAD, {label: "no port was seen"});
  }
  height += 10;
  bottoms = rows.map(row => row.y + row.h);
  $("spacer").style.height = height + "px";
  draw();
}
const portLabel = k => (k >= 65536 ? "udp " : "") + k % 65536;
function portTitle(k, lanes) {
  const hits = D.collisions.filter(c => c.port === k % 65536).length;
  return portLabel(k) + "   " + lanes.size + (lanes.size > 1 ? " runs" : " run") +
    (wrong.has(k) ? ", " + LEVELS[wrong.get(k)] : "") + (hits ? ", " + hits + (hits > 1 ? " collisions" : " collision") : "");
}
// Into few rows, so that what overlaps is side by side; what is left over shares the last one.
function pack(items) {
  const packed = [], ends = [];
  for (const item of [...items].sort((a, b) => P.begin[a] - P.begin[b])) {
    let row = ends.findIndex(end => end <= P.begin[item]);
    if (row < 0) row = ends.length < 4 ? ends.push(0) - 1 : 3;
    ends[row] = Math.max(ends[row], P.end[item]);
    (packed[row] = packed[row] || []).push(item);
  }
  return packed;
}

// --- the view --------------------------------------------------------------------------------

const view = $("view"), paper = $("paper"), axis = $("axis");
const pen = paper.getContext("2d"), axisPen = axis.getContext("2d");
const ALL = [D.span[0], Math.max(D.span[1], D.span[0] + 1000)];
let from = ALL[0], to = ALL[1], width = 0, shown = 0, gutter = 64, colours = {};
let needle = "", matchTest = null, matchPort = null, picked = null, hovered = null, mark = -1;

const x = t => gutter + (t - from) / (to - from) * (width - gutter - 8);
const timeAt = px => from + (px - gutter) / (width - gutter - 8) * (to - from);

function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["back", "text", "soft", "line", "passed", "failed", "skipped",
    "unknown", "port", "mark", "shade", "select", "good", "bad", "warning", "error", "note", "on"])
    colours[name] = style.getPropertyValue("--" + name).trim();
}
const OUTCOMES = {passed: "passed", failed: "failed", error: "failed", skipped: "skipped",
  xfailed: "skipped", xpassed: "passed"};
const testColours = () => T.outcomes.map(name => colours[OUTCOMES[name]] || colours.unknown);

let asked = false;
function draw() {
  if (!asked) { asked = true; requestAnimationFrame(() => { asked = false; paint(); }); }
}
function fit() {
  width = view.clientWidth;
  shown = view.clientHeight;
  gutter = width < 560 ? 48 : 76;
  const ratio = window.devicePixelRatio || 1;
  for (const [canvas, h] of [[paper, shown], [axis, 24]]) {
    canvas.width = Math.round(width * ratio); canvas.height = Math.round(h * ratio);
    canvas.style.height = h + "px"; canvas.style.width = width + "px";
    canvas.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
  }
  draw();
}

function paint() {
  const top = view.scrollTop, outcome = testColours();
  pen.fillStyle = colours.back;
  pen.fillRect(0, 0, width, shown);
  const ticks = paintAxis();
  pen.fillStyle = colours.shade;
  for (const t of ticks) pen.fillRect(Math.round(x(t)), 0, 1, shown);
  pen.textBaseline = "middle";
  let n = first(bottoms, top);
  for (; n < rows.length && rows[n].y < top + shown; n++) {
    const row = rows[n], y = row.y - top;
    if (row.kind === "lane") paintLane(row, y);
    else if (row.kind === "head") say(row.label, 6, y + row.h / 2, colours.soft, "600 11px system-ui, sans-serif");
    else {
      if (row.label) label(row.label, y + row.h / 2);
      pen.save();
      pen.beginPath(); pen.rect(gutter, y, width - gutter, row.h); pen.clip();
      if (row.kind === "tests") paintTests(row, y, outcome); else paintPorts(row, y);
      pen.restore();
    }
  }
  paintMarks(top);
  for (const [one, wide] of [[hovered, 1], [picked, 2]]) if (one) outline(one, top, wide);
}
function say(words, left, y, colour, font, room) {
  pen.font = font || "11px system-ui, sans-serif";
  pen.fillStyle = colour;
  pen.fillText(words, left, y, room);
}
function label(words, y) {
  pen.textAlign = "right";
  say(words, gutter - 6, y, colours.soft, "10px ui-monospace, Menlo, Consolas, monospace", gutter - 8);
  pen.textAlign = "left";
}
const STATES = {passed: "good", failed: "bad", timeout: "bad", stopped: "warning"};
function paintLane(row, y) {
  const lane = D.lanes[row.lane];
  pen.fillStyle = laneColour(row.lane);
  pen.fillRect(6, y + 6, 9, 9);
  say(lane.name, 20, y + 11, colours.text, "600 12px system-ui, sans-serif");
  const after = 20 + pen.measureText(lane.name).width + 10;
  say([lane.outcome, lane.note].filter(Boolean).join(", "), after, y + 11,
    colours[STATES[lane.outcome]] || colours.soft);
  const left = Math.max(gutter, x(lane.begin)), right = Math.min(width, x(lane.end));
  if (right > left) { pen.fillStyle = colours.line; pen.fillRect(left, y + HEAD - 2, right - left, 1); }
}
// Neighbours of one colour that are narrower than a few pixels are drawn as one.
function paintTests(row, y, outcome) {
  const {items, most, begin, end} = row, h = row.h - 3;
  let left = 0, right = -1, colour = "";
  const flush = () => { if (right > left) { pen.fillStyle = colour; pen.fillRect(left, y + 1, right - left, h); } };
  const bad = [];
  for (let n = first(most, from); n < items.length && begin[items[n]] <= to; n++) {
    const item = items[n];
    const dim = matchTest && !matchTest[item];
    if (BAD.has(T.outcomes[T.outcome[item]]) && !dim) { bad.push(item); continue; }
    const one = dim ? colours.shade : outcome[T.outcome[item]];
    const a = x(begin[item]), b = Math.max(a + 1, x(end[item]));
    if (b - a >= 4) {
      flush(); right = left;
      pen.fillStyle = one; pen.fillRect(a, y + 1, b - a - 1, h);
      if (b - a > 60) inside(shortName(text(T.name[item])), a, b, y + row.h / 2 - 1);
    } else if (one === colour && a <= right + 0.5) right = Math.max(right, b);
    else { flush(); left = a; right = b; colour = one; }
  }
  flush();
  for (const item of bad) {
    const a = x(begin[item]), b = Math.max(a + 3, x(end[item]) - 1);
    pen.fillStyle = colours.failed; pen.fillRect(a, y, b - a, row.h - 1);
    if (b - a > 60) inside(shortName(text(T.name[item])), a, b, y + row.h / 2 - 1, colours.back);
  }
}
function inside(words, a, b, y, colour) {
  const left = Math.max(a, gutter) + 4, room = Math.min(b, width) - left - 4;
  if (room < 40) return;
  pen.save(); pen.beginPath(); pen.rect(left, y - 8, room, 16); pen.clip();
  say(words, left, y, colour || colours.text, "10px system-ui, sans-serif");
  pen.restore();
}
const shortName = name => name.slice(name.lastIndexOf("::") < 0 ? 0 : name.lastIndexOf("::") + 2);
function paintPorts(row, y) {
  const {items, most, begin, end} = row, h = row.h - 2;
  for (let n = first(most, from); n < items.length && begin[items[n]] <= to; n++) {
    const item = items[n];
    if (P.error[item] >= 0) continue;              // a mark, drawn on top of all
    const a = x(begin[item]), b = Math.max(a + (level[item] ? 4 : 2), x(end[item]));
    pen.globalAlpha = matchPort && !matchPort[item] ? 0.15 : row.kind === "others" ? 0.65 : 1;
    pen.fillStyle = level[item] ? colours[LEVELS[level[item]]] : row.coloured ? laneColour(row.lane) :
      row.kind === "others" ? colours.unknown : colours.port;
    pen.fillRect(a, y, b - a, h);
    if (level[item]) {
      const next = items.slice(n + 1, n + 9).find(one => P.error[one] < 0 || x(begin[one]) > b);
      named(item, a, b, next === undefined ? width : x(begin[next]), y + h / 2 + 0.5);
    }
    else if (b - a > 34 && row.kind === "port")
      inside(row.coloured ? D.lanes[row.lane].name : String(P.port[item]), a, b, y + h / 2 + 0.5, "#ffffff");
  }
  pen.globalAlpha = 1;
}
// The number and the rule it breaks: in its bar, else beside it, as much of it as there is room for.
function named(item, a, b, next, y) {
  const font = "11px system-ui, sans-serif", left = Math.max(a, gutter) + 4;
  pen.font = font;
  for (const words of [P.port[item] + " " + F[worst[item]].name, String(P.port[item])]) {
    const wide = pen.measureText(words).width;
    if (wide <= Math.min(b, width) - left - 4) { say(words, left, y, colours.on, font); return; }
    if (wide <= Math.min(next, width) - b - 6) { say(words, b + 3, y, colours.text, font); return; }
  }
}
function paintMarks(top) {
  for (let r = first(bottoms, top); r < rows.length && rows[r].y < top + shown; r++) {
    const row = rows[r];
    if (row.kind !== "port") continue;
    for (let n = first(row.most, from); n < row.items.length && row.begin[row.items[n]] <= to; n++)
      if (P.error[row.items[n]] >= 0) cross(x(row.begin[row.items[n]]), row.y - top + row.h / 2 - 1,
        matchPort && !matchPort[row.items[n]]);
  }
  D.collisions.forEach((c, n) => {
    const a = rowOf(c.lane, c.port), b = c.other < 0 ? null : rowOf(c.other, c.port);
    if (c.at < from || c.at > to) return;
    const at = x(c.at);
    if (b && a && (D.collisions.length <= 200 || n === mark)) {
      pen.strokeStyle = colours.mark; pen.globalAlpha = n === mark ? 1 : 0.45;
      pen.lineWidth = n === mark ? 2 : 1;
      pen.beginPath(); pen.moveTo(at, b.y + b.h / 2 - top); pen.lineTo(at, a.y + a.h / 2 - top);
      pen.stroke(); pen.globalAlpha = 1;
      pen.fillStyle = colours.mark;
      pen.beginPath(); pen.arc(at, b.y + b.h / 2 - top - 1, 3, 0, 7); pen.fill();
    }
    if (a && a.y + a.h > top && a.y < top + shown) cross(at, a.y - top + a.h / 2 - 1, false, n === mark);
  });
}
let places = new Map();
function rowOf(lane, port) {
  if (places.rows !== rows) {
    places = new Map(); places.rows = rows;
    for (const row of rows) if (row.kind === "port") places.set(row.lane * 65536 + P.port[row.items[0]], row);
    for (const row of rows) if (row.kind === "lane" && !places.has("lane" + row.lane)) places.set("lane" + row.lane, row);
  }
  return places.get(lane * 65536 + port) || places.get("lane" + lane) || null;
}
function cross(at, y, dim, strong) {
  if (at < gutter - 4 || at > width) return;
  const r = strong ? 7 : width < 560 ? 3.5 : 4.5;
  pen.globalAlpha = dim ? 0.2 : 1;
  for (const [colour, wide] of [[colours.back, 4.5], [colours.mark, strong ? 3 : 2]]) {
    pen.strokeStyle = colour; pen.lineWidth = wide;
    pen.beginPath();
    pen.moveTo(at - r, y - r); pen.lineTo(at + r, y + r);
    pen.moveTo(at + r, y - r); pen.lineTo(at - r, y + r);
    pen.stroke();
  }
  pen.globalAlpha = 1;
}
function outline(one, top, wide) {
  const row = one.row;
  if (!row || !rows.includes(row)) return;
  const begin = one.kind === "test" ? T.begin[one.n] : P.begin[one.n];
  const end = one.kind === "test" ? T.end[one.n] : P.end[one.n];
  const a = Math.max(gutter, x(begin)) - 1, b = Math.max(a + 4, x(end) + 1);
  pen.strokeStyle = colours.select; pen.lineWidth = wide;
  pen.strokeRect(a, row.y - top - 0.5, b - a, row.h);
}

const STEPS = [1, 2, 5];
function paintAxis() {
  axisPen.clearRect(0, 0, width, 24);
  const room = Math.max(2, Math.floor((width - gutter) / 90)), ticks = [];
  let step = 1;
  for (let n = 0; (to - from) / step > room; n++) step = STEPS[n % 3] * 10 ** Math.floor(n / 3);
  axisPen.font = "11px system-ui, sans-serif"; axisPen.fillStyle = colours.soft;
  axisPen.textBaseline = "middle";
  for (let t = Math.ceil(from / step) * step; t <= to; t += step) {
    ticks.push(t);
    const words = seconds(t, step), wide = axisPen.measureText(words).width;
    axisPen.fillText(words, Math.min(x(t) - (t === ticks[0] ? 2 : wide / 2), width - wide - 2), 12);
  }
  $("range").textContent = seconds(Math.max(from, ALL[0]), step) + " to " + seconds(Math.min(to, ALL[1]), step);
  return ticks;
}
function seconds(us, step) {
  const digits = Math.max(0, Math.min(6, 6 - Math.floor(Math.log10(step || 1000) + 1e-9)));
  return (us / 1e6).toFixed(step ? digits : 3).replace(/^-(0(\.0*)?)$/, "$1") + " s";
}

// --- moving about ----------------------------------------------------------------------------

function look(a, b) {
  const least = 20, most = (ALL[1] - ALL[0]) * 1.02;
  let span = Math.min(Math.max(b - a, least), most);
  let begin = (a + b) / 2 - span / 2;
  const margin = span * 0.01;
  begin = Math.min(Math.max(begin, ALL[0] - margin), Math.max(ALL[0] - margin, ALL[1] + margin - span));
  from = begin; to = begin + span;
  draw();
}
const zoom = (factor, at) => { const t = at === undefined ? (from + to) / 2 : at; look(t - (t - from) * factor, t + (to - t) * factor); };
const pan = share => { const d = (to - from) * share; look(from + d, to + d); };
const reset = () => look(ALL[0] - (ALL[1] - ALL[0]) * 0.01, ALL[1] + (ALL[1] - ALL[0]) * 0.01);

view.addEventListener("scroll", draw, {passive: true});
view.addEventListener("wheel", event => {
  const left = event.clientX - view.getBoundingClientRect().left;
  if (event.ctrlKey || event.metaKey) {
    event.preventDefault();
    zoom(Math.exp(Math.max(-60, Math.min(60, event.deltaY)) * 0.01), timeAt(left));
  } else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
    event.preventDefault();
    pan((event.shiftKey ? event.deltaY || event.deltaX : event.deltaX) / width);
  }
}, {passive: false});

const fingers = new Map();
let grabbed = null, moved = false, pinch = null;
paper.addEventListener("pointerdown", event => {
  fingers.set(event.pointerId, event.clientX);
  moved = false;
  if (fingers.size === 2) {
    const [a, b] = [...fingers.values()], left = view.getBoundingClientRect().left;
    pinch = {apart: Math.abs(a - b) || 1, at: timeAt((a + b) / 2 - left), from, to};
  } else { grabbed = {px: event.clientX, from, to}; }
  paper.setPointerCapture(event.pointerId);
});
paper.addEventListener("pointermove", event => {
  if (fingers.has(event.pointerId)) fingers.set(event.pointerId, event.clientX);
  if (pinch && fingers.size === 2) {
    const [a, b] = [...fingers.values()], factor = pinch.apart / (Math.abs(a - b) || 1);
    look(pinch.at - (pinch.at - pinch.from) * factor, pinch.at + (pinch.to - pinch.at) * factor);
    moved = true;
  } else if (grabbed) {
    const d = (grabbed.px - event.clientX) / (width - gutter - 8) * (grabbed.to - grabbed.from);
    if (Math.abs(event.clientX - grabbed.px) > 3) moved = true;
    if (moved) { paper.classList.add("grabbed"); look(grabbed.from + d, grabbed.to + d); hide(); }
  } else hover(event);
});
const letGo = event => {
  fingers.delete(event.pointerId);
  if (fingers.size < 2) pinch = null;
  if (!fingers.size) {
    if (grabbed && !moved && event.type === "pointerup") pick(hit(event));
    grabbed = null; paper.classList.remove("grabbed");
  }
};
paper.addEventListener("pointerup", letGo);
paper.addEventListener("pointercancel", letGo);
paper.addEventListener("pointerleave", () => hide());
paper.addEventListener("dblclick", event =>
  zoom(0.4, timeAt(event.clientX - view.getBoundingClientRect().left)));

paper.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const deeds = {
    ArrowLeft: () => pan(-0.15), ArrowRight: () => pan(0.15),
    ArrowUp: () => view.scrollBy(0, -40), ArrowDown: () => view.scrollBy(0, 40),
    PageUp: () => view.scrollBy(0, -shown), PageDown: () => view.scrollBy(0, shown),
    "+": () => zoom(0.6), "=": () => zoom(0.6), "-": () => zoom(1 / 0.6), "0": reset, Home: reset,
    n: () => step(1), p: () => step(-1), Escape: () => { picked = null; mark = -1; tell(""); draw(); },
    ".": () => neighbour(1), ",": () => neighbour(-1),
  };
  if (deeds[event.key]) { event.preventDefault(); deeds[event.key](); }
});

function step(by) {
  if (!D.collisions.length) { tell("No collision was seen."); return; }
  showCollision(((mark < 0 && by < 0 ? 0 : mark) + by + D.collisions.length) % D.collisions.length);
}
function showCollision(n) {
  mark = n;
  const c = D.collisions[n], span = Math.min(to - from, Math.max(2e6, (ALL[1] - ALL[0]) / 20));
  look(c.at - span / 2, c.at + span / 2);
  const row = rowOf(c.lane, c.port);
  if (row) view.scrollTop = Math.max(0, row.y - shown / 2);
  tell("Collision " + (n + 1) + " of " + D.collisions.length + ", at " + seconds(c.at) + "\n" + c.text);
}
function showFinding(f) {
  const n = P.findings.findIndex(all => all.includes(f));
  const row = rows.find(one => one.items && one.kind !== "tests" && one.items.includes(n));
  if (!row) return;
  const middle = (P.begin[n] + P.end[n]) / 2, span = Math.max(1e6, (P.end[n] - P.begin[n]) * 4);
  look(middle - span / 2, middle + span / 2);
  view.scrollTop = Math.max(0, row.y - shown / 2);
  pick({kind: "port", n, row});
}
function neighbour(by) {
  if (!picked) {
    const row = rows.find(one => one.items && one.items.length);
    if (row) pick({kind: row.kind === "tests" ? "test" : "port", n: row.items[0], row});
    return;
  }
  const place = picked.row.items.indexOf(picked.n) + by;
  if (place < 0 || place >= picked.row.items.length) return;
  pick({...picked, n: picked.row.items[place]});
  const begin = picked.kind === "test" ? T.begin[picked.n] : P.begin[picked.n];
  if (begin < from || begin > to) look(begin - (to - from) / 2, begin + (to - from) / 2);
}

// --- what is under the pointer ---------------------------------------------------------------

function hit(event) {
  const box = view.getBoundingClientRect();
  const px = event.clientX - box.left, py = event.clientY - box.top + view.scrollTop;
  for (let n = 0; n < D.collisions.length; n++) {
    const c = D.collisions[n], row = rowOf(c.lane, c.port);
    if (row && Math.abs(x(c.at) - px) < 7 && py > row.y - 5 && py < row.y + row.h + 5)
      return {kind: "collision", n, row};
  }
  const row = rows[first(bottoms, py)];
  if (!row || py < row.y || !row.items || px < gutter) return null;
  const a = timeAt(px - 3), b = timeAt(px + 3);
  let best = null, nearest = Infinity;
  for (let n = first(row.most, a); n < row.items.length && row.begin[row.items[n]] <= b; n++) {
    const item = row.items[n], t = timeAt(px);
    let far = Math.max(0, row.begin[item] - t, t - row.end[item]);
    if (row.kind === "tests" && BAD.has(T.outcomes[T.outcome[item]])) far -= 1;
    if (row.kind !== "tests" && P.error[item] >= 0 && Math.abs(x(row.begin[item]) - px) < 6) far = -1;
    if (row.end[item] >= a && far <= nearest) { nearest = far; best = item; }
  }
  return best === null ? null : {kind: row.kind === "tests" ? "test" : "port", n: best, row};
}
function describe(one) {
  if (one.kind === "collision") {
    const c = D.collisions[one.n];
    return ["Collision at " + seconds(c.at), c.text];
  }
  if (one.kind === "test") {
    const n = one.n, ms = (T.end[n] - T.begin[n]) / 1000;
    return [text(T.name[n]), [T.outcomes[T.outcome[n]] || "outcome not known",
      D.lanes[T.lane[n]].name, text(T.worker[n])].filter(Boolean).join(", ") +
      "\n" + seconds(T.begin[n]) + ", " + (ms < 1000 ? ms.toFixed(1) + " ms" : (ms / 1000).toFixed(2) + " s")];
  }
  const n = one.n, failed = P.error[n] >= 0;
  const file = text(P.file[n]) && text(P.file[n]) + (P.line[n] ? ":" + P.line[n] : "");
  return [(P.transport[n] ? "udp" : "tcp") + " port " + P.port[n] +
    (failed ? ": bind failed, " + text(P.error[n]) : ""),
    [D.lanes[P.lane[n]].name + (text(P.address[n]) ? ", on " + text(P.address[n]) : ""), text(P.test[n]), file,
      text(P.program[n]) + (P.pid[n] ? " (pid " + P.pid[n] + ")" : ""),
      ...P.findings[n].map(f => F[f].level + ": " + F[f].text + " [" + F[f].name + "]"),
      text(P.origin[n]) && "the number: " + text(P.origin[n]) + (text(P.lease[n]) ? ", lease " + text(P.lease[n]) : ""),
      failed ? "at " + seconds(P.begin[n]) : seconds(P.begin[n]) + " to " + seconds(P.end[n]),
    ].filter(words => words && words.trim()).join("\n")];
}
const tip = $("tip");
function hover(event) {
  const one = event.pointerType === "touch" ? null : hit(event);
  const same = one && hovered && one.n === hovered.n && one.kind === hovered.kind;
  if (!one) { hide(); return; }
  if (!same) {
    const [title, more] = describe(one);
    tip.replaceChildren();
    const bold = document.createElement("b");
    bold.textContent = title;
    tip.append(bold, more);
    hovered = one.kind === "collision" ? null : one;
    draw();
  }
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = Math.min(event.clientX + 14, window.innerWidth - box.width - 8);
  const below = event.clientY + 18;
  tip.style.left = Math.max(8, left) + "px";
  tip.style.top = (below + box.height > window.innerHeight ? event.clientY - box.height - 10 : below) + "px";
}
function hide() { tip.hidden = true; if (hovered) { hovered = null; draw(); } }
function pick(one) {
  if (one && one.kind === "collision") { mark = one.n; picked = null; tell(describe(one).join("\n")); draw(); return; }
  picked = one; mark = -1;
  tell(one ? describe(one).join("\n") : "");
  draw();
}
const HINT = $("picked").textContent;
function tell(words) { $("picked").textContent = words || HINT; }

// --- searching -------------------------------------------------------------------------------

let lowered = null;
function search() {
  needle = $("search").value.trim().toLowerCase();
  const only = $("bad").checked;
  lowered = lowered || S.map(one => one.toLowerCase());
  const has = n => n >= 0 && lowered[n].includes(needle);
  const active = needle !== "" || only;
  matchTest = active ? new Uint8Array(T.lane.length) : null;
  matchPort = active ? new Uint8Array(P.port.length) : null;
  let tests = 0, ports = 0;
  if (active) {
    const hits = new Uint8Array(S.length);
    if (needle) S.forEach((_, n) => { hits[n] = has(n) ? 1 : 0; });
    const of = n => n >= 0 && hits[n];
    for (let n = 0; n < T.lane.length; n++)
      if ((!needle || of(T.name[n])) && (!only || BAD.has(T.outcomes[T.outcome[n]]))) { matchTest[n] = 1; tests++; }
    for (let n = 0; n < P.port.length; n++)
      if ((!needle || String(P.port[n]).includes(needle) || of(P.test[n]) || of(P.file[n]) || of(P.program[n])
          || P.findings[n].some(f => F[f].name.toLowerCase().includes(needle)))
        && (!only || P.error[n] >= 0 || level[n] || struck.has(P.port[n]))) { matchPort[n] = 1; ports++; }
  }
  $("found").textContent = active ? tests + " tests, " + ports + " binds match" : "";
  filterTables();
  draw();
}
let waiting = 0;
$("search").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(search, 80); });
$("bad").addEventListener("change", search);

// --- tables ----------------------------------------------------------------------------------

function filterTables() {
  for (const row of document.querySelectorAll("#failures tr[data-text], #findings tr[data-text]"))
    row.hidden = needle !== "" && !row.dataset.text.includes(needle);
  for (const table of tables) { table.page = 0; if (table.details.open) fillTable(table); }
}
function cell(row, words, kind, name) {
  const td = row.insertCell();
  td.textContent = words;
  if (kind) td.className = kind;
  if (name && words !== "") td.dataset.name = name;
  return td;
}
const PAGE = 100, FEW = 3;
const every = (items, of) => [...new Set(items.map(of).filter(Boolean))];
const place = n => P.file[n] < 0 ? text(P.program[n]) : text(P.file[n]) + (P.line[n] ? ":" + P.line[n] : "");
function some(all) {
  return all.slice(0, FEW).join(", ") + (all.length > FEW ? " and " + (all.length - FEW) + " more" : "");
}
const tables = [
  {id: "all-ports", rows: () => {
    const by = new Map();
    for (let n = 0; n < P.port.length; n++) {
      if (matchPort && !matchPort[n]) continue;
      if (!by.has(key(n))) by.set(key(n), []);
      by.get(key(n)).push(n);
    }
    return [...by].sort((a, b) => worstFirst(a[0], b[0]));
  }, fill: (row, [k, items]) => {
    const bad = items.filter(n => P.error[n] >= 0);
    cell(row, portLabel(k), wrong.has(k) ? "n level " + LEVELS[wrong.get(k)] : "n", "port");
    cell(row, every(items, n => D.lanes[P.lane[n]].name).join(", "), "", "runs");
    cell(row, every(items, n => text(P.address[n])).join(", "), "whole", "address");
    cell(row, every(items, n => text(P.options[n])).join(", "), "whole", "options");
    cell(row, items.length - bad.length, "n", "bound");
    cell(row, [bad.length, ...every(bad, n => text(P.error[n]))].join(" "), "n", "failed");
    cell(row, every(items, n => text(P.origin[n])).join(", "), "", "number");
    cell(row, every(items, place).join(", "), "mono", "where");
    cell(row, some(every(items, n => text(P.test[n]))), "mono", "tests");
  }},
  {id: "all-tests", rows: () => {
    const found = [];
    for (let n = 0; n < T.lane.length; n++) if (!matchTest || matchTest[n]) found.push(n);
    return found;
  }, fill: (row, n) => {
    cell(row, D.lanes[T.lane[n]].name, "nowrap", "run");
    cell(row, text(T.name[n]), "mono", "");
    cell(row, T.outcomes[T.outcome[n]] || "", "", "outcome");
    cell(row, (T.begin[n] / 1e6).toFixed(3), "n", "begin, s");
    cell(row, ((T.end[n] - T.begin[n]) / 1e3).toFixed(1), "n", "ms");
  }},
];
function fillTable(table) {
  const found = table.rows(), body = table.details.querySelector("tbody");
  const pages = Math.max(1, Math.ceil(found.length / PAGE));
  table.page = Math.min(Math.max(0, table.page), pages - 1);
  body.replaceChildren();
  for (const one of found.slice(table.page * PAGE, (table.page + 1) * PAGE)) table.fill(body.insertRow(), one);
  table.details.querySelector(".said").textContent =
    found.length + " rows, page " + (table.page + 1) + " of " + pages;
  const [back, on] = table.details.querySelectorAll("button");
  back.disabled = table.page === 0; on.disabled = table.page === pages - 1;
}
for (const table of tables) {
  table.details = $(table.id); table.page = 0;
  table.details.addEventListener("toggle", () => { if (table.details.open) fillTable(table); });
  const [back, on] = table.details.querySelectorAll("button");
  back.addEventListener("click", () => { table.page--; fillTable(table); });
  on.addEventListener("click", () => { table.page++; fillTable(table); });
}
for (const button of document.querySelectorAll("button.go"))
  button.addEventListener("click", () => {
    view.scrollIntoView({block: "center"});
    paper.focus({preventScroll: true});
    if (button.dataset.finding) { showFinding(Number(button.dataset.finding)); return; }
    const at = Number(button.dataset.at), port = Number(button.dataset.port);
    const n = D.collisions.findIndex(c => c.at === at && c.port === port);
    if (n >= 0) showCollision(n);
    else { const span = Math.max(1e6, (ALL[1] - ALL[0]) / 50); look(at - span / 2, at + span / 2); }
  });

// --- the rest --------------------------------------------------------------------------------

for (const button of document.querySelectorAll("[data-deed]"))
  button.addEventListener("click", () => ({
    in: () => zoom(0.5), out: () => zoom(2), fit: reset, next: () => step(1), back: () => step(-1),
  })[button.dataset.deed]());
for (const button of document.querySelectorAll("[data-grouping]"))
  button.addEventListener("click", () => {
    grouping = button.dataset.grouping;
    for (const one of document.querySelectorAll("[data-grouping]"))
      one.setAttribute("aria-pressed", String(one === button));
    picked = hovered = null; view.scrollTop = 0;
    build();
  });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); draw(); });
new ResizeObserver(fit).observe(view);

const wanted = new URLSearchParams(location.hash.slice(1));
readColours();
fit();
reset();
build();
// As high as what is in it, up to what the style allows.
view.style.height = `min(62vh, 640px, ${Math.max(120, height)}px)`;
if (wanted.has("find")) { $("search").value = wanted.get("find"); search(); }
})();
