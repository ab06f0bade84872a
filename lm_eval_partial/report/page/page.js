"use strict";
const pairs = JSON.parse(document.getElementById("data").textContent);
const NS = "http://www.w3.org/2000/svg";

const lam = (x) => (Math.abs(x * 100 - Math.round(x * 100)) < 1e-9 ? x.toFixed(2) : String(x));
const plain = (y) => y.toFixed(2);
const percent = (y) => (y > 0 ? "+" : y < 0 ? "\u2212" : "") + Math.abs(y).toFixed(1) + "\u00a0%";
const span = (p, show) => (p.low == null ? "" : `, 95\u00a0% interval ${show(p.low)} to ${show(p.high)}`);

function node(name, attributes = {}, text) {
  const made = document.createElementNS(NS, name);
  for (const key in attributes) made.setAttribute(key, attributes[key]);
  if (text != null) made.textContent = text;
  return made;
}

function ticks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) found.push(+(i * step).toPrecision(12));
  return found;
}

function range(values, margin) {
  const low = Math.min(...values), high = Math.max(...values), pad = (high - low || Math.abs(high) || 1) * margin;
  return [low - pad, high + pad];
}

/* Return a function that writes `text` beside the point (x, y) and between `low` and `high`, where it covers no point and
   no name; else nowhere. */
function namer(svg, points, low, high) {
  const taken = points.map(([x, y]) => ({ left: x - 4, right: x + 4, top: y - 4, bottom: y + 4 }));
  const free = (a) => taken.every((b) => a.right < b.left || b.right < a.left || a.bottom < b.top || b.bottom < a.top);
  return (text, x, y, gap) => {
    for (const [side, down] of [[1, -6], [-1, -6], [-1, 15], [1, 15]]) {
      const from = x + side * gap, to = from + side * 6.5 * text.length, baseline = y + down;
      const area = { left: Math.min(from, to), right: Math.max(from, to), top: baseline - 10, bottom: baseline + 2 };
      if (area.left < low || area.right > high || !free(area)) continue;
      taken.push(area);
      svg.append(node("text", { class: "name", x: from, y: baseline, "text-anchor": side > 0 ? "start" : "end" }, text));
      return;
    }
  };
}

/* Return an SVG with its grid, and where values lie in it: {svg, X, Y}. `ranges` are those of x and y; the numbers of y
   stand on the left, or on the right if names are to stand on the left. */
function frame(width, height, box, [[x0, x1], [y0, y1]], { label, xLabel, zero, small, right }) {
  const X = (x) => box.left + ((x - x0) / (x1 - x0)) * (box.right - box.left);
  const Y = (y) => box.bottom - ((y - y0) / (y1 - y0)) * (box.bottom - box.top);
  const svg = node("svg", { viewBox: `0 0 ${width} ${height}`, height, tabindex: 0, role: "img", "aria-label": label });
  const side = right ? { x: box.right + 6, "text-anchor": "start" } : { x: box.left - 6, "text-anchor": "end" };
  for (const y of ticks(y0, y1, small ? 4 : 5)) {
    svg.append(node("line", { class: "axis", x1: box.left, x2: box.right, y1: Y(y), y2: Y(y) }));
    svg.append(node("text", { ...side, y: Y(y) + 4 }, String(y).replace("-", "\u2212")));
  }
  for (const x of ticks(x0, x1, small || width < 400 ? 4 : 6))
    svg.append(node("text", { x: X(x), y: box.bottom + 16, "text-anchor": "middle" }, String(x)));
  if (zero) svg.append(node("line", { class: "zero", x1: box.left, x2: box.right, y1: Y(0), y2: Y(0) }));
  if (xLabel) svg.append(node("text", { x: (box.left + box.right) / 2, y: height - 6, "text-anchor": "middle" }, xLabel));
  return { svg, X, Y };
}

/* Write a heading into an empty `figure`, and return what is read out below its chart. */
function captioned(figure, title) {
  const output = document.createElement("output"), heading = document.createElement("h4");
  output.setAttribute("aria-live", "polite");
  heading.textContent = title;
  figure.replaceChildren(heading);
  return output;
}

/* Return the index of the place [x, y] nearest to the pointer, heights counting `weight` times as much. */
function nearest(svg, event, places, weight) {
  const shown = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / shown.width;
  const [x, y] = [(event.clientX - shown.left) * scale, (event.clientY - shown.top) * scale];
  const far = places.map(([a, b]) => Math.hypot(a - x, (b - y) * weight));
  return far.indexOf(Math.min(...far));
}

/* Return the index that a key leads to among `count`, -1 for none of them, null if the key leads nowhere. */
function stepped(key, current, count) {
  const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[key];
  if (step) return current < 0 ? (step > 0 ? 0 : count - 1) : (current + step + count) % count;
  return { Home: 0, End: count - 1, Escape: -1 }[key] ?? null;
}

