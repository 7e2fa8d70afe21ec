"""The page of a mosaic: which training pixels each pixel of a sample comes from."""

import dataclasses
import html
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import ArrayLike, Float, Int, UInt8

from elsjax import checks
from elsjax.experiments.measures import pearson_r
from elsjax.experiments.mosaics.mosaic import Mosaic
from elsjax.pages.packing import packed, packed_size, significant, thousandths
from elsjax.pages.templates import asset, config_html, page, script_json
from elsjax.pages.words import MACHINES
from elsjax.pixels import to_float, to_uint8

PAGE_SIZE = 5_000_000
"""Bytes of a page."""

_ASSETS = {
    "style": ("page.css", "mosaic.css"),
    "script": ("mosaic-data.js", "mosaic-drawing.js", "mosaic-views.js", "mosaic.js"),
}
_LEAST_SHARE_OF_IMAGES = 0.25  # of a page whose one sample leaves less
_SIZED_IMAGES = 256
_OTHER_BYTES = 50_000  # at most, of a page: titles, names, times; and errors of the estimate


def mosaic_page(
    mosaic: Mosaic,
    images: ArrayLike,
    *,
    labels: ArrayLike | None = None,
    class_names: Sequence[str] | None = None,
    network: Float[ArrayLike, "b h w c"] | None = None,
    title: str,
    config: dict[str, Any],
    page_size: int = PAGE_SIZE,
) -> list[str]:
    """Pages that show a mosaic step by step, each one file that needs nothing else.

    Of the training images, those are in a page that pixels come from. Where one sample and these
    are too much for a page, the images of the least weight are left out, and the page says so.

    Args:
      mosaic: what is shown, of B samples.
      images: training images of the machine, [N, H, W, C], uint8 or in [-1, 1]. Of other numbers
        of channels than 1 and 3 the mean is shown.
      labels: class of each, [N].
      class_names: of the classes, by their number.
      network: what a network drew from the same noise, [B, H, W, C] in [-1, 1].
      title: of the pages.
      config: the configuration of the run. Its "machine", if any, is the kind of the machine, and
        its "wrap_patches" as `ScoreMachine` has it: how windows lie at the border.
      page_size: bytes of a page, about; that of a single sample may be larger.

    Returns:
      HTML; `page_name` tells the files by which the pages link to each other.

    Raises:
      ValueError: if an argument is not as described.
    """
    page_size = checks.positive_int("page_size", page_size)
    shown = _checked(mosaic, images, labels, class_names, network, title, config)
    groups = _groups(shown, page_size)
    return [_page(shown, groups, number) for number in range(len(groups))]


def page_name(number: int) -> str:
    """The file of a page, from 0: mosaic.html, mosaic-2.html, ..."""
    return "mosaic.html" if number == 0 else f"mosaic-{number + 1}.html"


@dataclasses.dataclass(frozen=True)
class _Shown:
    """What the pages show, checked; arrays as NumPy's, images with one or three channels.

    Attributes:
      mosaic: of B samples.
      pixels: training images, [N, H, W, C].
      labels: of these, [N].
      class_names: of the classes.
      network: images, [B, H, W, C].
      similarity: Pearson's r of samples and network, [B]; NaN where it is undefined.
      title: of the pages.
      config: of the run.
    """

    mosaic: Mosaic
    pixels: UInt8[np.ndarray, "n h w c"]
    labels: Int[np.ndarray, " n"] | None
    class_names: tuple[str, ...] | None
    network: Float[np.ndarray, "b h w c"] | None
    similarity: Float[np.ndarray, " b"] | None
    title: str
    config: dict[str, Any]

    @property
    def num_samples(self) -> int:
        """B."""
        return len(self.mosaic.left_out)


@dataclasses.dataclass(frozen=True)
class _Group:
    """The samples of a page, and the training images that their pixels come from.

    Attributes:
      samples: their numbers, [b].
      images: numbers of the images, [m]; the first are in the page.
      num_packed: how many are.
    """

    samples: Int[np.ndarray, " b"]
    images: Int[np.ndarray, " m"]
    num_packed: int


