"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const CELL = 58, SIDE = 21;
  /** Room for the names of the lanes; little on a phone. */
  const narrow = () => window.innerWidth < 480;
  const gutter = () => (narrow() ? 44 : 76);
  const lane = (name) => (narrow() ? { "has read": "read", "trained on": "target" }[name] ?? name.replace("codebook ", "") : name);
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const state = { stream: "", sample: "", finding: "", kinds: new Set(), selected: null };

  // ---------------------------------------------------------------- data: columns become arrays

  const unrun = (runs) => runs.flatMap(([value, count]) => new Array(count).fill(value));
  const parts = data.parts.map((part, number) => {
    const rows = part.row.flatMap(([first, count]) => Array.from({ length: count }, (_, i) => first + i));
    const columns = Object.fromEntries(["offset", "wanted", "weight", "kind", "segment", "state"].map((c) => [c, unrun(part[c])]));
    const target = columns.offset.map((offset, i) => (offset === null ? -1 : part.token[i + offset] ?? -1));
    const expected = columns.wanted.map((wanted, i) => (wanted ? part.token[i + 1] ?? -1 : -1));
    for (const [i, token] of part.target) target[i] = token;
    for (const [i, token] of part.expected) expected[i] = token;
    const at = new Map(rows.map((row, i) => [row, i]));
    const heaviest = columns.weight.reduce((most, w) => Math.max(most, Math.abs(w) || 0), 0);
    const book = /^audio\[(\d+)\]$/.exec(part.stream), name = book ? `codebook ${book[1]}` : part.stream;
    return { ...part, ...columns, target, expected, row: rows, at, number, heaviest, name, audio: part.stream.startsWith("audio"), start: 0 };
  });
  const held = parts.reduce((sum, part) => sum + part.row.length, 0);
  /** What a row of a stream weighs on average, where it weighs anything. */
  const means = new Map();
  for (const { stream } of parts) {
    const weights = parts.filter((p) => p.stream === stream).flatMap((p) => p.weight.filter((w) => Number(w)).map(Math.abs));
    means.set(stream, weights.reduce((sum, w) => sum + w, 0) / weights.length);
  }
  const kindOf = (part, i) => data.kinds[part.kind[i]];
  const nameOf = (part, token) => (token < 0 ? "" : (!part.audio && data.names[token]) || String(token));
  const strength = (part, i) => (part.heaviest ? 0.3 + 0.7 * Math.abs(part.weight[i] || 0) / part.heaviest : 1);

  const belongs = (finding, part, i) =>
    (!finding.streams || finding.streams.some((name) => name === part.stream || part.stream.startsWith(name + "["))) &&
    (finding.kinds.includes(kindOf(part, i).id) ||
      finding.rows.some(([stream, sample, row]) => stream === part.stream && sample === part.sample && row === part.row[i]));
  const matches = (part, i) =>
    state.kinds.has(kindOf(part, i).id) && (state.finding === "" || belongs(data.findings[state.finding], part, i));
  const chosen = (part) =>
    (state.sample === "" || part.sample === Number(state.sample)) &&
    (state.stream === "" || part.stream === state.stream || (state.stream === "audio" && part.audio));
  /** With a finding chosen, only what it is about. */
  const shown = (books) => state.finding === "" || books.some((part) => part.row.some((_, i) => matches(part, i)));

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
  const told = (number) => number.toLocaleString("en");
  const signed = (offset) => (offset > 0 ? "+" + offset : String(offset).replace("-", "−"));

  const story = (part, i) => {
    const target = part.target[i], expected = part.expected[i], offset = part.offset[i];
    const words = [`${part.name}, sample ${part.sample}, row ${part.row[i]}`];
    words.push(part.state[i] === 2 ? "padding" : `has read ${nameOf(part, part.token[i]) || "nothing"}`);
    if (target >= 0) {
      words.push(`is trained to predict ${nameOf(part, target)}` + (offset === null ? "" : ` (offset ${signed(offset)})`));
    } else words.push({ unreadable: "is trained on no single token", unknown: "the loss did not run" }[kindOf(part, i).id] ?? "is not trained");
    if (expected >= 0 && expected !== target) words.push(`should predict ${nameOf(part, expected)}`);
    if (expected < 0 && target >= 0) words.push("should not be trained");
    const times = Math.abs(part.weight[i]) / means.get(part.stream);
    if (part.weight[i]) words.push(`weight ${part.weight[i]}` + (times ? `, ${times.toPrecision(2)} times the mean of its stream` : ""));
    return `${words.join(" · ")} · ${kindOf(part, i).label}`;
  };

  // ---------------------------------------------------------------- the strip: tokens above, logits below

  const TOKENS = 22, BOTTOM = 50, LOGITS = 116, HEIGHT = 150;
  const middle = (column) => gutter() + CELL * (column + 0.5);

  function arrow(from, to, kind, extra = "", opacity = 1) {
    const a = middle(from), b = middle(to);
    const curve = `M${a} ${LOGITS - 7}C${a} ${LOGITS - 34} ${b} ${BOTTOM + 34} ${b} ${BOTTOM + 7}`;
    const group = svg("g", { class: `k-${kind}`, opacity }, svg("path", { class: `arrow ${extra}`, d: curve }));
    if (extra !== "should") group.append(svg("path", { class: "head", d: `M${b - 4.5} ${BOTTOM + 10}l4.5-8 4.5 8z` }));
    return group;
  }

  function drawStrip(part, width) {
    const count = Math.min(part.row.length, Math.max(narrow() ? 4 : 6, Math.floor((width - gutter()) / CELL)));
    part.start = Math.max(0, Math.min(part.start, part.row.length - count));
    const picture = svg("svg", { viewBox: `0 0 ${gutter() + CELL * count} ${HEIGHT}`, "aria-hidden": "true" });
    if (part.row.length === count) picture.style.maxWidth = `${gutter() + CELL * count}px`;
    for (const [y, text] of [[TOKENS + 18, "has read"], [LOGITS + 4, "logit"], [HEIGHT - 10, "trained on"]]) {
      picture.append(svg("text", { x: 0, y, class: "lane" }, lane(text)));
    }
    for (let column = 0; column < count; column++) {
      drawColumn(picture, part, part.start + column, column);
    }
    return { picture, count };
  }

  function drawColumn(picture, part, i, column) {
    const x = gutter() + CELL * column, kind = kindOf(part, i), row = part.row[i];
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
    const count = Math.min(frames, Math.max(12, Math.floor((width - gutter()) / SIDE)));
    const start = Math.max(0, Math.min(books[0].start, frames - count));
    for (const part of books) part.start = start;
    const size = gutter() + SIDE * count, tall = 16 + SIDE * books.length;
    const picture = svg("svg", { viewBox: `0 0 ${size} ${tall + 2}`, "aria-hidden": "true" });
    picture.style.maxWidth = `${size}px`;
    for (let column = 0; column < count; column++) {
      const i = start + column, x = gutter() + SIDE * column;
      if (column % 5 === 0) picture.append(svg("text", { class: "number-line", x: x + SIDE / 2, y: 11 }, String(books[0].row[i])));
      if (i > 0 && books[0].segment[i] !== books[0].segment[i - 1]) {
        picture.append(svg("path", { class: "segment", d: `M${x} 2V${tall}` }));
      }
    }
    books.forEach((part, k) => {
      const y = 16 + SIDE * k;
      picture.append(svg("text", { class: "lane", x: 0, y: y + 15 }, lane(part.name)));
      for (let column = 0; column < count; column++) picture.append(cell(part, start + column, gutter() + SIDE * column, y));
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
    const i = state.selected.i, x = gutter() + SIDE * (i - start), y = 16 + SIDE * k;
    picture.append(svg("rect", { class: "selected", x, y, width: SIDE, height: SIDE, rx: 4 }));
    if (!part.offset[i]) return;
    const a = x + SIDE / 2, b = a + SIDE * part.offset[i], middleY = y + SIDE / 2, back = Math.sign(b - a) * -6;
    picture.append(svg("path", { class: "selected", d: `M${a} ${middleY}H${b}m${back} -4L${b} ${middleY}l${back} 4` }));
  }

  // ---------------------------------------------------------------- cards: one per stream and sample

  const selectedIn = (books) => (state.selected && books.includes(state.selected.part) ? state.selected : null);
  const isSelected = (part, i) => state.selected !== null && state.selected.part === part && state.selected.i === i;

  function groups() {
    const grids = new Map(), out = [];
    for (const part of parts.filter(chosen)) {
      if (!part.audio || state.stream === part.stream) out.push([part]);
      else if (grids.has(part.sample)) grids.get(part.sample).push(part);
      else { const books = [part]; grids.set(part.sample, books); out.push(books); }
    }
    return out.filter(shown).sort((a, b) => a[0].sample - b[0].sample);
  }

  function card(books) {
    const part = books[0], grid = part.audio && state.stream !== part.stream;
    const title = `${grid ? "codebooks by frames" : part.name} · sample ${part.sample}`;
    const view = html("div", { class: "view", tabindex: 0, role: "group", "aria-label": `${title}: arrow keys move from row to row` });
    const slider = html("input", { type: "range", min: 0, value: 0, "aria-label": `first row shown, ${title}` });
    const detail = html("p", { class: "detail", "aria-live": "polite" });
    const table = html("details", {}, html("summary", {}, "these rows as a table"));
    const element = html("article", { class: "card part" }, html("header", {}, html("h3", {}, title), html("span", {}, `${told(part.row.length)} ${part.audio ? "frames" : "rows"}`)), view, slider, detail);
    if (!grid) element.append(table);

    const draw = () => {
      const { picture, count } = grid ? drawGrid(books, view.clientWidth) : drawStrip(part, view.clientWidth);
      view.replaceChildren(picture, ...(!grid && count < part.row.length ? [drawMap(part, count)] : []));
      slider.hidden = count >= part.row.length;
      slider.max = part.row.length - count;
      slider.value = part.start;
      slider.setAttribute("aria-valuetext", `from row ${part.row[part.start]}`);
      const row = selectedIn(books);
      detail.textContent = row ? story(row.part, row.i) : "Choose a row to read its story.";
      detail.classList.toggle("muted", !row);
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
    const row = selectedIn(books);
    const book = Math.max(0, Math.min(books.length - 1, row ? books.indexOf(row.part) + step[1] : 0));
    const i = Math.max(0, Math.min(books[book].row.length - 1, row ? row.i + step[0] : books[0].start));
    select(books[book], i, true);
  }

  /** Mark one row; with ``move`` its window follows. */
  function select(part, i, move) {
    const before = state.selected && state.selected.part;
    state.selected = { part, i };
    for (const element of cards().filter((c) => c.books.includes(part) || c.books.includes(before))) {
      if (move && element.books.includes(part) && (i < part.start || i >= part.start + element.count)) {
        for (const p of element.books) p.start = i - Math.floor(element.count / 3);
      }
      element.draw();
    }
  }

  // ---------------------------------------------------------------- filters, matches, links

  /** The rows that match, in the order of the page. */
  let found = [];

  function filterChanged() {
    for (const key of ["stream", "sample", "finding"]) state[key] = $(key).value;
    state.kinds = new Set([...$("kinds").querySelectorAll("input:checked")].map((box) => box.value));
    render();
    if (state.finding !== "" && found.length) for (const books of cards().map((c) => c.books)) openAt(books);
  }

  /** Open a card at its first row that matches, and mark that row where it is the first of all. */
  function openAt(books) {
    const first = found.find(([part]) => books.includes(part));
    for (const part of books) part.start = Math.max(0, first[1] - 2);
    if (first === found[0]) state.selected = { part: first[0], i: first[1] };
    cards().find((c) => c.books === books).draw();
  }

  function render() {
    const every = parts.filter(chosen), total = every.reduce((sum, p) => sum + p.row.length, 0);
    $("parts").replaceChildren(...groups().map(card));
    for (const element of cards()) element.draw();
    found = cards().flatMap((c) => c.books.flatMap((part) => part.row.flatMap((_, i) => (matches(part, i) ? [[part, i]] : []))));
    const words = [`${told(found.length)} of ${told(total)} rows match`];
    const left = every.length - cards().reduce((sum, c) => sum + c.books.length, 0);
    if (left) words.push("streams and samples without any are left out");
    if (held < data.total) words.push(`this file holds ${told(held)} of the batch's ${told(data.total)} rows`);
    $("count").textContent = words.join("; ");
    $("next").disabled = $("previous").disabled = $("segment").disabled = found.length === 0;
  }

  function jump(direction) {
    if (!found.length) return;
    const here = found.findIndex(([part, i]) => isSelected(part, i));
    goTo(here < 0 ? (direction > 0 ? 0 : found.length - 1) : (here + direction + found.length) % found.length);
  }

  /** The next match behind a border: of a segment, a sample, a stream, or of a run of matches. */
  function nextSegment() {
    if (!found.length) return;
    const apart = ([part, i], [other, j]) => part !== other || part.segment[i] !== other.segment[j] || j > i + 1;
    let at = found.findIndex(([part, i]) => isSelected(part, i)) + 1;
    while (at > 0 && at < found.length && !apart(found[at - 1], found[at])) at++;
    goTo(at % found.length);
  }

  function goTo(number) {
    const [part, i] = found[number];
    select(part, i, true);
    cards().find((c) => c.books.includes(part)).scrollIntoView({ block: "nearest" });
  }

  /** The links of a finding: #row/STREAM/SAMPLE/ROW, and #rows-N to all rows of finding N. */
  function follow(hash = location.hash) {
    const all = /^#rows-(\d+)$/.exec(hash);
    if (all) {
      clear();
      $("finding").value = all[1];
      filterChanged();
      $("rows").scrollIntoView();
      return;
    }
    const [what, stream, sample, row] = decodeURIComponent(hash.slice(1)).split("/");
    if (what !== "row") return;
    const part = parts.find((p) => p.stream === stream && p.sample === Number(sample));
    const i = part ? part.at.get(Number(row)) : undefined;
    if (i === undefined) {
      $("count").textContent = `row ${row} of ${stream}, sample ${sample}, is not in this file`;
      $("rows").scrollIntoView();
      return;
    }
    if (!cards().some((c) => c.books.includes(part))) { clear(); filterChanged(); }
    select(part, i, true);
    cards().find((c) => c.books.includes(part)).scrollIntoView({ block: "center" });
  }

  function clear() {
    for (const key of ["stream", "sample", "finding"]) $(key).value = "";
    setDefaults();
  }

  function setDefaults() {
    for (const box of $("kinds").querySelectorAll("input")) box.checked = box.value !== "none";
  }

  function setUp() {
    const option = (value, text) => html("option", { value }, text);
    const streams = [...new Set(parts.map((p) => p.stream))], audio = streams.some((s) => s.startsWith("audio"));
    const names = new Map(parts.map((p) => [p.stream, p.name]));
    $("stream").append(option("", "all"), ...(audio ? [option("audio", "all codebooks")] : []), ...streams.map((s) => option(s, names.get(s))));
    $("sample").append(option("", "all"), ...[...new Set(parts.map((p) => p.sample))].map((s) => option(s, s)));
    $("finding").append(option("", "any or none"), ...data.findings.map((f, n) => option(n, f.label)));
    const counts = new Map();
    for (const part of parts) for (const kind of part.kind) counts.set(kind, (counts.get(kind) || 0) + 1);
    data.kinds.forEach((kind, n) => {
      if (!counts.has(n)) return;
      const box = html("input", { type: "checkbox", value: kind.id, id: `kind-${kind.id}` });
      $("kinds").append(html("label", { class: `chip k-${kind.id}`, title: kind.help }, box,
        html("span", { class: "sign", "aria-hidden": "true" }, kind.sign), kind.label, html("span", { class: "n" }, told(counts.get(n)))));
    });
    setDefaults();
    $("filters").addEventListener("change", filterChanged);
    $("filters").addEventListener("reset", (event) => {
      event.preventDefault();
      state.selected = null;
      clear();
      filterChanged();
    });
    $("next").addEventListener("click", () => jump(1));
    $("previous").addEventListener("click", () => jump(-1));
    $("segment").addEventListener("click", nextSegment);
    document.addEventListener("keydown", (event) => {
      if (event.target.closest("input, select, textarea") || event.altKey || event.ctrlKey || event.metaKey) return;
      if (event.key === "n") jump(1);
      if (event.key === "p") jump(-1);
      if (event.key === "s") nextSegment();
    });
    window.addEventListener("hashchange", () => follow());
    let width = window.innerWidth;
    window.addEventListener("resize", () => {
      if (window.innerWidth !== width) { width = window.innerWidth; cards().forEach((c) => c.draw()); }
    });
  }

  // ---------------------------------------------------------------- in a notebook's frame a link would lead to the notebook

  if (location.protocol === "about:") {
    document.addEventListener("click", (event) => {
      const hash = event.target.closest('a[href^="#"]')?.getAttribute("href");
      if (!hash) return;
      event.preventDefault();
      document.getElementById(hash.slice(1))?.scrollIntoView();
      if (parts.length) follow(hash);
    });
  }

  // ---------------------------------------------------------------- what is wider than the window says so

  for (const box of document.querySelectorAll(".scroll, .frame, main pre")) {
    const note = html("p", { class: "sideways", "aria-hidden": "true" }, "scrolls sideways →");
    const tell = () => {
      const more = box.scrollWidth - box.clientWidth - box.scrollLeft > 1;
      box.classList.toggle("cut", more);
      note.hidden = box.scrollWidth - box.clientWidth <= 1;
      if (!note.hidden) box.tabIndex = 0;
    };
    box.after(note);
    box.addEventListener("scroll", tell, { passive: true });
    new ResizeObserver(tell).observe(box);
  }

  if (!parts.length) return;
  setUp();
  for (const part of parts) part.start = Math.max(0, part.kind.findIndex((k) => data.kinds[k].id !== "none") - 2);
  const lead = data.findings[data.lead];
  if (lead && parts.some((part) => part.row.some((_, i) => belongs(lead, part, i)))) $("finding").value = data.lead;
  filterChanged();
  follow();
})();
