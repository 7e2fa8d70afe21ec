// What can be seen of a sample: paint gives a picture, caption a sentence, legend elements. With
// same, the pixels of the chosen pixel's source image are outlined.

const ofMosaic = {}; // of the sample shown: what takes time to find

function findOfMosaic() {
  const last = heaviest(numSteps - 1), pixelsOf = new Map();
  last.image.forEach((image, p) => { if (isClear(last, p)) pixelsOf.set(image, (pixelsOf.get(image) ?? 0) + 1); });
  const order = [...pixelsOf].sort(([a, m], [b, n]) => n - m || a - b);
  ofMosaic.colourOf = new Map(order.slice(0, APART.length).map(([image], rank) => [image, APART[rank]]));
  ofMosaic.since = commitment();
  ofMosaic.mostNumber = part("number", now.sample).reduce((most, one) => (Number.isFinite(one) ? Math.max(most, one) : most), 1);
  ofMosaic.farthest = 0;
  for (let step = 0; step < numSteps; step++) {
    const { image, down, right } = heaviest(step);
    for (let p = 0; p < numPixels; p++) if (isThere(image[p])) ofMosaic.farthest = Math.max(ofMosaic.farthest, Math.hypot(down[p], right[p]));
  }
}

function colourOfImage(image) {
  const found = ofMosaic.colourOf.get(image);
  return found ?? (isThere(image) ? GREYS[(image * 7) % GREYS.length] : [0, 0, 0]);
}

// A colour where the source is clear; else faint.
const faintUnlessClear = (there, p, colour) => (isClear(there, p) ? colour : [...colour, 70]);

function sourceCaption() {
  const there = heaviest(now.step), clear = there.image.filter((_, p) => isClear(there, p));
  const faint = numPixels - clear.length;
  const pieces = clear.length ? `${count(countPieces(there), "piece")} from ${count(new Set(clear).size, "training image")}` : "";
  const rest = faint ? `${count(faint, "pixel")}, faint, with no source of half the weight` : "";
  return `${[pieces, rest].filter(Boolean).join("; ")}.`;
}

function sourceLegend() {
  const there = heaviest(now.step);
  const items = [...ofMosaic.colourOf].map(([local, colour]) => {
    const swatch = make("i");
    swatch.style.background = `rgb(${colour})`;
    const number = there.image.reduce((sum, one, p) => sum + (one === local && isClear(there, p)), 0);
    return make("li", {}, swatch, trainingPicture(local),
      make("span", { textContent: `${inSentence(local)}: ${count(number, "pixel")}` }));
  });
  return items.length ? [make("ul", {}, ...items)] : [];
}

function offsetLegend() {
  if (!ofMosaic.farthest) return [make("p", { textContent: "Every pixel comes from its own place in the training images." })];
  const side = 112, middle = (side - 1) / 2, most = decimals(ofMosaic.farthest, 0);
  const wheel = painted(side, side, (p) => {
    const down = (Math.floor(p / side) - middle) / middle, right = ((p % side) - middle) / middle;
    return directed(down, right, Math.hypot(down, right));
  });
  for (let p = 0; p < side * side; p++) {
    if (Math.hypot(Math.floor(p / side) - middle, (p % side) - middle) > middle) wheel.rgba[4 * p + 3] = 0;
  }
  const words = ["up", "left", "right", "down"].map((word) => {
    const element = make("span", { textContent: word });
    element.style.gridArea = word;
    return element;
  });
  const canvas = makePicture(`Wheel of colours: direction as hue, distance as darkness, from 0 in the middle to ${most} pixels at the rim`, wheel);
  return [make("p", { textContent: `White in the middle: the same place. At the rim: ${most} pixels away.` }),
    make("div", { className: "wheel" }, canvas, ...words)];
}

function withoutLegend() {
  const { leftOut } = about.samples[now.sample];
  if (leftOut === null) return [];
  const before = part("states", now.sample, numSteps), after = part("repainted", now.sample);
  const change = byPixel((p) => along(DIVERGING, 0.5 + difference(after, before, p) / 2));
  return [make("div", { className: "row" },
    figure(trainingPicture(leftOut), `left out: ${inSentence(leftOut)}`),
    figure(makePicture("The sample with it", ofThousandths(before)), "with it"),
    figure(makePicture("The sample without it", ofThousandths(after)), "without it"),
    figure(makePicture("What changed: blue is darker, red brighter", change), "change: blue darker, red brighter"))];
}