def _checked(
    mosaic: Mosaic,
    images: ArrayLike,
    labels: ArrayLike | None,
    class_names: Sequence[str] | None,
    network: ArrayLike | None,
    title: str,
    config: dict[str, Any],
) -> _Shown:
    checks.instance("mosaic", mosaic, Mosaic, "elsjax.mosaic(...)")
    images = checks.training_images("images", images)
    sides = list(mosaic.states.shape[2:])
    if list(images.shape[1:]) != sides:
        raise ValueError(f"images has shape {list(images.shape)}; expected [N, *{sides}]")
    most = max(int(np.max(mosaic.top.image)), int(np.max(mosaic.left_out)))
    if most >= len(images):
        raise ValueError(f"images has {len(images)} images, but pixels come from number {most}")
    if labels is not None:
        labels = checks.class_labels("labels", labels, len(images))
    if class_names is not None:
        class_names = _checked_names(class_names, labels, mosaic.label)
    similarity = None
    if network is not None:
        network = np.asarray(checks.array("network", network))
        if network.shape != mosaic.samples.shape:
            raise ValueError(
                f"network has shape {list(network.shape)}; expected {list(mosaic.samples.shape)}"
            )
        checks.finite("network", network)
        similarity = np.asarray(pearson_r(np.asarray(mosaic.samples), network))
        network = _visible(network)
    checks.instance("title", title, str, "'A title'")
    config_html(config)
    pixels = images if images.dtype == np.uint8 else to_uint8(images)
    if pixels.shape[3] not in (1, 3):
        pixels = to_uint8(_visible(to_float(pixels)))
    return _Shown(mosaic, pixels, labels, class_names, network, similarity, title, config)


def _checked_names(
    class_names: Sequence[str],
    labels: Int[np.ndarray, " n"] | None,
    of_samples: ArrayLike | None,
) -> tuple[str, ...]:
    """The names; raises ValueError unless every class has one."""
    if isinstance(class_names, str) or not all(isinstance(name, str) for name in class_names):
        raise ValueError(f"class_names={class_names!r} must be a sequence of names")
    used = [np.asarray(found) for found in (labels, of_samples) if found is not None]
    for found in used:
        if found.min() < 0 or found.max() >= len(class_names):
            raise ValueError(
                f"class_names has {len(class_names)} names; expected one for each of the classes "
                f"{found.min()} to {found.max()}"
            )
    return tuple(class_names)


def _visible(images: ArrayLike) -> np.ndarray:
    """Images with the channels that are shown: one or three as they are, of others the mean."""
    images = np.asarray(images)
    return images if images.shape[-1] in (1, 3) else images.mean(-1, keepdims=True)


def _groups(shown: _Shown, page_size: int) -> list[_Group]:
    """Divides the samples into pages of a size."""
    steps = np.linspace(0, len(shown.pixels) - 1, _SIZED_IMAGES).astype(int)
    sized = shown.pixels[np.unique(steps)]
    of_image = packed_size({"pixels": sized}) / len(sized)
    files = (*_ASSETS["style"], *_ASSETS["script"], "page.html", "mosaic.html")
    fixed = sum(len(asset(name)) for name in files)
    room = page_size - fixed - len(config_html(shown.config)) - _OTHER_BYTES
    sizes = []
    for b in range(shown.num_samples):
        sizes.append(packed_size(_arrays(shown, _group(shown, [b], len(shown.pixels)))))
    groups: list[list[int]] = []
    for b in range(shown.num_samples):
        together = [*groups[-1], b] if groups else []
        count = len(_sources(shown, together)) if together else 0
        if together and sum(sizes[i] for i in together) + count * of_image <= room:
            groups[-1] = together
        else:
            groups.append([b])
    found = []
    for samples in groups:
        left = room - sum(sizes[b] for b in samples)
        most = int(max(left, _LEAST_SHARE_OF_IMAGES * page_size) / of_image)
        found.append(_group(shown, samples, most))
    return found


def _sources(shown: _Shown, samples: Sequence[int]) -> Int[np.ndarray, " m"]:
    """Numbers of the training images that pixels of the samples come from, ascending."""
    image = np.asarray(shown.mosaic.top.image)[:, np.asarray(samples)]
    found = np.union1d(image, np.asarray(shown.mosaic.left_out)[np.asarray(samples)])
    return found[found >= 0]


def _group(shown: _Shown, samples: Sequence[int], most: int) -> _Group:
    """The samples of a page, with so many images at most."""
    images = _sources(shown, samples)
    if len(images) > most:
        top = shown.mosaic.top
        image, weight = (np.asarray(a)[:, np.asarray(samples)] for a in (top.image, top.weight))
        total = np.bincount(image[image >= 0], weight[image >= 0], len(shown.pixels))
        left_out = np.asarray(shown.mosaic.left_out)[np.asarray(samples)]
        total[left_out[left_out >= 0]] = np.inf
        order = np.argsort(-total[images], kind="stable")
        images = images[np.concatenate([np.sort(order[:most]), np.sort(order[most:])])]
    return _Group(np.asarray(samples), images, min(most, len(images)))


