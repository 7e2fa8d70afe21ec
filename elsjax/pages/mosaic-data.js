// The mosaic of the page: its arrays, what is found in them, and numbers as words. First of four
// files that are one script. Axes: b samples of this page, s steps, k sources, rows, columns.

const TYPES = {
  uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array,
  int16: Int16Array, int32: Int32Array, float32: Float32Array,
};

async function unpacked(index) {
  const text = document.getElementById("data").textContent;
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(stream).arrayBuffer();
  const arrays = {};
  for (const [name, { type, shape, start }] of Object.entries(index)) {
    const size = shape.reduce((product, length) => product * length, 1);
    arrays[name] = { shape, data: new TYPES[type](buffer, start, size) };
  }
  return arrays;
}

const about = JSON.parse(document.getElementById("about").textContent);
let arrays;

// The part of an array at its first axes.
function part(name, ...places) {
  const { shape, data } = arrays[name];
  let size = data.length, start = 0;
  places.forEach((place, axis) => { size /= shape[axis]; start += place * size; });
  return data.subarray(start, start + size);
}

// What the page shows now.
const now = { sample: 0, step: 0, view: "x0", row: 0, column: 0, pinned: false, pieces: false };
let numSteps, numSources, height, width, channels, numPixels, numPacked;

// Names that are numbers need a word before them.
function className(label) {
  const name = about.classes ? about.classes[label] : `${label}`;
  return /^\d/.test(name) ? `class ${name}` : name;
}

function imageName(local) {
  const labels = arrays.labels ? ` · ${className(arrays.labels.data[local])}` : "";
  return `image ${arrays.numbers.data[local]}${labels}`;
}

const inSentence = (local) => imageName(local).replace(/ · (.*)/, " ($1)");
const isThere = (local) => local < arrays.numbers.data.length;

// The sources of a pixel at this step, heaviest first.
function sourcesOf(row, column) {
  const p = row * width + column, found = [];
  for (let k = 0; k < numSources; k++) {
    const at = (name) => part(name, now.sample, now.step, k)[p];
    const [image, down, right] = ["image", "down", "right"].map(at);
    if (isThere(image)) found.push({ image, down, right, row: row + down, column: column + right, weight: at("weight") });
  }
  return found;
}

// The heaviest source of each pixel at a step.
function heaviest(step) {
  const at = (name) => part(name, now.sample, step, 0);
  return { image: at("image"), down: at("down"), right: at("right"), weight: at("weight") };
}

function sameSource(one, p, other, q) {
  return one.image[p] === other.image[q] && one.down[p] === other.down[q] && one.right[p] === other.right[q];
}

// The step from which on each pixel's heaviest source is the last step's.
function commitment() {
  const last = heaviest(numSteps - 1), since = new Uint16Array(numPixels).fill(numSteps - 1);
  const steady = new Uint8Array(numPixels).fill(1);
  for (let step = numSteps - 2; step >= 0; step--) {
    const there = heaviest(step);
    for (let p = 0; p < numPixels; p++) {
      steady[p] &= sameSource(there, p, last, p);
      if (steady[p]) since[p] = step;
    }
  }
  return since;
}

// Whether a source has half of a pixel's weight; else none is meant more than others.
const isClear = (there, p) => there.weight[p] >= 500;

// Pieces: clear pixels side by side, in rows and columns, of one image and offset.
function countPieces(there) {
  const parent = Int32Array.from({ length: numPixels }, (_, p) => p);
  const root = (p) => { while (parent[p] !== p) p = parent[p] = parent[parent[p]]; return p; };
  let found = 0;
  const join = (p, q) => {
    if (!isClear(there, p) || !isClear(there, q) || !sameSource(there, p, there, q)) return;
    const [a, b] = [root(p), root(q)];
    if (a !== b) { parent[a] = b; found--; }
  };
  for (let p = 0; p < numPixels; p++) {
    if (isClear(there, p)) found++;
    if ((p + 1) % width) join(p, p + 1);
    if (p + width < numPixels) join(p, p + width);
  }
  return found;
}

// ---- Numbers ----------------------------------------------------------------------------------

const percent = (thousandths) => (thousandths === 0 ? "< 0.1 %" : `${(thousandths / 10).toFixed(1)} %`);
const time = (step) => `${Number(about.times[step].toPrecision(3))}`;
const minus = (text) => text.replace("-", "−");
const decimals = (value, digits) => minus(value.toFixed(digits));
const count = (number, word) => `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;

function threeDigits(value) {
  if (!Number.isFinite(value)) return "undefined";
  return value < 1000 ? value.toPrecision(3) : Number(value.toPrecision(3)).toLocaleString("en");
}

function windowName(step) {
  const side = about.windows[step];
  return side ? `window ${side} × ${side}` : "window: the whole image";
}

function offsetName({ down, right }) {
  const parts = [];
  if (down) parts.push(`${Math.abs(down)} ${down > 0 ? "down" : "up"}`);
  if (right) parts.push(`${Math.abs(right)} ${right > 0 ? "right" : "left"}`);
  return parts.length ? parts.join(", ") : "same place";
}
