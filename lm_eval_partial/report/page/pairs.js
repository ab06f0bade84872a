/* Charts of many pairs together; `page.js` stands before this and has the helpers. */
const across = JSON.parse(document.getElementById("across").textContent);
const DASH = ["", "7 2.5", "1.5 2.5", "7 2.5 1.5 2.5"];
const star = [...Array(10).keys()].map((i) => {
  const r = i % 2 ? 0.5 : 1.2, angle = i * 0.2 * Math.PI;
  return [r * Math.sin(angle), -r * Math.cos(angle)];
});
const cross = [
  [-0.4, -1], [0.4, -1], [0.4, -0.4], [1, -0.4], [1, 0.4], [0.4, 0.4], [0.4, 1], [-0.4, 1], [-0.4, 0.4], [-1, 0.4], [-1, -0.4], [-0.4, -0.4],
];
/* Circle, square, triangle, diamond, triangle down, cross, the cross turned, and star: as the markers of the figures. */
const SHAPES = [
  null,
  [[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]],
  [[0, -1.1], [1.1, 0.9], [-1.1, 0.9]],
  [[0, -1.2], [1.2, 0], [0, 1.2], [-1.2, 0]],
  [[0, 1.1], [1.1, -0.9], [-1.1, -0.9]],
  cross,
  cross.map(([x, y]) => [0.71 * (x - y), 0.71 * (x + y)]),
  star,
];
const GAP = 15;  // pixels from one name to the next
const FONT = "12px system-ui, sans-serif";
const ruler = document.createElement("canvas").getContext("2d");

function mark(number, x, y, r) {
  if (!SHAPES[number]) return node("circle", { class: "point", cx: x, cy: y, r });
  const corners = SHAPES[number].map(([a, b]) => `${(x + r * a).toFixed(1)},${(y + r * b).toFixed(1)}`);
  return node("polygon", { class: "point", points: corners.join(" ") });
}

