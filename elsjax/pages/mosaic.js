// The page: the picture, the panel beside it, and what one does with them.

// ---- The picture ------------------------------------------------------------------------------

let cell = 1; // side of a pixel of the sample, in pixels of the canvas

function fit() {
  const room = byId("stage").clientWidth;
  const tall = Math.max(0.64 * innerHeight, 260);
  const side = Math.min(room / width, tall / height) * devicePixelRatio;
  cell = Math.max(1, Math.floor(side));
  const canvas = byId("picture");
  canvas.width = width * cell;
  canvas.height = height * cell;
  canvas.style.width = `${Math.min(room, canvas.width / devicePixelRatio)}px`;
}

function showPicture() {
  const canvas = byId("picture"), context = canvas.getContext("2d"), view = VIEWS[now.view];
  const there = heaviest(now.step);
  enlarge(context, new ImageData(view.paint().rgba, width, height));
  if (now.pieces && view.pieces !== false) {
    const sameClear = (p, q) => isClear(there, p) === isClear(there, q);
    const samePiece = (p, q) => sameClear(p, q) && (!isClear(there, p) || sameSource(there, p, there, q));
    borders(context, (p, q) => !samePiece(p, q), "#fff");
  }
  const chosen = now.row * width + now.column;
  if (view.same && isClear(there, chosen)) {
    const same = (p) => isClear(there, p) && there.image[p] === there.image[chosen];
    borders(context, (p, q) => same(p) !== same(q), "#ff4fd8");
  }
  const side = about.windows[now.step], thick = 4 * Math.max(1, Math.round(devicePixelRatio));
  for (const [top, high] of runs(covered(now.row, side, height, about.wraps))) {
    for (const [left, wide] of runs(covered(now.column, side, width, about.wraps))) {
      outline(context, [left, top, wide, high].map((length) => length * cell), thick);
    }
  }
  outline(context, [now.column, now.row, 1, 1].map((length) => length * cell), thick + (now.pinned ? thick / 2 : 0));
  canvas.ariaLabel = `${view.title}, ${height} by ${width} pixels; choose a pixel with the arrow keys`;
}

// Lines between neighbouring pixels that are apart.
function borders(context, apart, colour) {
  const path = new Path2D();
  for (let p = 0; p < numPixels; p++) {
    const x = (p % width) * cell, y = Math.floor(p / width) * cell;
    if ((p + 1) % width && apart(p, p + 1)) { path.moveTo(x + cell, y); path.lineTo(x + cell, y + cell); }
    if (p + width < numPixels && apart(p, p + width)) { path.moveTo(x, y + cell); path.lineTo(x + cell, y + cell); }
  }
  context.lineCap = "square";
  for (const [ink, thick] of [["#000", 2.6], [colour, 1.2]]) {
    context.strokeStyle = ink;
    context.lineWidth = thick * devicePixelRatio;
    context.stroke(path);
  }
}

// ---- The panel --------------------------------------------------------------------------------

const rowsOfPanel = []; // one for each source

function makePanel() {
  for (let k = 0; k < numSources; k++) {
    const row = {
      patch: make("canvas", { role: "img" }), whole: make("canvas", { role: "img" }),
      absent: make("span", { className: "absent", textContent: "not in this page", hidden: true }),
      weight: make("p", { className: "weight" }), share: make("div"),
      image: make("p", { className: "image" }), place: make("p", { className: "place" }), offset: make("p", { className: "offset" }),
    };
    row.item = make("li", {}, row.patch, row.whole, row.absent, make("div", {}, row.weight, make("div", { className: "share" }, row.share), row.image, row.place, row.offset));
    byId("sources").append(row.item);
    rowsOfPanel.push(row);
  }
}

