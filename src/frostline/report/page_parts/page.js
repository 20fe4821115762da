"use strict";
const D = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8C6D31", "#777777"]; // Okabe and Ito's
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "star", "x", "pentagon", "hourglass", "triangle-down", "hexagram", "bowtie", "star-diamond", "triangle-left", "triangle-right", "diamond-tall"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
const PHASES = ["train", "consolidate", "select", "cache", "evaluate"]; // evaluation last: it is no part of learning
const PATTERNS = ["", "/", ".", "x", "-", "|", "+", "\\"];
const MOST_BARS = 40, MOST_CHOSEN = 4;
const state = { hidden: new Set(), chosen: [], kept: new Map(), sort: null, down: true, touched: false };
const strategies = [...new Set(D.groups.map((g) => g.strategy))];
const selectors = [...new Set(D.groups.map((g) => g.selector))];
const colour = (g) => COLOURS[strategies.indexOf(g.strategy) % COLOURS.length];
const symbol = (g) => SYMBOLS[selectors.indexOf(g.selector) % SYMBOLS.length];

// Plotly reads a little HTML in labels; what runs are called is text.
const text = (s) => String(s).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const wrapped = (s, width = 60) => {
  const lines = [""];
  for (const word of String(s).split(" ")) {
    if (lines[lines.length - 1].length + word.length > width) lines.push("");
    lines[lines.length - 1] += (lines[lines.length - 1] ? " " : "") + word;
  }
  return lines.map(text).join("<br>");
};
function element(name, content, attributes = {}) {
  const made = document.createElement(name);
  if (content !== undefined) made.textContent = content;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
function written(key, value) {
  if (value === null || value === undefined) return "-";
  const unit = D.axes[key] ? D.axes[key].unit : "";
  if (["FLOP", "B", "J"].includes(unit))
    for (const [size, prefix] of [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
      if (Math.abs(value) >= size) return `${+(value / size).toPrecision(3)} ${prefix}${unit}`;
  return `${+value.toPrecision(3)}${unit ? ` ${unit}` : ""}`;
}
const value = (g, key) => (g.axes[key] ? g.axes[key][0] : null);
function half(g, key) {
  const place = +$("interval").value;
  if (!place || !g.axes[key] || g.seeds.length < 3) return [0, 0];
  const [mean, low, high] = [g.axes[key][0], g.axes[key][place], g.axes[key][place + 1]];
  return low === null ? [0, 0] : [mean - low, high - mean];
}
const name = (g) => g.method;
const reference = (g) => g.strategy === "joint"; // has all data at once: nothing that one could choose
const finite = (v) => (Number.isFinite(v) ? v : null);
const shown = () => {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  return D.groups.filter((g) => g.stream === +$("stream").value
    && (!$("strategy").value || g.strategy === $("strategy").value)
    && (!$("selector").value || g.selector === $("selector").value)
    && words.every((w) => g.label.toLowerCase().includes(w)));
};
const drawn = () => shown().filter((g) => !state.hidden.has(g));
const inStream = () => D.groups.filter((g) => g.stream === +$("stream").value);
const phasesOf = (groups, unit) => [...new Set([...PHASES, ...groups.flatMap((g) => Object.keys(g.bill[unit]))])].filter((p) => groups.some((g) => g.bill[unit][p]));
const look = (phase) => { const n = (PHASES.includes(phase) ? PHASES.indexOf(phase) : phase.length) % COLOURS.length; return { color: COLOURS[n], pattern: { shape: PATTERNS[n % 8], solidity: 0.2 } }; };

function front(groups, x, y) {
  const better = (key, a, b) => (D.axes[key].less ? a < b : a > b);
  const known = groups.filter((g) => !reference(g) && value(g, x) !== null && value(g, y) !== null);
  return known.filter((g) => !known.some((o) => {
    const [gx, gy, ox, oy] = [value(g, x), value(g, y), value(o, x), value(o, y)];
    return !better(x, gx, ox) && !better(y, gy, oy) && (better(x, ox, gx) || better(y, oy, gy));
  })).sort((a, b) => value(a, x) - value(b, x));
}
function soFar(g, key) { // after each task, from the matrix
  const R = g.matrix, T = R.length - 1;
  return Array.from({ length: T }, (_, t) => {
    const row = R[t + 1].slice(0, t + 1);
    if (row.some((v) => v === null)) return null;
    if (key === "accuracy") return row.reduce((a, b) => a + b) / (t + 1);
    if (!t) return null;
    const drops = row.slice(0, t).map((v, j) => Math.max(...R.slice(j + 1, t + 1).map((r) => (r[j] === null ? -Infinity : r[j]))) - v);
    return drops.reduce((a, b) => a + b) / t;
  });
}
function ink() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(["ink", "line", "faint", "accent"].map((k) => [k, style.getPropertyValue(`--${k}`).trim()]));
}
function layout(more = {}) {
  const c = ink(), axis = { gridcolor: c.line, zerolinecolor: c.line, linecolor: c.line, automargin: true, exponentformat: "SI" };
  const { xaxis, yaxis, ...rest } = more;
  return { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: c.ink, size: 12 }, hovermode: "closest",
    margin: { l: 60, r: 16, t: 16, b: 48 }, legend: { orientation: "h", y: -0.22, yanchor: "top", font: { size: 11 } },
    xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...rest };
}
const CONFIG = { responsive: true, displaylogo: false, displayModeBar: window.innerWidth < 700 ? false : "hover", modeBarButtonsToRemove: ["lasso2d", "select2d"], toImageButtonOptions: { format: "svg" } };
const title = (key, more = "") => ({ title: { text: D.axes[key].label + (D.axes[key].unit ? ` (${D.axes[key].unit})` : "") + more }, type: $("log").checked && D.costs.includes(key) ? "log" : "linear" });
const strong = (g) => !state.touched || !state.chosen.length || state.chosen.includes(g); // at first all are

function drawFrontier() {
  const [x, y, groups] = [$("x").value, $("y").value, drawn()], best = front(groups, x, y), traces = [], c = ink();
  const over = $("anytime").checked && g_over(x, y);
  if (over)
    for (const g of groups)
      traces.push({ x: g.over_time[x], y: soFar(g, y), mode: "lines+markers", line: { color: colour(g), width: strong(g) ? 2 : 1 }, opacity: strong(g) ? 0.9 : 0.2,
        marker: { size: 3 }, showlegend: false, text: g.matrix.slice(1).map((_, t) => `${wrapped(name(g))}<br>after task ${t}`), hovertemplate: "%{text}<br>%{x:.4s}, %{y:.4g}<extra></extra>" });
  if (best.length > 1)
    traces.push({ x: best.map((g) => value(g, x)), y: best.map((g) => value(g, y)), mode: "lines", line: { color: c.faint, width: 1.5, dash: "dot" }, name: "nothing beats these", hoverinfo: "skip" });
  for (const s of strategies) {
    const own = groups.filter((g) => g.strategy === s && value(g, x) !== null && value(g, y) !== null);
    if (!own.length) continue;
    const bars = (key) => ({ type: "data", symmetric: false, array: own.map((g) => half(g, key)[1]), arrayminus: own.map((g) => half(g, key)[0]), thickness: 1, width: 3, color: COLOURS[strategies.indexOf(s) % COLOURS.length] });
    traces.push({ x: own.map((g) => value(g, x)), y: own.map((g) => value(g, y)), error_x: bars(x), error_y: bars(y), mode: "markers", name: text(s), customdata: own.map((g) => D.groups.indexOf(g)),
      marker: { color: COLOURS[strategies.indexOf(s) % COLOURS.length], symbol: own.map(symbol), size: own.map((g) => (best.includes(g) ? 13 : 9)), opacity: own.map((g) => (strong(g) ? 1 : 0.4)),
        line: { width: own.map((g) => (state.chosen.includes(g) ? 3 : 1)), color: own.map((g) => (state.chosen.includes(g) ? c.ink : "rgba(128,128,128,.6)")) } },
      text: own.map((g) => `<b>${wrapped(name(g))}</b><br>${text(D.axes[y].label)}: ${written(y, value(g, y))}<br>${text(D.axes[x].label)}: ${written(x, value(g, x))}<br>forgetting: ${written("forgetting", value(g, "forgetting"))}<br>${g.seeds.length} seed${g.seeds.length > 1 ? "s" : ""}`),
      hovertemplate: "%{text}<extra></extra>" });
  }
  for (const s of selectors.filter((s) => groups.some((g) => g.selector === s)))
    traces.push({ x: [null], y: [null], mode: "markers", name: text(s), marker: { color: c.faint, symbol: SYMBOLS[selectors.indexOf(s) % SYMBOLS.length], size: 9 } });
  const gone = $("log").checked ? groups.filter((g) => value(g, x) !== null && value(g, x) <= 0).length : 0;
  Plotly.react("frontier", traces, layout({ xaxis: { ...(groups.length < 2 ? { rangemode: "tozero" } : {}), ...title(x, gone ? `, ${gone} at 0 not drawn` : "") }, yaxis: { ...title(y), type: "linear", ...(over ? { title: { text: `${D.axes[y].label.replace(" at the end", "")} after each task` } } : {}) } }), CONFIG);
}
const g_over = (x, y) => ["flops", "seconds"].includes(x) && ["accuracy", "forgetting"].includes(y);

function drawCurves() {
  const groups = drawn().filter((g) => value(g, "of_full") !== null), traces = [], lines = new Map();
  for (const g of groups) {
    const key = `${g.strategy} ${g.selector}`;
    lines.set(key, [...(lines.get(key) || []), g]);
  }
  for (const [key, own] of lines) {
    own.sort((a, b) => value(a, "of_full") - value(b, "of_full"));
    ["accuracy", "forgetting"].forEach((column, place) => traces.push({
      x: own.map((g) => value(g, "of_full")), y: own.map((g) => value(g, column)), xaxis: place ? "x2" : "x", yaxis: place ? "y2" : "y", mode: own.length > 1 ? "lines+markers" : "markers", name: text(key), legendgroup: key, showlegend: !place && own.length > 1,
      opacity: own.some(strong) ? 1 : 0.3, line: { color: colour(own[0]), dash: DASHES[selectors.indexOf(own[0].selector) % DASHES.length], width: 1.5 }, marker: { symbol: symbol(own[0]), size: 7 },
      text: own.map((g) => `<b>${wrapped(name(g))}</b><br>${wrapped(g.setting)}`), hovertemplate: "%{text}<br>%{x:.3f} of full, %{y:.4g}<extra></extra>" }));
  }
  const shapes = [], annotations = [], c = ink();
  for (const [strategy, said] of [["finetune", "full fine-tuning"], ["joint", "joint training"]]) {
    const g = groups.find((o) => o.strategy === strategy && o.selector === "Everything");
    if (!g) continue;
    ["accuracy", "forgetting"].forEach((column, place) => {
      if (value(g, column) === null) return;
      shapes.push({ type: "line", xref: place ? "x2 domain" : "x domain", x0: 0, x1: 1, yref: place ? "y2" : "y", y0: value(g, column), y1: value(g, column), line: { color: c.faint, width: 1, dash: "dash" } });
      annotations.push({ text: said, xref: place ? "x2 domain" : "x domain", x: strategy === "joint" ? 1 : 0, xanchor: strategy === "joint" ? "right" : "left", yref: place ? "y2" : "y", y: value(g, column), yanchor: "bottom", showarrow: false, font: { size: 10, color: c.faint } });
    });
  }
  const narrow = window.innerWidth < 700, base = layout(), across = { ...base.xaxis, type: $("log").checked ? "log" : "linear", title: { text: "share of full fine-tuning's operations" } };
  Plotly.react("curves", traces, { ...base, shapes, annotations, height: narrow ? 640 : 400, grid: { rows: narrow ? 2 : 1, columns: narrow ? 1 : 2, pattern: "independent", ygap: 0.3 },
    xaxis: across, xaxis2: { ...across }, yaxis: { ...base.yaxis, title: { text: "average accuracy" } }, yaxis2: { ...base.yaxis, title: { text: "forgetting" } } }, CONFIG);
}
function drawBill() {
  const unit = $("unit").value, key = $("y").value, less = D.axes[key].less;
  let groups = drawn().sort((a, b) => (less ? 1 : -1) * (value(a, key) - value(b, key)));
  groups = [...new Set([...state.chosen.filter((g) => groups.includes(g)), ...groups])].slice(0, MOST_BARS).reverse();
  const sum = (g, phase) => (g.bill[unit][phase] || [0]).reduce((a, b) => a + b, 0), phases = phasesOf(groups, unit);
  const whole = groups.map((g) => phases.reduce((all, p) => all + sum(g, p), 0));
  const traces = phases.map((phase) => ({ type: "bar", orientation: "h", name: phase, y: groups.map((_, i) => i), x: groups.map((g) => sum(g, phase)),
    marker: look(phase), opacity: 0.9, text: groups.map((g, i) => `${wrapped(name(g))}<br>${(100 * sum(g, phase) / (whole[i] || 1)).toFixed(0)} % of all`), textposition: "none", hovertemplate: `%{text}<br>${phase}: %{x:.3s}<extra></extra>` }));
  Plotly.react("bill", traces, layout({ barmode: "stack", height: 130 + 20 * groups.length, xaxis: { title: { text: unit === "flops" ? "operations (FLOP)" : "seconds" } },
    yaxis: { tickvals: groups.map((_, i) => i), ticktext: groups.map((g) => short(name(g), 34)) }, legend: { orientation: "h", y: 1.02, yanchor: "bottom" } }), CONFIG);
}
function heat(where, z, across, down, more = {}) {
  const small = z.length <= 16 && z.length * z[0].length <= 132;
  Plotly.newPlot(where, [{ type: "heatmap", z, x: across.map((_, i) => i), y: down.map((_, i) => i), zmin: 0, zmax: 1, colorscale: "Cividis", showscale: !small, text: z.map((r) => r.map((v) => (v === null ? "" : v.toFixed(2)))),
    texttemplate: small ? "%{text}" : "", customdata: z.map((r, i) => r.map((_, j) => `${text(down[i])}, ${text(across[j])}`)), hovertemplate: "%{customdata}: %{z:.3f}<extra></extra>", ...more }],
  layout({ margin: { l: 50, r: 8, t: 6, b: 40 }, xaxis: ticks(across), yaxis: { ...ticks(down), autorange: "reversed" } }), { ...CONFIG, displayModeBar: false });
}
// In the middle: what tells names apart is often their end.
const short = (s, most = 14) => text(s.length > most ? `${s.slice(0, Math.floor(most / 2) - 1)}…${s.slice(-Math.ceil(most / 2))}` : s);
function ticks(names) {
  const every = Math.ceil(names.length / 12), places = names.map((_, i) => i).filter((i) => i % every === 0);
  return { tickvals: places, ticktext: places.map((i) => short(names[i])), automargin: true, showgrid: false };
}
function drawDetails() {
  const place = $("details");
  place.replaceChildren();
  const tasks = D.streams[+$("stream").value].tasks;
  const chosen = state.chosen.filter((g) => g.stream === +$("stream").value);
  $("forgotten").hidden = $("forgotten_head").hidden = tasks.length < 2 || chosen.every((g) => value(g, "forgetting") === null);
  if (!chosen.length) place.append(element("p", "Nothing is chosen: click a point, or a star in the table.", { class: "note" }));
  const later = []; // drawn once every card has its width
  for (const g of chosen) {
    const card = element("div", undefined, { class: "card" });
    card.append(element("h3", name(g)), element("p", "accuracy after each task (down) on each (across)" + (g.seeds.length > 1 ? `, mean of ${g.seeds.length} seeds` : ""), { class: "note" }));
    const matrix = element("div", undefined, { class: "figure" });
    card.append(matrix);
    place.append(card);
    later.push(() => heat(matrix, g.matrix, tasks, ["untrained", ...tasks]));
    if (g.retrained.length) {
      const layers = Object.keys(g.retrained[0]), figure = element("div", undefined, { class: "figure" });
      card.append(element("p", "which share of each block trained, first seed", { class: "note" }), figure);
      later.push(() => heat(figure, layers.map((l) => g.retrained.map((row) => row[l] ?? null)), tasks, layers));
    }
    if (g.within.length) {
      const figure = element("div", undefined, { class: "figure" });
      card.append(element("p", "accuracy within tasks, first seed", { class: "note" }), figure);
      const lines = tasks.map((t, j) => ({ x: g.within.map((r) => r[1]), y: g.within.map((r) => (r[0] >= j ? r[j + 2] : null)), mode: "lines", name: text(t), line: { width: 1 } }));
      later.push(() => Plotly.newPlot(figure, lines, layout({ showlegend: false, margin: { l: 44, r: 8, t: 6, b: 36 }, xaxis: { title: { text: "steps" } } }), { ...CONFIG, displayModeBar: false }));
    }
    const bill = element("div", undefined, { class: "figure" }), unit = $("unit").value;
    card.append(element("p", `${unit === "flops" ? "operations" : "seconds"} of each task`, { class: "note" }), bill);
    later.push(() => Plotly.newPlot(bill, phasesOf([g], unit).map((phase) => ({ type: "bar", name: phase, x: g.bill[unit][phase].map((_, i) => i), y: g.bill[unit][phase], marker: look(phase) })),
      layout({ barmode: "stack", margin: { l: 50, r: 8, t: 6, b: 36 }, xaxis: ticks(tasks) }), { ...CONFIG, displayModeBar: false }));
    for (const [head, content] of [["command", g.command], ["configuration", g.config], ["folders", g.folders.join("\n")]]) {
      if (!content) continue;
      const more = element("details"), copy = element("button", "copy", { type: "button" });
      if (head === "command") more.open = true;
      copy.addEventListener("click", () => navigator.clipboard.writeText(content).then(() => { copy.textContent = "copied"; }));
      more.append(element("summary", head), copy, element("pre", content));
      card.append(more);
    }
  }
  for (const figure of later) figure();
  const traces = chosen.map((g, n) => {
    const R = g.matrix, T = R.length - 1, last = R[T];
    return { x: tasks.map((_, i) => i).slice(0, -1), y: last.slice(0, -1).map((v, j) => (v === null ? null : finite(Math.max(...R.slice(j + 1, T).map((r) => (r[j] === null ? -Infinity : r[j]))) - v))),
      name: wrapped(name(g)), mode: "lines+markers", line: { color: colour(g), dash: DASHES[n % DASHES.length] }, marker: { symbol: SYMBOLS[n] } };
  });
  Plotly.react("forgotten", traces, layout({ height: 330, xaxis: { ...ticks(tasks), title: { text: "task" } }, yaxis: { title: { text: "forgetting of the task" } } }), CONFIG);
}
function drawTable() {
  const [x, y] = [$("x").value, $("y").value], columns = [...new Set([y, x, ...["forgetting"].filter((k) => D.axes[k]), ...Object.keys(D.axes)])], head = $("table").tHead, body = $("table").tBodies[0];
  const sort = state.sort && columns.includes(state.sort) ? state.sort : y, down = state.sort ? state.down : !D.axes[sort].less;
  const row = element("tr");
  row.append(element("th", "drawn"), element("th", "chosen"), element("th", "configuration"), element("th", "seeds"));
  for (const key of columns) {
    const cell = element("th", undefined, { "aria-sort": key === sort ? (down ? "descending" : "ascending") : "none" }), button = element("button", D.axes[key].label + (key === sort ? (down ? " ▼" : " ▲") : ""), { type: "button" });
    button.addEventListener("click", () => { state.down = state.sort === key ? !state.down : !D.axes[key].less; state.sort = key; drawTable(); });
    cell.append(button);
    row.append(cell);
  }
  head.replaceChildren(row);
  const all = shown().sort((a, b) => {
    const [u, v] = [value(a, sort), value(b, sort)];
    return u === null ? 1 : v === null ? -1 : (down ? -1 : 1) * (u - v);
  });
  const best = front(drawn(), x, y);
  body.replaceChildren(...all.map((g) => {
    const line = element("tr"), box = element("input", undefined, { type: "checkbox", "aria-label": `draw ${g.label}` }), star = element("button", state.chosen.includes(g) ? "★" : "☆", { type: "button", "aria-label": `choose ${g.label}`, "aria-pressed": state.chosen.includes(g) });
    box.checked = !state.hidden.has(g);
    box.addEventListener("change", () => { state.hidden[box.checked ? "delete" : "add"](g); draw(); });
    star.addEventListener("click", () => choose(g));
    if (state.chosen.includes(g)) line.classList.add("chosen");
    if (best.includes(g)) line.classList.add("front");
    for (const content of [box, star]) line.append(element("td")), line.lastChild.append(content);
    line.append(element("td", name(g)), element("td", g.seeds.length));
    for (const key of columns) {
      const [minus, plus] = half(g, key);
      line.append(element("td", written(key, value(g, key)) + (minus + plus > 0 ? ` ± ${written(key, +((minus + plus) / 2).toPrecision(2))}` : "")));
    }
    return line;
  }));
}
function choose(g) {
  queueMicrotask(() => state.kept.set($("stream").value, state.chosen));
  state.touched = true;
  state.chosen = state.chosen.includes(g) ? state.chosen.filter((o) => o !== g) : [...state.chosen, g].slice(-MOST_CHOSEN);
  draw();
}
function cheapest() {
  const y = $("y").value, x = $("x").value, less = D.axes[y].less, known = drawn().filter((g) => (!reference(g) || drawn().every(reference)) && value(g, y) !== null && value(g, x) !== null);
  if (!known.length) return {};
  const best = known.reduce((a, b) => ((less ? value(b, y) < value(a, y) : value(b, y) > value(a, y)) ? b : a));
  const near = known.filter((g) => Math.abs(value(g, y) - value(best, y)) <= Math.max(0, +$("margin").value || 0) + 1e-12);
  return { best, cheap: near.reduce((a, b) => (value(b, x) < value(a, x) ? b : a)) };
}
function answer() {
  const [x, y] = [$("x").value, $("y").value], { best, cheap } = cheapest(), place = $("answer");
  if (!best) { place.textContent = drawn().length ? "Nothing that is drawn has both of these." : "No configuration matches."; return; }
  const spread = (g) => { const [minus, plus] = half(g, y); return minus + plus > 0 ? ` ± ${((minus + plus) / 2).toPrecision(2)}` : ""; };
  const of = (g) => `${written(y, value(g, y))}${spread(g)} for ${written(x, value(g, x))}${value(g, "forgetting") === null || y === "forgetting" ? "" : `, forgetting ${written("forgetting", value(g, "forgetting"))}`}, ${g.seeds.length} seed${g.seeds.length > 1 ? "s" : ""}`;
  const few = drawn().length < inStream().length ? `Of the ${drawn().length} that are drawn: best` : "Best", aside = drawn().some(reference) && !reference(best) ? " Joint training, which has all data at once, is left aside." : "";
  place.textContent = `${few} ${D.axes[y].label}: ${name(best)} (${of(best)}). `
    + (cheap === best ? `Nothing within ${Math.max(0, +$("margin").value || 0)} of it takes less.` : `Within ${Math.max(0, +$("margin").value || 0)} of it, the least ${D.axes[x].label}: ${name(cheap)} (${of(cheap)}), ${value(best, x) ? `${(100 * value(cheap, x) / value(best, x)).toFixed(0)} % of the best one's` : ""}.`) + aside
    + (cheap.seeds.length < 5 ? " Few seeds: frostline compare --paired --margin says what is shown." : "");
  if (cheap.command) {
    const copy = element("button", "copy its command", { type: "button" });
    copy.addEventListener("click", () => navigator.clipboard.writeText(cheap.command).then(() => { copy.textContent = "copied"; }));
    place.append(" ", copy, element("pre", cheap.command));
  }
}
let waiting = 0;
function draw() {
  answer();
  drawFrontier();
  drawTable();
  clearTimeout(waiting);
  waiting = setTimeout(() => { drawDetails(); drawCurves(); drawBill(); document.body.dataset.ready = "yes"; }, 0);
}
function options(select, pairs) { select.replaceChildren(...pairs.map(([v, said]) => element("option", said, { value: v }))); }
async function library() {
  const octets = Uint8Array.from(atob($("plotly").textContent), (c) => c.charCodeAt(0));
  const script = element("script", await new Response(new Blob([octets]).stream().pipeThrough(new DecompressionStream("gzip"))).text());
  document.head.append(script);
}
function begin() {
  $("made").textContent = D.made;
  options($("stream"), D.streams.map((s, i) => [i, `${s.name} (${s.scenario}-incremental, ${s.tasks.length} tasks)`]));
  options($("y"), Object.keys(D.axes).filter((k) => !D.costs.includes(k)).map((k) => [k, D.axes[k].label]));
  options($("x"), D.costs.map((k) => [k, D.axes[k].label]));
  if (D.left_out.length) {
    $("out").hidden = false;
    $("out").querySelector("ul").replaceChildren(...D.left_out.map(([where, why]) => element("li", `${where}: ${why}`)));
  }
  const first = () => { // of a stream: what can be filtered by, and what is chosen
    const own = inStream(), runs = own.reduce((n, g) => n + g.seeds.length, 0), all = own.length < D.groups.length ? ` of ${D.groups.length} in all` : "";
    $("count").textContent = `${own.length} configuration${own.length > 1 ? "s" : ""}${all}, ${runs} run${runs > 1 ? "s" : ""}`;
    for (const key of ["strategy", "selector"]) options($(key), [["", "all"], ...[...new Set(own.map((g) => g[key]))].map((s) => [s, s])]);
    const { best, cheap } = cheapest();
    state.chosen = state.kept.get($("stream").value) || [...new Set([best, cheap])].filter(Boolean);
  };
  for (const id of ["y", "x", "interval", "log", "anytime", "strategy", "selector", "search", "margin", "unit"]) $(id).addEventListener("input", draw);
  $("stream").addEventListener("input", () => { first(); draw(); });
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  first();
  draw();
  $("frontier").on("plotly_click", (event) => { const n = event.points[0].customdata; if (n !== undefined) choose(D.groups[n]); });
}
library().then(begin).catch((error) => { $("answer").textContent = `The figures could not be drawn (${error.message}); the numbers are in comparison.csv.`; });
