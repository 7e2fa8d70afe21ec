// Colours, pictures { rows, columns, rgba }, and elements that hold them.

// ---- Colours, as [red, green, blue] from 0 to 255 ---------------------------------------------

// Okabe and Ito: seven that the colour-blind can tell apart.
const APART = [[230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0], [204, 121, 167]];
const GREYS = [70, 100, 130, 160].map((level) => [level, level, level]);
const VIRIDIS = [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129], [92, 200, 99], [170, 220, 50], [253, 231, 37]];
const DIVERGING = [[0, 90, 181], [120, 170, 220], [245, 245, 245], [240, 150, 110], [190, 50, 0]];

function along(stops, share) {
  const place = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const first = Math.min(Math.floor(place), stops.length - 2), rest = place - first;
  return stops[first].map((value, c) => value + rest * (stops[first + 1][c] - value));
}

// Direction as hue, distance, from 0 to 1, as darkness.
function directed(down, right, share) {
  const root = Math.sqrt(Math.min(share, 1)), angle = Math.atan2(down, right);
  const L = 0.96 - 0.46 * root, C = 0.16 * root, [a, b] = [C * Math.cos(angle), C * Math.sin(angle)];
  const [l, m, s] = [[0.3963377774, 0.2158037573], [-0.1055613458, -0.0638541728], [-0.0894841775, -1.291485548]]
    .map(([u, v]) => (L + u * a + v * b) ** 3); // Oklab
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ].map((v) => 255 * Math.min(Math.max(v <= 0.0031308 ? 12.92 * v : 1.055 * v ** (1 / 2.4) - 0.055, 0), 1));
}

// ---- Pictures: { rows, columns, rgba } --------------------------------------------------------

function painted(rows, columns, colour) {
  const rgba = new Uint8ClampedArray(4 * rows * columns);
  for (let p = 0; p < rows * columns; p++) {
    const [red, green, blue, opacity = 255] = colour(p);
    rgba.set([red, green, blue, opacity], 4 * p);
  }
  return { rows, columns, rgba };
}

const byPixel = (colour) => painted(height, width, colour);

// An image of numbers, each scaled to 0..255.
function ofNumbers(numbers, scaled) {
  return byPixel((p) => [0, 1, 2].map((c) => scaled(numbers[p * channels + (channels === 3 ? c : 0)])));
}

const grey = (thousandths) => ((thousandths / 1000 + 1) / 2) * 255;
const ofThousandths = (numbers) => ofNumbers(numbers, grey);
const ofTraining = (local) => ofNumbers(part("pixels", local), (value) => value);
const ofSample = (b) => ofThousandths(part("states", b, numSteps));

// Draws rows and columns of a picture, with a mark around one pixel or a part.
function draw(canvas, picture, rows, columns, mark) {
  const cell = Math.max(1, Math.round(240 / Math.max(rows.length, columns.length)));
  canvas.width = columns.length * cell;
  canvas.height = rows.length * cell;
  const small = new ImageData(columns.length, rows.length);
  rows.forEach((i, y) => columns.forEach((j, x) => {
    const from = 4 * (i * picture.columns + j);
    small.data.set(picture.rgba.subarray(from, from + 4), 4 * (y * columns.length + x));
  }));
  const context = canvas.getContext("2d");
  enlarge(context, small);
  if (mark) outline(context, mark.map((length) => length * cell), 10);
}

const range = (length) => Array.from({ length }, (_, index) => index);
const drawWhole = (canvas, picture, mark) => draw(canvas, picture, range(picture.rows), range(picture.columns), mark);

function enlarge(context, small) {
  const { width: columns, height: rows } = small, buffer = new OffscreenCanvas(columns, rows);
  buffer.getContext("2d").putImageData(small, 0, 0);
  context.imageSmoothingEnabled = false;
  context.clearRect(0, 0, context.canvas.width, context.canvas.height);
  context.drawImage(buffer, 0, 0, context.canvas.width, context.canvas.height);
}

// A frame [left, top, wide, high] that is seen on any ground, inside the canvas.
function outline(context, [left, top, wide, high], thick) {
  const { canvas } = context;
  const inside = thick / 2;
  const x = Math.max(left - inside, inside), y = Math.max(top - inside, inside);
  const right = Math.min(left + wide + inside, canvas.width - inside);
  const bottom = Math.min(top + high + inside, canvas.height - inside);
  for (const [colour, share] of [["#000", 1], ["#ffb000", 0.5]]) {
    context.strokeStyle = colour;
    context.lineWidth = thick * share;
    context.strokeRect(x, y, right - x, bottom - y);
  }
}

// Coordinates that a window covers along an axis.
function covered(centre, side, length, wraps) {
  if (!side) return range(length);
  const half = (side - 1) / 2;
  if (wraps) return moved(centre - half, length).slice(0, side);
  const first = Math.max(centre - half, 0);
  return range(Math.min(centre + half, length - 1) - first + 1).map((i) => i + first);
}

// All coordinates of an axis, moved around.
const moved = (by, length) => range(length).map((i) => (((i + by) % length) + length) % length);

// Coordinates as runs [first, length].
function runs(coordinates) {
  const found = [];
  for (const one of coordinates) {
    const last = found.at(-1);
    if (last && last[0] + last[1] === one) last[1]++;
    else found.push([one, 1]);
  }
  return found;
}

// ---- Elements ---------------------------------------------------------------------------------

const byId = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function makePicture(label, picture, mark) {
  const canvas = make("canvas", { role: "img", ariaLabel: label });
  if (picture) drawWhole(canvas, picture, mark);
  return canvas;
}

function trainingPicture(local) {
  if (local < numPacked) return makePicture(imageName(local), ofTraining(local));
  return make("span", { className: "absent", textContent: "not in this page" });
}

function figure(canvas, caption) {
  return make("figure", {}, canvas, make("figcaption", { textContent: caption }));
}

// A bar of colours between two words.
function bar(stops, from, to) {
  const canvas = makePicture(`Colours from ${from} to ${to}`, painted(1, 240, (p) => along(stops, p / 239)));
  return [make("div", { className: "bar" }, make("span", { textContent: from }), canvas, make("span", { textContent: to }))];
}