/* Return a name that is at most `width` pixels wide, without its middle if it is too long. */
function fitting(name, width) {
  ruler.font = FONT;
  const letters = [...name];
  let shown = name;
  for (let left = letters.length - 1; ruler.measureText(shown).width > width && left > 2; left--)
    shown = [...letters.slice(0, Math.ceil(left / 2)), "…", ...letters.slice(-Math.floor(left / 2))].join("");
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

/* Return a group with a pair's line, its band if it is to have one, and its name at the height `place`, left of the plot. */
function pairLine(m, { X, Y, box, column, place, name, banded }) {
  const group = node("g", { class: `line c${m.colour}` }), line = { class: "curve", "stroke-dasharray": DASH[m.dash] };
  const points = m.lams.map((x, i) => ({ x, y: m.change[i], low: m.low[i], high: m.high[i] }));
  if (banded) group.append(node("polygon", { class: "band", points: bandPoints(points, X, Y) }));
  group.append(node("polyline", { ...line, points: points.map((p) => `${X(p.x).toFixed(1)},${Y(p.y).toFixed(1)}`).join(" ") }));
  points.forEach((p, i) => group.append(mark(m.marker, X(p.x), Y(p.y), i === m.best ? 5.5 : 2.6)));
  group.append(
    node("line", { class: "leader", x1: box.left, y1: place, x2: X(points[0].x), y2: Y(points[0].y) }),
    node("line", { ...line, x1: column + 8, x2: box.left, y1: place, y2: place }),
    mark(m.marker, column + 25, place, 4),
    node("text", { class: "name", x: column + 2, y: place + 4, "text-anchor": "end" }, fitting(name, column)),
  );
  return group;
}

/* Return where a key leads from {row, at}, the point `at` of a line; null if it leads nowhere. Left and right walk along a
   line, up and down from one to the next, to the point of the nearest λ. */
function walked(key, { row, at }, drawn) {
  const along = { ArrowRight: 1, ArrowLeft: -1 }[key], aside = { ArrowDown: 1, ArrowUp: -1 }[key];
  if (key === "Escape") return { row: -1, at: 0 };
  if (!along && !aside && key !== "Home" && key !== "End") return null;
  const last = (to) => drawn[to].lams.length - 1;
  if (row < 0) {
    const first = aside === -1 ? drawn.length - 1 : 0;
    return { row: first, at: along === -1 || key === "End" ? last(first) : 0 };
  }
  if (along) return { row, at: (at + along + last(row) + 1) % (last(row) + 1) };
  if (!aside) return { row, at: key === "Home" ? 0 : last(row) };
  const next = (row + aside + drawn.length) % drawn.length, far = drawn[next].lams.map((x) => Math.abs(x - drawn[row].lams[at]));
  return { row: next, at: far.indexOf(Math.min(...far)) };
}

/* Let mouse and keys choose a point of the `drawn` lines, which is ringed, told in `output`, and its line brought out. */
function choose(svg, output, drawn, groups, { X, Y, box, names }) {
  const ring = node("circle", { class: "ring", r: 8, visibility: "hidden" });
  svg.append(ring);
  let chosen;
  function show(to) {
    chosen = to;
    const m = drawn[to.row];
    groups.forEach((group, i) => group.classList.toggle("dim", Boolean(m) && i !== to.row));
    ring.setAttribute("visibility", m ? "visible" : "hidden");
    output.textContent = "";
    if (!m) return;
    const [x, y] = [m.lams[to.at], m.change[to.at]], best = to.at === m.best ? " (best λ)" : "";
    ring.setAttribute("cx", X(x));
    ring.setAttribute("cy", Y(y));
    output.textContent = `${m.name}, λ = ${lam(x)}${best}: ${percent(y)}${span({ low: m.low[to.at], high: m.high[to.at] }, percent)}`;
  }
  const none = () => show({ row: -1, at: 0 });
  svg.addEventListener("keydown", (event) => {
    const to = walked(event.key, chosen, drawn);
    if (!to) return;
    event.preventDefault();
    show(to);
  });
  const points = drawn.flatMap((m, row) => m.lams.map((x, at) => ({ row, at, place: [X(x), Y(m.change[at])] })));
  svg.addEventListener("pointermove", (event) => {
    const shown = svg.getBoundingClientRect(), x = ((event.clientX - shown.left) * svg.viewBox.baseVal.width) / shown.width;
    const beside = drawn.map((m, row) => ({ row, at: m.best, place: [x, names[row]] }));  // a name stands for its line
    const all = x < box.left ? beside : points;
    show(all[nearest(svg, event, all.map((p) => p.place), 1)]);
  });
  svg.addEventListener("pointerleave", none);
  svg.addEventListener("blur", none);
  none();
}

/* Draw the lines of several pairs into `figure`, each named where it begins, with its 95 % band if `bands`. The chart is one
   stop of the Tab key. */
function lines(figure, { title, members, name, bands, tall }) {
  const output = captioned(figure, title);
  const drawn = members.filter((m) => m.change.length && m.change.every((y) => y != null));
  if (!drawn.length) {
    output.textContent = "The score at λ = 1 is 0 or missing: there is no percentage of it.";
    figure.append(output);
    return;
  }
  drawn.sort((one, two) => two.change[0] - one.change[0]);
  const banded = (m) => bands && [...m.low, ...m.high].every((y) => y != null);
  const width = Math.max(220, figure.clientWidth), height = Math.max(tall, GAP * drawn.length + 60);
  ruler.font = FONT;
  const column = Math.min(0.36 * width, 4 + Math.max(...drawn.map((m) => ruler.measureText(name(m)).width)));
  const box = { left: column + 42, right: width - 40, top: 12, bottom: height - 40 };
  const xs = range([0, 1, ...drawn.flatMap((m) => m.lams)], 0.05);
  const ys = range([0, ...drawn.flatMap((m) => [...m.change, ...(banded(m) ? [...m.low, ...m.high] : [])])], 0.05);
  const { svg, X, Y } = frame(width, height, box, [xs, ys], {
    xLabel: "λ (0: base, 1: instruct)", zero: true, small: width < 420, right: true,
    label: `${title}. Line chart of percent difference from λ = 1 over λ, ${drawn.length} lines. Left and right arrow keys walk ` +
      "along a line, up and down from one to the next; tables have all values.",
  });
  const names = spread(drawn.map((m) => Y(m.change[0])), GAP, box.top, box.bottom);
  const groups = drawn.map((m, i) => pairLine(m, { X, Y, box, column, place: names[i], name: name(m), banded: banded(m) }));
  svg.append(...groups);
  choose(svg, output, drawn, groups, { X, Y, box, names });
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
  const middle = (x, y, text, more) => svg.append(node("text", { x, y, "text-anchor": "middle", ...more }, text));
  for (const x of ticks(...xs, 6)) middle(X(x), box.bottom + 16, String(x).replace("-", "\u2212"));
  middle((box.left + box.right) / 2, height - 6, "best λ (0: base, 1: instruct)");
  const thick = Math.max(3, 0.8 * (X(step) - X(0))), drawn = counts.map((c) => {
    const tall = (c.names.length / most) * (box.bottom - box.top), place = { x: X(c.lam) - thick / 2, y: box.bottom - tall };
    const bar = node("rect", { class: c.lam > 0 && c.lam < 1 ? "column" : "column end", ...place, width: thick, height: tall });
    svg.append(bar);
    middle(X(c.lam), place.y - 5, String(c.names.length), { class: "name" });
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
    const to = stepped(event.key, current, counts.length);
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
  const host = together.querySelector(".families"), tall = together.clientWidth < 600 ? 360 : 460;
  lines(together.querySelector(".all-lines"), { title: across.title, members: across.members, name: (m) => m.name, bands: false, tall });
  host.replaceChildren(...across.families.map(() => document.createElement("figure")));
  across.families.forEach((family, i) => {
    const members = family.members.map((place) => across.members[place]);
    lines(host.children[i], { title: family.name, members, name: (m) => m.shown, bands: true, tall: 200 });
  });
  if (across.counts.length) bars(together.querySelector(".best-lams"), { title: "Best λ", counts: across.counts, grid: across.grid });
});