function showPanel() {
  const { row, column } = now, p = row * width + column, side = about.windows[now.step];
  byId("place").textContent = `Row ${row}, column ${column}, at t = ${time(now.step)}`;
  byId("free").hidden = !now.pinned;
  const state = part("states", now.sample, now.step), x0 = part("x0", now.sample, now.step);
  const rows = covered(row, side, height, about.wraps), columns = covered(column, side, width, about.wraps);
  const seen = byId("window"), estimate = byId("estimate");
  draw(seen, ofThousandths(state), rows, columns, [columns.indexOf(column), rows.indexOf(row), 1, 1]);
  seen.ariaLabel = `Noisy image in the ${windowName(now.step)} around the pixel`;
  draw(estimate, ofThousandths(x0), [row], [column]);
  estimate.ariaLabel = "Estimate of the pixel";
  const values = (numbers) => Array.from(numbers.subarray(p * channels, (p + 1) * channels), (v) => decimals(v / 1000, 3)).join(", ");
  showValues({
    "noisy": values(state),
    "estimate": values(x0),
    "effective number": threeDigits(part("number", now.sample, now.step)[p]),
    "entropy": `${decimals(part("entropy", now.sample, now.step)[p], 2)} nats`,
    "committed at": `t = ${time(ofMosaic.since[p])}`,
  });
  const found = sourcesOf(row, column);
  rowsOfPanel.forEach((entry, k) => {
    entry.item.hidden = k >= found.length;
    if (k < found.length) showSource(entry, found[k], side);
  });
  byId("rest").textContent = `All others together: ${percent(part("rest", now.sample, now.step)[p])}`;
}

function showValues(values) {
  const pairs = Object.entries(values).map(([name, value]) =>
    make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value })));
  byId("values").replaceChildren(...pairs);
}

function showSource(entry, source, side) {
  const packed = source.image < numPacked, name = imageName(source.image);
  entry.patch.hidden = entry.whole.hidden = !packed;
  entry.absent.hidden = packed;
  entry.weight.textContent = percent(source.weight);
  entry.share.style.width = `${source.weight / 10}%`;
  entry.image.textContent = name;
  entry.place.textContent = `row ${source.row}, column ${source.column}`;
  entry.offset.textContent = offsetName(source);
  if (!packed) return;
  const picture = ofTraining(source.image);
  // Of a whole image: as it was moved, so that source and pixel meet.
  const rows = side ? covered(source.row, side, height, about.sourceWraps) : moved(source.down, height);
  const columns = side ? covered(source.column, side, width, about.sourceWraps) : moved(source.right, width);
  draw(entry.patch, picture, rows, columns, [columns.indexOf(source.column), rows.indexOf(source.row), 1, 1]);
  entry.patch.ariaLabel = `Window of ${name}, with the pixel that is copied`;
  const inOnePiece = side && runs(rows).length === 1 && runs(columns).length === 1;
  drawWhole(entry.whole, picture, inOnePiece ? [columns[0], rows[0], columns.length, rows.length] : [source.column, source.row, 1, 1]);
  entry.whole.ariaLabel = `${name}, with ${inOnePiece ? "the window" : "the pixel"} in it`;
}

// What a screen reader is told of the pixel.
let telling;
function tell() {
  clearTimeout(telling);
  telling = setTimeout(() => {
    const [first] = sourcesOf(now.row, now.column);
    const source = first
      ? `${percent(first.weight)} from ${inSentence(first.image)}, row ${first.row}, column ${first.column}`
      : "no source";
    byId("live").textContent = `Row ${now.row}, column ${now.column}${now.pinned ? ", pinned" : ""}: ${source}`;
  }, 200);
}

// ---- What changes -----------------------------------------------------------------------------

function show() {
  const view = VIEWS[now.view];
  byId("shown").textContent = view.title;
  byId("caption").textContent = view.caption();
  byId("legend").replaceChildren(...view.legend());
  const words = `Step ${now.step + 1} of ${numSteps}, t = ${time(now.step)}, ${windowName(now.step)}`;
  byId("when").textContent = words;
  byId("step").value = now.step;
  byId("step").ariaValueText = words;
  showPicture();
  showPanel();
}

function showPixel() {
  showPicture();
  showPanel();
}

function goTo(step) {
  now.step = Math.min(Math.max(step, 0), numSteps - 1);
  show();
}

function choose(row, column) {
  now.row = Math.min(Math.max(row, 0), height - 1);
  now.column = Math.min(Math.max(column, 0), width - 1);
  showPixel();
}

function pin(pinned) {
  now.pinned = pinned;
  showPixel();
  tell();
}

let playing = null;

function pause() {
  clearTimeout(playing);
  playing = null;
  byId("play").textContent = "Play";
}

function play() {
  if (playing !== null) return pause();
  if (now.step === numSteps - 1) goTo(0);
  const wait = matchMedia("(prefers-reduced-motion: reduce)").matches ? 1200 : 400;
  const on = () => {
    goTo(now.step + 1);
    if (now.step < numSteps - 1) playing = setTimeout(on, wait);
    else pause();
  };
  byId("play").textContent = "Pause";
  playing = setTimeout(on, wait);
}

