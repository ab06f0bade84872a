/* Charts of many pairs together; `page.js` stands before this and has the helpers. */
const across = JSON.parse(document.getElementById("across").textContent);
const DASH = ["", "7 2.5", "1.5 2.5", "7 2.5 1.5 2.5"];
const star = [...Array(10).keys()].map((i) => [Math.sin(i * 0.2 * Math.PI), -Math.cos(i * 0.2 * Math.PI)].map((v) => v * (i % 2 ? 0.5 : 1.2)));
const cross = [[-0.4, -1], [0.4, -1], [0.4, -0.4], [1, -0.4], [1, 0.4], [0.4, 0.4], [0.4, 1], [-0.4, 1], [-0.4, 0.4], [-1, 0.4], [-1, -0.4], [-0.4, -0.4]];
const SHAPES = [
  null, [[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]], [[0, -1.1], [1.1, 0.9], [-1.1, 0.9]], [[0, -1.2], [1.2, 0], [0, 1.2], [-1.2, 0]],
  [[0, 1.1], [1.1, -0.9], [-1.1, -0.9]], cross, cross.map(([x, y]) => [0.71 * (x - y), 0.71 * (x + y)]), star,
];
const GAP = 15;  // pixels from one name to the next
const ruler = document.createElement("canvas").getContext("2d");

function mark(number, x, y, r) {
  if (!SHAPES[number]) return node("circle", { class: "point", cx: x, cy: y, r });
  return node("polygon", { class: "point", points: SHAPES[number].map(([a, b]) => `${(x + r * a).toFixed(1)},${(y + r * b).toFixed(1)}`).join(" ") });
}

/* Return a name that is at most `width` pixels wide, without its middle if it is too long. */
function fitting(name, width) {
  ruler.font = "12px system-ui, sans-serif";
  let shown = name;
  for (let left = name.length - 1; ruler.measureText(shown).width > width && left > 2; left--)
    shown = `${name.slice(0, Math.ceil(left / 2))}…${name.slice(-Math.floor(left / 2))}`;
  return shown;
}

/* Return places at least `gap` apart and between `low` and `high`, as near to the rising `wanted` as can be: neighbours that
   would overlap become one block, whose middle is the mean of what they want. */
function spread(wanted, gap, low, high) {
  const blocks = [];
  wanted.forEach((place, i) => {
    let block = { sum: place - gap * i, count: 1 };
    while (blocks.length && blocks.at(-1).sum / blocks.at(-1).count >= block.sum / block.count) {
      const before = blocks.pop();
      block = { sum: before.sum + block.sum, count: before.count + block.count };
    }
    blocks.push(block);
  });
  const most = Math.max(low, high - gap * (wanted.length - 1));
  const found = blocks.flatMap((b) => Array(b.count).fill(Math.min(Math.max(b.sum / b.count, low), most)));
  return found.map((place, i) => place + gap * i);
}

/* Draw the lines of several pairs into `figure`, each named where it begins, with its 95 % band if `bands`. The chart is one
   stop of the Tab key; left and right walk along a line, up and down from line to line; what they say is read out. */