function bandPoints(points, X, Y) {
  const at = (x, y) => `${X(x).toFixed(1)},${Y(y).toFixed(1)}`;
  return [...points.map((p) => at(p.x, p.high)), ...points.map((p) => at(p.x, p.low)).reverse()].join(" ");
}

/* Draw anew whenever the section has another width. */
function onWidth(section, draw) {
  let width = 0;
  new ResizeObserver(() => { if (section.clientWidth !== width) { width = section.clientWidth; draw(); } }).observe(section);
}

/* Draw points {x, y, low, high, text} in order, with stock markers {x, y, side, text}, into `figure`. The chart is one
   stop of the Tab key; arrow keys walk through its points, and what they say is read out and shown below. */
function chart(figure, { title, points, stock = [], xLabel, yLabel, zero, best, named, small, reference }) {
  const shown = points.filter((p) => p.y != null), markers = stock.filter((p) => p.x != null && p.y != null);
  const output = captioned(figure, title);
  if (!shown.length) {
    output.textContent = `The score at ${reference} is 0: there is no percentage of it.`;
    figure.append(output);
    return;
  }
  const width = Math.max(220, figure.clientWidth), height = small ? 150 : Math.min(360, Math.max(220, width * 0.62));
  const all = [...shown, ...markers];
  const box = { left: 46, right: width - 14, top: 12, bottom: height - (xLabel ? 40 : 24) };
  const [x0, x1] = range([...all.map((p) => p.x), ...(named ? shown.flatMap((p) => [p.xLow ?? p.x, p.xHigh ?? p.x]) : [0, 1])], 0.05);
  const [y0, y1] = range([...all.flatMap((p) => [p.y, p.low ?? p.y, p.high ?? p.y]), ...(zero ? [0] : [])], 0.08);
  const rest = best == null ? "" : points[best].text;
  const { svg, X, Y } = frame(width, height, box, [[x0, x1], [y0, y1]], {
    xLabel, zero, small,
    label: `${title}. Line chart of ${yLabel} over ${named ? xLabel : "λ"}, ${shown.length} points. ${rest} ` +
      "Arrow keys walk through the points; a table has all values.",
  });
  const at = (p) => `${X(p.x).toFixed(1)},${Y(p.y).toFixed(1)}`;
  if (named)
    for (const p of shown.filter((p) => p.low != null && p.xLow != null)) {
      svg.append(node("line", { class: "bar", x1: X(p.x), x2: X(p.x), y1: Y(p.low), y2: Y(p.high) }));
      svg.append(node("line", { class: "bar", x1: X(p.xLow), x2: X(p.xHigh), y1: Y(p.y), y2: Y(p.y) }));
    }
  else if (shown.every((p) => p.low != null))
    svg.append(node("polygon", { class: "band", points: bandPoints(shown, X, Y) }));
  svg.append(node("polyline", { class: "curve", points: shown.map(at).join(" ") }));
  shown.forEach((p) => {
    const chosen = p === points[best];
    svg.append(node("circle", { class: chosen ? "best" : p.hollow ? "point hollow" : "point", cx: X(p.x), cy: Y(p.y), r: chosen ? 5 : 3.5 }));
  });
  const name = namer(svg, all.map((p) => [X(p.x), Y(p.y)]), box.left, width);
  for (const p of markers) {
    const [x, y, s] = [X(p.x), Y(p.y), 6.5];
    const corners = p.side === "base" ? [[0, -s], [s, 0], [0, s], [-s, 0]] : [[-s, -s], [s, -s], [s, s], [-s, s]].map((c) => c.map((v) => v * 0.8));
    svg.append(node("polygon", { class: "stock", points: corners.map(([a, b]) => `${x + a},${y + b}`).join(" ") }));
    if (!small) name(`stock ${p.side}`, x, y, 9);
  }
  if (named)
    for (const p of new Set([shown[0], shown[shown.length - 1], ...shown])) name(lam(p.lam), X(p.x), Y(p.y), 7);
  const ring = node("circle", { class: "ring", r: 7, visibility: "hidden" });
  svg.append(ring);
  let current = -1;
  function show(index) {
    current = index;
    const p = all[index];
    ring.setAttribute("visibility", p ? "visible" : "hidden");
    if (p) { ring.setAttribute("cx", X(p.x)); ring.setAttribute("cy", Y(p.y)); }
    output.textContent = p ? p.text : rest;
  }
  svg.addEventListener("keydown", (event) => {
    const to = stepped(event.key, current, all.length);
    if (to == null) return;
    event.preventDefault();
    show(to);
  });
  svg.addEventListener("pointermove", (event) => {
    show(nearest(svg, event, all.map((p) => [X(p.x), Y(p.y)]), named ? 1 : 0.15));
  });
  svg.addEventListener("pointerleave", () => show(-1));
  svg.addEventListener("blur", () => show(-1));
  show(-1);
  figure.append(svg, output);
}