def _arrays(shown: _Shown, group: _Group) -> dict[str, np.ndarray]:
    """What a page holds of its samples, by name, [b, S, ...]; numbers are rounded as shown."""
    mosaic, chosen = shown.mosaic, group.samples

    def taken(array: Any) -> np.ndarray:  # [S, B, ...] to [b, S, ...]
        return np.moveaxis(np.asarray(array)[:, chosen], 1, 0)

    # The k of a pixel lie apart: what neighbours share is packed better so.
    weight, image, row, column = (
        np.moveaxis(taken(getattr(mosaic.top, name)), -1, 2)
        for name in ("weight", "image", "row", "column")
    )
    place = np.zeros(len(shown.pixels) + 1, np.min_scalar_type(len(group.images)))
    place[group.images] = np.arange(len(group.images))
    place[-1] = len(group.images)  # of -1, none
    height, width = image.shape[-2:]
    arrays = {
        "states": thousandths(_visible(taken(mosaic.states))),
        "x0": thousandths(_visible(taken(mosaic.x0))),
        "weight": thousandths(weight),
        "rest": thousandths(np.maximum(1 - weight.sum(2, dtype=np.float64), 0)),
        "image": place[image],
        "down": (row - np.arange(height)[:, None]).astype(np.int16),
        "right": (column - np.arange(width)).astype(np.int16),
        "number": significant(taken(mosaic.effective_number), 3),
        "entropy": np.round(taken(mosaic.entropy), 2).astype(np.float32),
        "repainted": thousandths(_visible(np.asarray(mosaic.repainted)[chosen])),
    }
    if shown.network is not None:
        arrays["network"] = thousandths(shown.network[chosen])
    return arrays


def _page(shown: _Shown, groups: list[_Group], number: int) -> str:
    group, mosaic = groups[number], shown.mosaic
    arrays = _arrays(shown, group)
    arrays["pixels"] = shown.pixels[group.images[: group.num_packed]]
    arrays["numbers"] = group.images.astype(np.int32)
    if shown.labels is not None:
        arrays["labels"] = shown.labels[group.images]
    index, data = packed(arrays)
    kind = shown.config.get("machine")
    about = {
        "arrays": index,
        "times": [float(str(t)) for t in np.asarray(mosaic.times)],
        "windows": np.asarray(mosaic.windows).tolist(),
        "samples": [_about_sample(shown, group, b) for b in group.samples.tolist()],
        "classes": shown.class_names,
        "wraps": kind == "els",
        "sourceWraps": kind == "els" and bool(shown.config.get("wrap_patches")),
    }
    machine = MACHINES.get(kind) if isinstance(kind, str) else None
    return page(
        "mosaic.html",
        title=html.escape(shown.title),
        **{place: "\n".join(map(asset, names)) for place, names in _ASSETS.items()},
        machine="" if machine is None else f"<p><b>{machine.name}.</b> {machine.sentence}</p>",
        pages=_pages(groups, number),
        missing=_missing(group),
        config=config_html(shown.config),
        about=script_json(about),
        data=data,
    )


def _about_sample(shown: _Shown, group: _Group, b: int) -> dict[str, Any]:
    """What a page knows of a sample beside arrays."""
    mosaic = shown.mosaic
    left_out = np.flatnonzero(group.images == int(mosaic.left_out[b])).tolist()
    r = None
    if shown.similarity is not None and np.isfinite(shown.similarity[b]):
        r = f"{shown.similarity[b]:.2f}"
    return {
        "number": b + 1,
        "label": None if mosaic.label is None else int(mosaic.label[b]),
        "leftOut": left_out[0] if left_out else None,
        "changed": int(mosaic.changed[b]),
        "r": r,
    }


def _pages(groups: list[_Group], number: int) -> str:
    """Links to all pages; "" if there is but one."""
    if len(groups) == 1:
        return ""
    count = sum(len(group.samples) for group in groups)
    links = []
    for other, group in enumerate(groups):
        first, last = group.samples[0] + 1, group.samples[-1] + 1
        said = f"{first}" if first == last else f"{first}–{last}"
        current = ' aria-current="page"' if other == number else ""
        links.append(f'<a href="{page_name(other)}"{current}>{said}</a>')
        if other == number:
            here = f"sample{'' if first == last else 's'} {said} of {count}"
    return f'<nav aria-label="Pages"><p>This page: {here}. All: {" ".join(links)}</p></nav>'


def _missing(group: _Group) -> str:
    """What is left out of a page; "" if nothing is."""
    missing = len(group.images) - group.num_packed
    if not missing:
        return ""
    return (
        f"<p>To keep this page small, {missing:,} of the {len(group.images):,} training images "
        "that occur are not in it, those that give least. Their numbers are.</p>"
    )