function lines(figure, { title, members, name, bands, tall }) {
  const output = captioned(figure, title);
  const drawn = members.filter((m) => m.change.length && m.change.every((y) => y != null));
  if (!drawn.length) {
    output.textContent = "The score at λ = 1 is 0 or missing: there is no percentage of it.";
    figure.append(output);
    return;
  }
  const banded = (m) => bands && m.low.every((y) => y != null) && m.high.every((y) => y != null);
  const width = Math.max(220, figure.clientWidth), height = Math.max(tall, GAP * drawn.length + 60);
  ruler.font = "12px system-ui, sans-serif";
  const column = Math.min(0.36 * width, 4 + Math.max(...drawn.map((m) => ruler.measureText(name(m)).width)));
  const box = { left: column + 42, right: width - 40, top: 12, bottom: height - 40 };
  const xs = range([0, 1, ...drawn.flatMap((m) => m.lams)], 0.05);
  const ys = range([0, ...drawn.flatMap((m) => [...m.change, ...(banded(m) ? [...m.low, ...m.high] : [])])], 0.05);
  const { svg, X, Y } = frame(width, height, box, [xs, ys], {
    xLabel: "λ (0: base, 1: instruct)", zero: true, small: width < 420, right: true,
    label: `${title}. Line chart of percent difference from λ = 1 over λ, ${drawn.length} lines. Left and right arrow keys walk ` +
      "along a line, up and down from one to the next; tables have all values.",
  });
  drawn.sort((one, two) => two.change[0] - one.change[0]);
  const names = spread(drawn.map((m) => Y(m.change[0])), GAP, box.top, box.bottom);
  const groups = drawn.map((m, i) => {
    const group = node("g", { class: `line c${m.colour}` }), [x0, y0] = [X(m.lams[0]), Y(m.change[0])];
    const line = { class: "curve", "stroke-dasharray": DASH[m.dash] };
    if (banded(m)) {
      const points = m.lams.map((x, j) => ({ x, low: m.low[j], high: m.high[j] }));
      group.append(node("polygon", { class: "band", points: bandPoints(points, X, Y) }));
    }
    group.append(node("polyline", { ...line, points: m.lams.map((x, j) => `${X(x).toFixed(1)},${Y(m.change[j]).toFixed(1)}`).join(" ") }));
    m.lams.forEach((x, j) => group.append(mark(m.marker, X(x), Y(m.change[j]), j === m.best ? 5.5 : 2.6)));
    group.append(node("line", { class: "leader", x1: box.left, y1: names[i], x2: x0, y2: y0 }));
    group.append(node("line", { ...line, x1: column + 8, x2: box.left, y1: names[i], y2: names[i] }));
    group.append(mark(m.marker, column + 25, names[i], 4));
    group.append(node("text", { class: "name", x: column + 2, y: names[i] + 4, "text-anchor": "end" }, fitting(name(m), column)));
    svg.append(group);
    return group;
  });
  const ring = node("circle", { class: "ring", r: 8, visibility: "hidden" });
  svg.append(ring);
  let row = -1, at = 0;
  function show(to, place) {
    [row, at] = [to, place];
    const m = drawn[row];
    groups.forEach((group, i) => group.classList.toggle("dim", row >= 0 && i !== row));
    ring.setAttribute("visibility", m ? "visible" : "hidden");
    output.textContent = "";
    if (!m) return;
    const interval = span({ low: m.low[at], high: m.high[at] }, percent), best = at === m.best ? " (best λ)" : "";
    ring.setAttribute("cx", X(m.lams[at]));
    ring.setAttribute("cy", Y(m.change[at]));
    output.textContent = `${m.name}, λ = ${lam(m.lams[at])}${best}: ${percent(m.change[at])}${interval}`;
  }
  svg.addEventListener("keydown", (event) => {
    const along = { ArrowRight: 1, ArrowLeft: -1 }[event.key], across = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!along && !across && !["Home", "End", "Escape"].includes(event.key)) return;
    event.preventDefault();
    if (event.key === "Escape") return show(-1, 0);
    if (row < 0) return show(across === -1 ? drawn.length - 1 : 0, along === -1 || event.key === "End" ? drawn[0].lams.length - 1 : 0);
    const count = drawn[row].lams.length;
    if (along) return show(row, (at + along + count) % count);
    if (!across) return show(row, event.key === "Home" ? 0 : count - 1);
    const next = (row + across + drawn.length) % drawn.length, far = drawn[next].lams.map((x) => Math.abs(x - drawn[row].lams[at]));
    show(next, far.indexOf(Math.min(...far)));
  });
  const places = drawn.flatMap((m, i) => m.lams.map((x, j) => ({ i, j, at: [X(x), Y(m.change[j])] })));
  svg.addEventListener("pointermove", (event) => {
    const x = (event.clientX - svg.getBoundingClientRect().left) * (width / svg.getBoundingClientRect().width);
    const named = drawn.map((m, i) => ({ i, j: m.best, at: [x, names[i]] }));  // a name stands for its line
    const all = x < box.left ? named : places, found = all[nearest(svg, event, all.map((p) => p.at), 1)];
    show(found.i, found.j);
  });
  svg.addEventListener("pointerleave", () => show(-1, 0));
  svg.addEventListener("blur", () => show(-1, 0));
  figure.append(svg, output);
}