function curvePoints(pair, curve, change) {
  const [values, low, high] = change ? [curve.change, curve.change_low, curve.change_high] : [curve.values, curve.low, curve.high];
  const show = change ? percent : plain;
  const text = (name, i) => values[i] == null ? "" : `${name}: ${show(values[i])}${span({ low: low[i], high: high[i] }, show)}`;
  const point = (x, name, i) => ({ x, y: values[i], low: low[i], high: high[i], text: text(name, i), name });
  return {
    points: pair.lams.map((x, i) => point(x, `λ = ${lam(x)}`, i)),
    stock: pair.baselines.map((side, i) => ({ ...point(pair.stock[i], `stock ${side}`, pair.lams.length + i), side })),
    best: pair.lams.indexOf(curve.best.lam),
  };
}

function drawPanels(section, pair) {
  const host = section.querySelector(".panels");
  const names = [pair.icl, ...pair.areas.filter((name) => name !== pair.icl)].filter((name) => name != null);
  const wide = names.length > 1 && matchMedia("(min-width: 56rem)").matches;
  host.replaceChildren(...names.map(() => document.createElement("figure")));
  names.forEach((name, i) => {
    const curve = pair.curves[name], large = i === 0;
    chart(host.children[i], {
      ...curvePoints(pair, curve, true), title: curve.label, zero: true, small: !large || !wide && names.length > 1,
      xLabel: large ? pair.axis : "", yLabel: `percent difference from ${pair.reference}`, reference: pair.reference,
    });
  });
}

function drawScore(section, pair) {
  const curve = pair.curves[section.querySelector("select").value];
  const change = section.querySelector("input[value=change]").checked;
  const { points, stock, best } = curvePoints(pair, curve, change);
  const show = change ? percent : plain;
  chart(section.querySelector(".score"), {
    points, stock, best, title: `${curve.label} (${curve.metric.replace(",none", "")})`, zero: change, xLabel: pair.axis,
    yLabel: change ? `percent difference from ${pair.reference}` : curve.metric, reference: pair.reference,
  });
  const table = section.querySelector(".of-score");
  table.caption.textContent = `${curve.label}: ${change ? `percent difference from ${pair.reference}` : curve.percent ? "score in percent" : curve.metric}`;
  table.tBodies[0].replaceChildren(...[...points, ...stock].filter((p) => p.y != null).map((p) => {
    const row = document.createElement("tr"), head = document.createElement("th");
    head.scope = "row";
    head.textContent = p.name;
    row.append(head);
    for (const text of [show(p.y), p.low == null ? "–" : `${show(p.low)} to ${show(p.high)}`]) row.insertCell().textContent = text;
    if (p === points[best]) row.cells[1].className = "best";
    return row;
  }));
}

const axisName = (kind, curve) => curve.label.startsWith(kind) ? curve.label : `${kind}: ${curve.label}`;

function drawTradeoff(section, pair) {
  const figure = section.querySelector(".tradeoff");
  if (!figure) return;
  const across = pair.curves[pair.instruction], up = pair.curves[pair.icl];
  const point = (name, i) => ({
    x: across.values[i], y: up.values[i], low: up.low[i], high: up.high[i], xLow: across.low[i], xHigh: across.high[i],
    text: across.values[i] == null || up.values[i] == null ? "" : `${name}: ${up.label} ${plain(up.values[i])}, ${across.label} ${plain(across.values[i])}`,
  });
  const known = pair.undominated.length > 0;
  const lamPoint = (x, i) => {
    const hollow = known && !pair.undominated.includes(x), made = point(`λ = ${lam(x)}`, i);
    return { ...made, lam: x, hollow, text: made.text + (hollow && made.text ? "; surely dominated" : "") };
  };
  chart(figure, {
    points: pair.lams.map(lamPoint), named: true,
    stock: pair.baselines.map((side, i) => ({ ...point(`stock ${side}`, pair.lams.length + i), side })),
    title: `${up.label} over ${across.label}`, xLabel: axisName("instruction following", across), yLabel: axisName("in-context learning", up),
  });
}

for (const section of document.querySelectorAll("section[data-pair]")) {
  const pair = pairs[section.dataset.pair];
  const draw = () => { drawPanels(section, pair); drawScore(section, pair); drawTradeoff(section, pair); };
  section.querySelector("form").addEventListener("change", () => drawScore(section, pair));
  onWidth(section, draw);
}