// The brightest pixel of the last estimate, as the first to be explained.
function chooseSample(b) {
  now.sample = b;
  findOfMosaic();
  const x0 = part("x0", b, numSteps - 1);
  let most = 0;
  for (let p = 0; p < numPixels; p++) if (x0[p * channels] > x0[most * channels]) most = p;
  if (!now.pinned) [now.row, now.column] = [Math.floor(most / width), most % width];
  show();
}

// ---- What one does ----------------------------------------------------------------------------

function radio(name, value, checked, ...content) {
  const input = make("input", { type: "radio", name, value, checked });
  return make("label", {}, input, make("span", {}, ...content));
}

function makeChoice() {
  byId("samples").hidden = about.samples.length === 1;
  about.samples.forEach(({ number, label }, b) => {
    const canvas = make("canvas", { ariaHidden: "true" });
    drawWhole(canvas, ofSample(b));
    const words = `${number}${label === null ? "" : ` · ${className(label)}`}`;
    byId("samples").append(radio("sample", b, b === 0, canvas, words));
  });
  byId("samples").addEventListener("change", (event) => chooseSample(Number(event.target.value)));
  GROUPS.forEach((title, group) => {
    const box = make("fieldset", {}, make("legend", { textContent: title }));
    for (const [id, view] of Object.entries(VIEWS)) {
      const there = arrays.network || !["network", "difference"].includes(id);
      if (view.group === group && there) box.append(radio("view", id, id === now.view, view.name));
    }
    byId("views").append(box);
  });
  byId("views").addEventListener("change", (event) => { now.view = event.target.value; show(); });
  byId("pieces").addEventListener("change", (event) => { now.pieces = event.target.checked; showPicture(); });
}

function followPointer() {
  const canvas = byId("picture");
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [
      Math.floor(((event.clientY - box.top) / box.height) * height),
      Math.floor(((event.clientX - box.left) / box.width) * width),
    ].map((at, axis) => Math.min(Math.max(at, 0), (axis ? width : height) - 1));
  };
  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerType === "touch" || now.pinned) return;
    const [row, column] = place(event);
    if (row !== now.row || column !== now.column) choose(row, column);
  });
  canvas.addEventListener("click", (event) => {
    const [row, column] = place(event), same = row === now.row && column === now.column;
    choose(row, column);
    pin(!(now.pinned && same));
  });
  byId("free").addEventListener("click", () => { pin(false); canvas.focus({ preventScroll: true }); });
}

const MOVES = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

function onKey(event) {
  const { key, shiftKey, target } = event;
  if (event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented) return;
  const onPicture = target === byId("picture");
  if (key === "Escape") { if (now.pinned) pin(false); return; }
  if (!onPicture && target.closest("input, button, summary, a, pre")) return;
  const step = { ArrowLeft: now.step - 1, ArrowRight: now.step + 1, Home: 0, End: numSteps - 1 }[key];
  if (onPicture && key in MOVES && !shiftKey) {
    const [down, right] = MOVES[key];
    choose(now.row + down, now.column + right);
    tell();
  } else if (onPicture && key === "Enter") pin(!now.pinned);
  else if (key === " ") { if (numSteps > 1) play(); }
  else if (step !== undefined) { pause(); goTo(step); if (onPicture) tell(); }
  else return;
  event.preventDefault();
}

function begin() {
  [, numSteps, numSources, height, width] = arrays.weight.shape;
  channels = arrays.states.shape.at(-1);
  numPixels = height * width;
  numPacked = arrays.pixels.shape[0];
  now.step = numSteps - 1;
  byId("step").max = numSteps - 1;
  byId("step").disabled = byId("play").disabled = numSteps === 1;
  makeChoice();
  makePanel();
  byId("status").hidden = true;
  byId("viewer").hidden = false;
  fit();
  chooseSample(0);
  followPointer();
  byId("play").addEventListener("click", play);
  byId("step").addEventListener("input", (event) => { pause(); goTo(Number(event.target.value)); });
  document.addEventListener("keydown", onKey);
  addEventListener("resize", () => { fit(); showPicture(); });
}

try {
  arrays = await unpacked(about.arrays);
  begin();
} catch (error) {
  byId("status").textContent = `This page cannot be shown: ${error.message}. It needs a browser of 2023 or later.`;
  throw error;
}