/* Draw how many pairs have their best λ where; the arrow keys walk through the bars. */
function bars(figure, { title, counts, grid }) {
  const output = captioned(figure, title), width = Math.max(220, Math.min(560, figure.clientWidth)), height = 220;
  const box = { left: 20, right: width - 20, top: 24, bottom: height - 40 };
  const step = Math.min(...grid.slice(1).map((x, i) => x - grid[i]));
  const xs = [grid[0] - step, grid.at(-1) + step], most = Math.max(...counts.map((c) => c.names.length));
  const X = (x) => box.left + ((x - xs[0]) / (xs[1] - xs[0])) * (box.right - box.left);
  const svg = node("svg", {
    viewBox: `0 0 ${width} ${height}`, height, tabindex: 0, role: "img",
    "aria-label": `${title}. Bar chart, ${counts.length} bars. Arrow keys walk through the bars; the table has all values.`,
  });
  svg.append(node("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }));
  for (const x of ticks(...xs, 6)) svg.append(node("text", { x: X(x), y: box.bottom + 16, "text-anchor": "middle" }, String(x).replace("-", "\u2212")));
  svg.append(node("text", { x: (box.left + box.right) / 2, y: height - 6, "text-anchor": "middle" }, "best λ (0: base, 1: instruct)"));
  const thick = Math.max(3, 0.8 * (X(step) - X(0))), drawn = counts.map((c) => {
    const tall = (c.names.length / most) * (box.bottom - box.top), inside = c.lam > 0 && c.lam < 1;
    const bar = node("rect", { class: inside ? "column" : "column end", x: X(c.lam) - thick / 2, y: box.bottom - tall, width: thick, height: tall });
    svg.append(bar, node("text", { class: "name", x: X(c.lam), y: box.bottom - tall - 5, "text-anchor": "middle" }, String(c.names.length)));
    return bar;
  });
  const total = counts.reduce((sum, c) => sum + c.names.length, 0);
  let current = -1;
  function show(index) {
    current = index;
    drawn.forEach((bar, i) => bar.classList.toggle("dim", current >= 0 && i !== current));
    const c = counts[current];
    output.textContent = c ? `λ = ${lam(c.lam)}: ${c.names.length} of ${total} pairs (${c.names.join(", ")})` : "";
  }
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key], last = counts.length - 1;
    const to = step ? (current < 0 ? (step > 0 ? 0 : last) : (current + step + counts.length) % counts.length) : { Home: 0, End: last, Escape: -1 }[event.key];
    if (to == null) return;
    event.preventDefault();
    show(to);
  });
  svg.addEventListener("pointermove", (event) => show(nearest(svg, event, counts.map((c) => [X(c.lam), 0]), 0)));
  svg.addEventListener("pointerleave", () => show(-1));
  svg.addEventListener("blur", () => show(-1));
  figure.append(svg, output);
}

const together = document.getElementById("all-pairs");
onWidth(together, () => {
  const host = together.querySelector(".families");
  lines(together.querySelector(".all-lines"), { title: across.title, members: [...across.members], name: (m) => m.name, bands: false, tall: together.clientWidth < 600 ? 360 : 460 });
  host.replaceChildren(...across.families.map(() => document.createElement("figure")));
  across.families.forEach(({ name, members }, i) =>
    lines(host.children[i], { title: name, members: members.map((j) => across.members[j]), name: (m) => m.shown, bands: true, tall: 200 }));
  if (across.counts.length) bars(together.querySelector(".best-lams"), { title: "Best λ", counts: across.counts, grid: across.grid });
});