// Mean over the channels of a - b.
function difference(a, b, p) {
  let sum = 0;
  for (let c = p * channels; c < (p + 1) * channels; c++) sum += Math.min(Math.max(a[c], -1000), 1000) - Math.min(Math.max(b[c], -1000), 1000);
  return sum / channels / 1000;
}

const GROUPS = ["Picture", "Sources", "Comparison"];
const NOTHING = () => [];
const VIEWS = {
  state: {
    group: 0, name: "Noisy image", title: "Noisy image x_t", legend: NOTHING,
    paint: () => ofThousandths(part("states", now.sample, now.step)),
    caption: () => `What the machine is given at t = ${time(now.step)}.`,
  },
  x0: {
    group: 0, name: "Estimate", title: "Estimate of the clean image", legend: NOTHING,
    paint: () => ofThousandths(part("x0", now.sample, now.step)),
    caption: () => `What the machine takes for the image behind the noise at t = ${time(now.step)}: at each pixel, the weighted mean of its sources.${isLast() ? " That of the last step is the sample." : ""}`,
  },
  sample: {
    group: 0, name: "Sample", title: "Sample", legend: NOTHING,
    paint: () => ofSample(now.sample),
    caption: () => `The picture that the machine ends with, at t = ${time(numSteps)}.`,
  },
  source: {
    group: 1, name: "Source image", title: "Source image of each pixel", legend: sourceLegend, same: true,
    paint: () => { const there = heaviest(now.step); return byPixel((p) => faintUnlessClear(there, p, colourOfImage(there.image[p]))); },
    caption: () => `The training image that each pixel comes from: in colour those that give most in the end, grey all others. ${sourceCaption()}`,
  },
  offset: {
    group: 1, name: "Offset", title: "Offset of each pixel's source", legend: offsetLegend, same: true,
    paint: () => {
      const there = heaviest(now.step), { down, right } = there, most = ofMosaic.farthest || 1;
      return byPixel((p) => faintUnlessClear(there, p, directed(down[p], right[p], Math.hypot(down[p], right[p]) / most)));
    },
    caption: () => `How far each pixel was moved: direction as hue, distance as darkness. ${sourceCaption()}`,
  },
  number: {
    group: 1, name: "Effective number", title: "Effective number of patches",
    paint: () => {
      const numbers = part("number", now.sample, now.step), most = Math.log(ofMosaic.mostNumber) || 1;
      return byPixel((p) => (Number.isFinite(numbers[p]) ? along(VIRIDIS, Math.log(numbers[p]) / most) : [0, 0, 0]));
    },
    caption: () => "How many training patches share in each pixel, on a logarithmic scale; 1 is a copy.",
    legend: () => bar(VIRIDIS, "1", threeDigits(ofMosaic.mostNumber)),
  },
  commitment: {
    group: 1, name: "Commitment time", title: "Commitment time",
    paint: () => byPixel((p) => along(VIRIDIS, ofMosaic.since[p] / Math.max(numSteps - 1, 1))),
    caption: () => "From when on each pixel's heaviest source is the one of the last step.",
    legend: () => bar(VIRIDIS, `t = ${time(0)}`, `t = ${time(numSteps - 1)}`),
  },
  network: {
    group: 2, name: "Network", title: "The network's image", legend: NOTHING,
    paint: () => ofThousandths(part("network", now.sample)),
    caption: () => `What a trained network draws from the same noise. ${correlation()}`,
  },
  difference: {
    group: 2, name: "Sample − network", title: "Sample − network",
    paint: () => {
      const [a, b] = [part("states", now.sample, numSteps), part("network", now.sample)];
      return byPixel((p) => along(DIVERGING, 0.5 + difference(a, b, p) / 2));
    },
    caption: () => `Where the machine paints darker (blue) or brighter (red) than the network. ${correlation()}`,
    legend: () => bar(DIVERGING, "−1", "1"),
  },
  without: {
    group: 2, name: "Without one image", title: "Without the image that gave most", legend: withoutLegend, pieces: false,
    paint: () => ofThousandths(part("repainted", now.sample)),
    caption: () => {
      const { leftOut, changed } = about.samples[now.sample];
      if (leftOut === null) return "There is no other training image to paint with.";
      return `The same noise without ${inSentence(leftOut)}, which gave most: ${changed.toLocaleString("en")} of ${numPixels.toLocaleString("en")} pixels change.`;
    },
  },
};

const isLast = () => now.step === numSteps - 1 && about.times[numSteps] === 0;

function correlation() {
  const { r } = about.samples[now.sample];
  return r === null ? "Their correlation is undefined." : `Pearson's r of the two is ${minus(r)}.`;
}
