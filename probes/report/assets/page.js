"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const CELL = 58, GUTTER = 76, SIDE = 21;
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const state = { stream: "", sample: "", finding: "", kinds: new Set(), selected: null };

  // ---------------------------------------------------------------- data: columns become arrays

  const unrun = (runs) => runs.flatMap(([value, count]) => new Array(count).fill(value));
  const parts = data.parts.map((part, number) => {
    const rows = part.row.flatMap(([first, count]) => Array.from({ length: count }, (_, i) => first + i));
    const columns = Object.fromEntries(["offset", "weight", "kind", "segment", "state"].map((c) => [c, unrun(part[c])]));
    const at = new Map(rows.map((row, i) => [row, i]));
    const heaviest = columns.weight.reduce((most, w) => Math.max(most, Math.abs(w) || 0), 0);
    return { ...part, ...columns, row: rows, at, number, heaviest, audio: part.stream.startsWith("audio"), start: 0 };
  });
  const held = parts.reduce((sum, part) => sum + part.row.length, 0);
  const kindOf = (part, i) => data.kinds[part.kind[i]];
  const nameOf = (part, token) => (token < 0 ? "" : (!part.audio && data.names[token]) || String(token));
  const strength = (part, i) => (part.heaviest ? 0.3 + 0.7 * Math.abs(part.weight[i] || 0) / part.heaviest : 1);

  const belongs = (finding, part, i) =>
    (!finding.streams || finding.streams.some((name) => name === part.stream || part.stream.startsWith(name + "["))) &&
    (finding.kinds.includes(kindOf(part, i).id) ||
      finding.rows.some(([stream, sample, row]) => stream === part.stream && sample === part.sample && row === part.row[i]));
  const matches = (part, i) =>
    state.kinds.has(kindOf(part, i).id) && (state.finding === "" || belongs(data.findings[state.finding], part, i));
  const shown = (part) =>
    (state.sample === "" || part.sample === Number(state.sample)) &&
    (state.stream === "" || part.stream === state.stream || (state.stream === "audio" && part.audio));

  // ---------------------------------------------------------------- small builders: text is always a text node

  const fill = (node, attributes, children) => {
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  const html = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
  const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
  /** A token as it fits into its cell: a special one goes without its brackets. */
  const word = (text, x, y) => {
    const bare = text.replace(/^<\|(.+)\|>$/, "$1");
    return svg("text", { x, y, ...(bare.length > 6 ? { class: "small" } : {}) }, bare.length > 9 ? bare.slice(0, 8) + "…" : bare);
  };
  const signed = (offset) => (offset > 0 ? "+" + offset : String(offset).replace("-", "−"));

  const story = (part, i) => {
    const target = part.target[i], expected = part.expected[i], offset = part.offset[i];
    const words = [`${part.stream}, sample ${part.sample}, row ${part.row[i]}`];
    words.push(part.state[i] === 2 ? "padding" : `has read ${nameOf(part, part.token[i]) || "nothing"}`);
    if (target >= 0) {
      words.push(`is trained to predict ${nameOf(part, target)}` + (offset === null ? "" : ` (offset ${signed(offset)})`));
    } else if (kindOf(part, i).id === "none") words.push("is not trained");
    else words.push("is trained on no token that can be read");
    if (expected >= 0 && expected !== target) words.push(`should predict ${nameOf(part, expected)}`);
    if (expected < 0 && target >= 0) words.push("should not be trained");
    if (part.weight[i]) words.push(`weight ${part.weight[i]}`);
    return `${words.join(" · ")} · ${kindOf(part, i).label}`;
  };

  // ---------------------------------------------------------------- the strip: tokens above, logits below

  const TOKENS = 22, BOTTOM = 50, LOGITS = 116, HEIGHT = 150;
  const middle = (column) => GUTTER + CELL * (column + 0.5);

  function arrow(from, to, kind, extra = "", opacity = 1) {
    const a = middle(from), b = middle(to);
    const curve = `M${a} ${LOGITS - 7}C${a} ${LOGITS - 34} ${b} ${BOTTOM + 34} ${b} ${BOTTOM + 7}`;
    const group = svg("g", { class: `k-${kind}`, opacity }, svg("path", { class: `arrow ${extra}`, d: curve }));
    if (extra !== "should") group.append(svg("path", { class: "head", d: `M${b - 4.5} ${BOTTOM + 10}l4.5-8 4.5 8z` }));
    return group;
  }

  function drawStrip(part, width) {
    const count = Math.min(part.row.length, Math.max(6, Math.floor((width - GUTTER) / CELL)));
    part.start = Math.max(0, Math.min(part.start, part.row.length - count));
    const picture = svg("svg", { viewBox: `0 0 ${GUTTER + CELL * count} ${HEIGHT}`, "aria-hidden": "true" });
    if (part.row.length === count) picture.style.maxWidth = `${GUTTER + CELL * count}px`;
    for (const [y, text] of [[TOKENS + 18, "has read"], [LOGITS + 4, "logit"], [HEIGHT - 10, "trained on"]]) {
      picture.append(svg("text", { x: 0, y, class: "lane" }, text));
    }
    for (let column = 0; column < count; column++) {
      drawColumn(picture, part, part.start + column, column);
    }
    return { picture, count };
  }

  function drawColumn(picture, part, i, column) {
    const x = GUTTER + CELL * column, kind = kindOf(part, i), row = part.row[i];
    const group = svg("g", { "data-part": part.number, "data-i": i, ...(matches(part, i) ? {} : { class: "dim" }) });
    if (i > 0 && part.segment[i] !== part.segment[i - 1]) {
      picture.append(svg("path", { class: "segment", d: `M${x} 0V${HEIGHT}` }));
    }
    if (isSelected(part, i)) picture.append(svg("rect", { class: "band", x, y: 0, width: CELL, height: HEIGHT, rx: 5 }));
    picture.append(svg("text", { class: "number-line", x: middle(column), y: 13 }, String(row)));
    const token = svg("g", { class: `token ${["", "filler", "padding"][part.state[i]]}`, "data-part": part.number, "data-i": i });
    token.append(svg("rect", { x: x + 2, y: TOKENS, width: CELL - 4, height: BOTTOM - TOKENS, rx: 5 }));
    token.append(word(nameOf(part, part.token[i]), middle(column), TOKENS + 18));
    token.append(svg("title", {}, nameOf(part, part.token[i]) || "nothing"));
    picture.append(token);
    const offset = part.offset[i], hollow = part.target[i] < 0;
    if (part.expected[i] >= 0 && kind.id !== "right") {
      const lost = kind.id === "missing" || kind.id === "lost" || kind.id === "unknown";
      group.append(arrow(column, column + 1, kind.id, lost ? "dashed" : "should"));
    }
    if (offset !== null && !hollow) group.append(arrow(column, column + offset, kind.id, "", strength(part, i)));
    group.append(svg("g", { class: `logit k-${kind.id} ${hollow ? "hollow" : ""}` },
      svg("circle", { cx: middle(column), cy: LOGITS, r: kind.id === "none" ? 2.5 : 5.5, opacity: hollow ? 1 : strength(part, i) }),
      word(nameOf(part, part.target[i]), middle(column), HEIGHT - 10)));
    picture.append(group);
  }

  /** All rows of a part, one stroke a run, and where the window stands. */
  function drawMap(part, count) {
    const total = part.row.length, map = svg("svg", { class: "map", viewBox: `0 0 ${total} 10`, preserveAspectRatio: "none", height: 10, "aria-hidden": "true" });
    let from = 0;
    while (from < total) {
      let to = from + 1;
      while (to < total && part.kind[to] === part.kind[from]) to++;
      const dim = matches(part, from) || kindOf(part, from).id === "none" ? "" : " dim";
      map.append(svg("rect", { class: `k-${kindOf(part, from).id}${dim}`, x: from, y: 2, width: to - from, height: 6 }));
      from = to;
    }
    map.append(svg("rect", { class: "window", x: part.start, y: 0.75, width: count, height: 8.5, "vector-effect": "non-scaling-stroke" }));
    return map;
  }

  // ---------------------------------------------------------------- the grid: codebooks down, frames across

  function drawGrid(books, width) {
    const frames = books[0].row.length;
    const count = Math.min(frames, Math.max(12, Math.floor((width - GUTTER) / SIDE)));
    const start = Math.max(0, Math.min(books[0].start, frames - count));
    for (const part of books) part.start = start;
    const size = GUTTER + SIDE * count, tall = 16 + SIDE * books.length;
    const picture = svg("svg", { viewBox: `0 0 ${size} ${tall + 2}`, "aria-hidden": "true" });
    picture.style.maxWidth = `${size}px`;
    for (let column = 0; column < count; column++) {
      const i = start + column, x = GUTTER + SIDE * column;
      if (column % 5 === 0) picture.append(svg("text", { class: "number-line", x: x + SIDE / 2, y: 11 }, String(books[0].row[i])));
      if (i > 0 && books[0].segment[i] !== books[0].segment[i - 1]) {
        picture.append(svg("path", { class: "segment", d: `M${x} 2V${tall}` }));
      }
    }
    books.forEach((part, k) => {
      const y = 16 + SIDE * k;
      picture.append(svg("text", { class: "lane", x: 0, y: y + 15 }, part.stream));
      for (let column = 0; column < count; column++) picture.append(cell(part, start + column, GUTTER + SIDE * column, y));
    });
    books.forEach((part, k) => mark(picture, part, k, start));
    return { picture, count };
  }

  function cell(part, i, x, y) {
    const kind = kindOf(part, i), filler = part.state[i] === 1 ? "filler" : "";
    const group = svg("g", { class: `cell k-${kind.id} ${filler} ${matches(part, i) || kind.id === "none" ? "" : "dim"}`, "data-part": part.number, "data-i": i });
    const opacity = kind.id === "none" ? {} : { opacity: strength(part, i) };
    group.append(svg("rect", { x: x + 1, y: y + 1, width: SIDE - 2, height: SIDE - 2, rx: 3, ...opacity }));
    if (kind.id !== "none") group.append(svg("text", { x: x + SIDE / 2, y: y + 14.5 }, kind.sign));
    else if (filler) group.append(svg("circle", { class: "dot", cx: x + SIDE / 2, cy: y + SIDE / 2, r: 1.6 }));
    group.append(svg("title", {}, story(part, i)));
    return group;
  }

  function mark(picture, part, k, start) {
    if (!state.selected || state.selected.part !== part) return;
    const i = state.selected.i, x = GUTTER + SIDE * (i - start), y = 16 + SIDE * k;
    picture.append(svg("rect", { class: "selected", x, y, width: SIDE, height: SIDE, rx: 4 }));
    if (!part.offset[i]) return;
    const a = x + SIDE / 2, b = a + SIDE * part.offset[i], middleY = y + SIDE / 2, back = Math.sign(b - a) * -6;
    picture.append(svg("path", { class: "selected", d: `M${a} ${middleY}H${b}m${back} -4L${b} ${middleY}l${back} 4` }));
  }

  // ---------------------------------------------------------------- cards: one per stream and sample

  const isSelected = (part, i) => state.selected !== null && state.selected.part === part && state.selected.i === i;

  function groups() {
    const visible = parts.filter(shown), grids = new Map(), out = [];
    for (const part of visible) {
      if (!part.audio || state.stream === part.stream) out.push([part]);
      else if (grids.has(part.sample)) grids.get(part.sample).push(part);
      else { const books = [part]; grids.set(part.sample, books); out.push(books); }
    }
    return out.sort((a, b) => a[0].sample - b[0].sample);
  }

  function card(books) {
    const part = books[0], grid = part.audio && state.stream !== part.stream;
    const title = `${grid ? "audio, codebooks by frames" : part.stream} · sample ${part.sample}`;
    const view = html("div", { class: "view", tabindex: 0, role: "group", "aria-label": `${title}: arrow keys move from row to row` });
    const slider = html("input", { type: "range", min: 0, value: 0, "aria-label": `first row shown, ${title}` });
    const detail = html("p", { class: "detail", "aria-live": "polite" });
    const table = html("details", {}, html("summary", {}, "these rows as a table"));
    const element = html("article", { class: "card part" }, html("header", {}, html("h3", {}, title), html("span", {}, `${part.row.length} rows`)), view, slider, detail);
    if (!grid) element.append(table);

    const draw = () => {
      const { picture, count } = grid ? drawGrid(books, view.clientWidth) : drawStrip(part, view.clientWidth);
      view.replaceChildren(picture, ...(!grid && count < part.row.length ? [drawMap(part, count)] : []));
      slider.hidden = count >= part.row.length;
      slider.max = part.row.length - count;
      slider.value = part.start;
      slider.setAttribute("aria-valuetext", `from row ${part.row[part.start]}`);
      const chosen = state.selected && books.includes(state.selected.part) ? state.selected : null;
      detail.textContent = chosen ? story(chosen.part, chosen.i) : "Choose a row to read its story.";
      detail.classList.toggle("muted", !chosen);
      if (table.open) fillTable(table, part, count);
      element.count = count;
    };
    slider.addEventListener("input", () => { for (const p of books) p.start = Number(slider.value); draw(); });
    view.addEventListener("click", (event) => pick(event, part));
    view.addEventListener("keydown", (event) => walk(event, books));
    table.addEventListener("toggle", draw);
    element.books = books;
    element.draw = draw;
    return element;
  }

  function fillTable(table, part, count) {
    const heads = ["row", "has read", "is trained to predict", "should predict", "offset", "weight", "verdict"];
    const body = html("tbody");
    for (let i = part.start; i < Math.min(part.start + count, part.row.length); i++) {
      const offset = part.offset[i] === null ? "" : signed(part.offset[i]);
      const cells = [part.row[i], nameOf(part, part.token[i]), nameOf(part, part.target[i]), nameOf(part, part.expected[i]), offset, part.weight[i] || "", kindOf(part, i).label];
      body.append(html("tr", {}, ...cells.map((text) => html("td", {}, String(text)))));
    }
    const head = html("thead", {}, html("tr", {}, ...heads.map((text) => html("th", { scope: "col" }, text))));
    table.replaceChildren(table.firstElementChild, html("table", {}, head, body));
  }

  const cards = () => [...$("parts").children];

  function pick(event, part) {
    const hit = event.target.closest("[data-i]"), map = event.target.closest(".map");
    if (hit) select(parts[Number(hit.dataset.part)], Number(hit.dataset.i), false);
    else if (map) {
      const box = map.getBoundingClientRect();
      part.start = Math.floor(((event.clientX - box.left) / box.width) * part.row.length) - 4;
      cards().find((c) => c.books.includes(part)).draw();
    }
  }

  function walk(event, books) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], PageUp: [-16, 0], PageDown: [16, 0], Home: [-Infinity, 0], End: [Infinity, 0] }[event.key];
    if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const chosen = state.selected && books.includes(state.selected.part) ? state.selected : null;
    const book = Math.max(0, Math.min(books.length - 1, (chosen ? books.indexOf(chosen.part) : 0) + (chosen ? step[1] : 0)));
    const i = Math.max(0, Math.min(books[book].row.length - 1, chosen ? chosen.i + step[0] : books[0].start));
    select(books[book], i, true);
  }

  /** Mark one row; with ``move`` its window follows. */
  function select(part, i, move) {
    state.selected = { part, i };
    for (const element of cards()) {
      if (move && element.books.includes(part) && (i < part.start || i >= part.start + element.count)) {
        for (const p of element.books) p.start = i - Math.floor(element.count / 3);
      }
      element.draw();
    }
  }

  // ---------------------------------------------------------------- filters, matches, links

  function filterChanged() {
    for (const key of ["stream", "sample", "finding"]) state[key] = $(key).value;
    state.kinds = new Set([...$("kinds").querySelectorAll("input:checked")].map((box) => box.value));
    render();
    const first = allMatches()[0];
    if (state.finding !== "" && first) select(...first, true);
  }

  const allMatches = () =>
    cards().flatMap((element) => element.books.flatMap((part) => part.row.flatMap((_, i) => (matches(part, i) ? [[part, i]] : []))));

  function render() {
    $("parts").replaceChildren(...groups().map(card));
    for (const element of cards()) element.draw();
    const found = allMatches(), total = cards().reduce((sum, c) => sum + c.books.reduce((n, p) => n + p.row.length, 0), 0);
    $("count").textContent = `${found.length} of ${total} rows match`;
    if (held < data.total) $("count").textContent += `; this file holds ${held} of the batch's ${data.total} rows`;
    $("next").disabled = $("previous").disabled = found.length === 0;
  }

  function jump(direction) {
    const found = allMatches();
    if (!found.length) return;
    const here = found.findIndex(([part, i]) => isSelected(part, i));
    const next = here < 0 ? (direction > 0 ? 0 : found.length - 1) : (here + direction + found.length) % found.length;
    select(...found[next], true);
    cards().find((c) => c.books.includes(found[next][0])).scrollIntoView({ block: "nearest" });
  }

  /** A link of a finding: #row/STREAM/SAMPLE/ROW. */
  function follow() {
    const [what, stream, sample, row] = decodeURIComponent(location.hash.slice(1)).split("/");
    if (what !== "row") return;
    const part = parts.find((p) => p.stream === stream && p.sample === Number(sample));
    const i = part ? part.at.get(Number(row)) : undefined;
    if (i === undefined) {
      $("count").textContent = `row ${row} of ${stream}, sample ${sample}, is not in this file`;
      $("rows").scrollIntoView();
      return;
    }
    if (!shown(part)) { $("filters").reset(); setDefaults(); filterChanged(); }
    select(part, i, true);
    cards().find((c) => c.books.includes(part)).scrollIntoView({ block: "center" });
  }

  function setDefaults() {
    for (const box of $("kinds").querySelectorAll("input")) box.checked = box.value !== "none";
  }

  function setUp() {
    const option = (value, text) => html("option", { value }, text);
    const streams = [...new Set(parts.map((p) => p.stream))], audio = streams.some((s) => s.startsWith("audio"));
    $("stream").append(option("", "all"), ...(audio ? [option("audio", "audio, all codebooks")] : []), ...streams.map((s) => option(s, s)));
    $("sample").append(option("", "all"), ...[...new Set(parts.map((p) => p.sample))].map((s) => option(s, s)));
    $("finding").append(option("", "any or none"), ...data.findings.map((f, n) => option(n, f.label)));
    const counts = new Map();
    for (const part of parts) for (const kind of part.kind) counts.set(kind, (counts.get(kind) || 0) + 1);
    data.kinds.forEach((kind, n) => {
      if (!counts.has(n)) return;
      const box = html("input", { type: "checkbox", value: kind.id, id: `kind-${kind.id}` });
      $("kinds").append(html("label", { class: `chip k-${kind.id}`, title: kind.help }, box,
        html("span", { class: "sign", "aria-hidden": "true" }, kind.sign), kind.label, html("span", { class: "n" }, String(counts.get(n)))));
    });
    setDefaults();
    $("filters").addEventListener("change", filterChanged);
    $("filters").addEventListener("reset", () => setTimeout(() => { setDefaults(); state.selected = null; filterChanged(); }));
    $("next").addEventListener("click", () => jump(1));
    $("previous").addEventListener("click", () => jump(-1));
    document.addEventListener("keydown", (event) => {
      if (event.target.closest("input, select, textarea") || event.altKey || event.ctrlKey || event.metaKey) return;
      if (event.key === "n") jump(1);
      if (event.key === "p") jump(-1);
    });
    window.addEventListener("hashchange", follow);
    let width = window.innerWidth;
    window.addEventListener("resize", () => {
      if (window.innerWidth !== width) { width = window.innerWidth; cards().forEach((c) => c.draw()); }
    });
  }

  if (!parts.length) return;
  setUp();
  for (const part of parts) part.start = Math.max(0, part.kind.findIndex((k) => data.kinds[k].id !== "none") - 2);
  filterChanged();
  follow();
})();
