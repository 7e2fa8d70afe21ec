"""Mosaics of arbitrary numbers, and pages of them taken apart."""

import base64
import gzip
import html.parser
import json

import numpy as np

from elsjax.experiments.mosaics.mosaic import Mosaic
from elsjax.posterior.answers import Top


def mosaic(samples=2, steps=3, size=(5, 8), channels=3, top=3, images=20, labels=True, seed=0):
    """A mosaic of arbitrary numbers; the last source of some pixels is missing."""
    rng = np.random.default_rng(seed)
    per_pixel = (steps, samples, *size)
    weight = np.sort(rng.dirichlet(np.full(top + 1, 0.5), per_pixel)[..., :top])[..., ::-1]
    sources = [rng.integers(0, n, (*per_pixel, top)) for n in (images, *size)]
    if top > 1:
        missing = rng.random(per_pixel) < 0.1
        for of_sources, value in zip([weight, *sources], (0, -1, -1, -1), strict=True):
            of_sources[missing, -1] = value
    of_states = rng.normal(0, 1, (steps + 1, samples, *size, channels))
    return Mosaic(
        times=np.linspace(1, 0, steps + 1).astype(np.float32),
        windows=np.array([2 * (steps - s) + 1 for s in range(steps)]),
        states=of_states.astype(np.float32),
        x0=rng.uniform(-1, 1, (*per_pixel, channels)).astype(np.float32),
        top=Top(weight.astype(np.float32), *[s.astype(np.int32) for s in sources]),
        effective_number=np.exp(rng.uniform(0, 12, per_pixel)).astype(np.float32),
        entropy=rng.uniform(0, 12, per_pixel).astype(np.float32),
        label=np.arange(samples) % 3 if labels else None,
        left_out=sources[0][-1, :, 0, 0, 0],
        repainted=rng.uniform(-1, 1, (samples, *size, channels)).astype(np.float32),
    )


def training_images(number=20, size=(5, 8), channels=3):
    return np.random.default_rng(9).integers(0, 256, (number, *size, channels), np.uint8)


class Parsed(html.parser.HTMLParser):
    """Tags of a page with their attributes, and the text of scripts, in order."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.scripts, self.text = [], {}, ""
        self._script = None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag == "script":
            self._script = attributes.get("id", "code")
            self.scripts[self._script] = ""

    def handle_endtag(self, tag):
        if tag == "script":
            self._script = None

    def handle_data(self, data):
        if self._script is None:
            self.text += data
        else:
            self.scripts[self._script] += data


def unpacked(page):
    """What a page knows of its mosaic, and its arrays by name."""
    scripts = Parsed(page).scripts
    about = json.loads(scripts["about"])
    content = gzip.decompress(base64.b64decode(scripts["data"]))
    arrays = {}
    for name, entry in about["arrays"].items():
        count, dtype = int(np.prod(entry["shape"])), np.dtype(entry["type"]).newbyteorder("<")
        found = np.frombuffer(content, dtype, count, entry["start"])
        arrays[name] = found.reshape(entry["shape"])
    return about, arrays
