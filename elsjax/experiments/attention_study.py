"""What self-attention adds to a network, told by what no longer agrees with theory without it.

Samples of a network and of copies of it whose attention is even, from the same noise, are held
against those of a local machine and of the Wiener filter. Where attention is what makes a network
more than the machine, copies without it agree better with the machine: over the whole image, or
where the network attends to. (Kamb & Ganguli 2025, figure 6, has samples of such a network.)

The copies were not trained with even attention. What they lose is what a layer does in this
network; what a network without attention would lack, one that was trained without it can tell.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from elsjax import checks
from elsjax.experiments.attention import (
    attention_layers,
    attention_maps,
    foreground,
    with_mean_attention,
)
from elsjax.experiments.measures import known_median, local_means, pearson_r
from elsjax.experiments.mosaics.resumable_pieces import ResumablePieces
from elsjax.experiments.sampling import ResumableSampler
from elsjax.experiments.states import States
from elsjax.nn import AttentionUNet, Network
from elsjax.process.denoisers import Denoiser

MEASURES = ("r", "low_r", "high_r", "foreground_r", "background_r")
"""Pearson r of images; of their local means; of what these leave; where the network attends to more
than at its median pixel; and elsewhere."""
NETWORK = "network"
"""Name of the network itself among its variants."""

Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class AttentionStudy:
    """Samples of a network, of its variants and of machines, and how well they agree.

    Attributes:
      images: samples by name, [B, H, W, C]: the network and its variants, then machines.
      machines: names of the machines.
      layers: names of the network's attention layers.
      maps: attention that each pixel receives, mean over the steps, [L, B, H, W].
      agreement: of each network, by its name, that of a machine, or of the network for its
        variants, and one of `MEASURES`, [B]; NaN where it is undefined.
      pieces: number of pieces that explain each of the first images, [n], and the share of pixels
        that none covers, [n], by name; empty where none were counted.
    """

    images: Mapping[str, Float[np.ndarray, "b h w c"]]
    machines: tuple[str, ...]
    layers: tuple[str, ...]
    maps: Float[np.ndarray, "l b h w"]
    agreement: Mapping[str, Mapping[str, Mapping[str, Float[np.ndarray, " b"]]]]
    pieces: Mapping[str, tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]]

    def difference(self, name: str, target: str, measure: str = "r") -> Float[np.ndarray, " b"]:
        """How much better a variant agrees with a machine than the network does.

        Args:
          name: of the variant.
          target: name of the machine.
          measure: one of `MEASURES`.

        Returns:
          The differences, sample by sample, [B].

        Raises:
          ValueError: if a name is not known.
        """
        checks.one_of("name", name, tuple(self.agreement))
        checks.one_of("target", target, self.machines)
        checks.one_of("measure", measure, MEASURES)
        return self.agreement[name][target][measure] - self.agreement[NETWORK][target][measure]

    def summary(self) -> dict[str, list[dict[str, Any]]]:
        """Medians and their 95 % intervals, as JSON values: rows of agreement, and of pieces."""
        rows = []
        for name, by_target in self.agreement.items():
            for target, measures in by_target.items():
                for measure, values in measures.items():
                    row = {"name": name, "target": target, "measure": measure} | _summary(values)
                    if target in self.machines and name != NETWORK:
                        found = _summary(self.difference(name, target, measure))
                        row |= {f"difference_{key}": value for key, value in found.items()}
                    rows.append(row)
        pieces = [
            {"name": name, "pieces": _summary(counts.astype(float)), "uncovered": _summary(share)}
            for name, (counts, share) in self.pieces.items()
        ]
        return {"agreement": rows, "pieces": pieces}

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it as named arrays."""
        arrays = {f"images/{name}": images for name, images in self.images.items()}
        arrays |= dict(zip((f"attention/{name}" for name in self.layers), self.maps, strict=True))
        for name, by_target in self.agreement.items():
            for target, measures in by_target.items():
                for measure, values in measures.items():
                    arrays[f"{measure}/{name}/{target}"] = values
        for name, (counts, share) in self.pieces.items():
            arrays |= {f"pieces/{name}": counts, f"uncovered/{name}": share}
        return arrays


def attention_variants(
    network: AttentionUNet, without: Network | None = None
) -> dict[str, Network]:
    """A network, and what is left of it without attention.

    Args:
      network: the network.
      without: one that is the same without attention, trained so; None if there is none.

    Returns:
      By name: "network"; "without", if there is one; a copy in which one layer attends evenly to
      all places, for each layer, such as "mean-down-1"; and where there are more layers than one,
      "mean-all", in which all do.

    Raises:
      ValueError: if the network has no attention, or the one without has any.
    """
    layers = attention_layers(network)
    variants: dict[str, Network] = {NETWORK: network}
    if without is not None:
        if isinstance(without, AttentionUNet) and without.attention_levels:
            raise ValueError(
                f"without has attention: attention_levels={without.attention_levels}; expected ()"
            )
        variants["without"] = without
    for number, layer in enumerate(layers):
        variants[f"mean-{layer}"] = with_mean_attention(network, (number,))
    if len(layers) > 1:
        variants["mean-all"] = with_mean_attention(network)
    return variants


def study_attention(
    network: AttentionUNet,
    variants: Mapping[str, Denoiser],
    machines: Mapping[str, Denoiser],
    sampler: ResumableSampler,
    times: Float[np.ndarray, " states"],
    *,
    pieces: ResumablePieces | None = None,
    num_pieces: int = 0,
    states: States | None = None,
    progress: Progress | None = None,
) -> AttentionStudy:
    """Draws the samples of all from the same noise, and compares them.

    Args:
      network: the network, whose attention is mapped.
      variants: the network, as "network", and its variants, as `attention_variants` has them.
      machines: denoisers that predict the network, by name.
      sampler: draws samples, by "ddim".
      times: time grid, falling, [S + 1].
      pieces: counts pieces; needed where num_pieces is not 0.
      num_pieces: of so many samples of each, the first, pieces are counted.
      states: keeps maps, so that an interrupted study goes on; None to keep none.
      progress: called with what is done, how much of it, and of how much.

    Returns:
      What was found.

    Raises:
      ValueError: if an argument is not as described.
      FloatingPointError: if a sample is not finite.
    """
    layers = attention_layers(network)
    denoisers = {**variants, **machines}
    if NETWORK not in variants or len(denoisers) != len(variants) + len(machines):
        raise ValueError(
            f"variants={tuple(variants)} must hold {NETWORK!r} and no name of "
            f"machines={tuple(machines)}"
        )
    num_pieces = checks.integer("num_pieces", num_pieces, 0, len(sampler.noise))
    if num_pieces and pieces is None:
        raise ValueError(f"pieces=None, but num_pieces={num_pieces}")
    for denoiser in denoisers.values():
        sampler.check(denoiser, times)
    states = States() if states is None else states
    images = {}
    for name, denoiser in denoisers.items():
        tell = None if progress is None else _named(progress, name)
        images[name] = sampler.sample(name, denoiser, times, progress=tell).images
        if not np.isfinite(images[name]).all():
            raise FloatingPointError(f"a sample of {name} is not finite")
    maps = _process_maps(network, variants[NETWORK], sampler, times, states)
    counted = {}
    if pieces is not None and num_pieces:
        tell = None if progress is None else _named(progress, "pieces")
        counted = _count_pieces(pieces, images, sampler, num_pieces, tell)
    ahead = foreground(maps.mean(0))
    agreement = {
        name: {
            target: agreement_by_measure(images[name], images[target], ahead)
            for target in (*machines, NETWORK)
            if name != target
        }
        for name in variants
    }
    return AttentionStudy(images, tuple(machines), layers, maps, agreement, counted)


def agreement_by_measure(
    images: Float[np.ndarray, "b h w c"],
    target: Float[np.ndarray, "b h w c"],
    ahead: Bool[np.ndarray, "b h w"],
) -> dict[str, Float[np.ndarray, " b"]]:
    """How well images agree with others, by each of `MEASURES`.

    Args:
      images: [B, H, W, C].
      target: what they are compared with, [B, H, W, C].
      ahead: which pixels are foreground, [B, H, W].

    Returns:
      The measures, [B] each; NaN where one is undefined.
    """
    low, of_target = local_means(images), local_means(target)
    values = (
        pearson_r(images, target),
        pearson_r(low, of_target),
        pearson_r(images - low, target - of_target),
        _masked_r(images, target, ahead),
        _masked_r(images, target, ~ahead),
    )
    return {name: np.asarray(of_name) for name, of_name in zip(MEASURES, values, strict=True)}


def _masked_r(
    images: Float[np.ndarray, "b h w c"],
    target: Float[np.ndarray, "b h w c"],
    mask: Bool[np.ndarray, "b h w"],
) -> Float[np.ndarray, " b"]:
    """Pearson r over some pixels of each image; NaN where there are none."""
    return np.array(
        [
            float(pearson_r(one[seen][None], other[seen][None])[0]) if seen.any() else np.nan
            for one, other, seen in zip(images, target, mask, strict=True)
        ]
    )


def _process_maps(
    network: AttentionUNet,
    sampled: Denoiser,
    sampler: ResumableSampler,
    times: Float[np.ndarray, " states"],
    states: States,
) -> Float[np.ndarray, "l b h w"]:
    """Maps of attention, mean over the steps of the network's own process.

    The process is run again, batch by batch: beside the machines it costs next to nothing.
    """
    height, width = sampler.noise.shape[1:3]
    found = []
    for batch in sampler.batches:
        x = sampler.noise[batch]
        label = None if sampler.label is None else sampler.label[batch]
        shape = (len(attention_layers(network)), len(x), height, width)
        new = {"maps": np.zeros(shape, np.float32)}
        name = f"attention-{batch.start}"
        state = states.load(name, new, lambda state: bool((state["maps"] >= 0).all()))
        if state is new:
            maps = [attention_maps(network, x, times[0], label)]
            for step in sampler.steps(sampled, times, batch, x, 0):
                if step.index + 2 < len(times):
                    maps.append(attention_maps(network, np.asarray(step.x), step.s, label))
            state = {"maps": np.stack(maps).mean(0)}
            states.save(name, state)
        found.append(state["maps"])
    return np.concatenate(found, axis=1)


def _count_pieces(
    pieces: ResumablePieces,
    images: Mapping[str, Float[np.ndarray, "b h w c"]],
    sampler: ResumableSampler,
    count: int,
    progress: Callable[[int, int], None] | None,
) -> dict[str, tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]]:
    """Number of pieces of the first images of each, and the share that none covers."""
    label = None if sampler.label is None else sampler.label[:count]
    found = pieces.of_all(
        {name: of_name[:count] for name, of_name in images.items()},
        dict.fromkeys(images, label),
        progress,
    )
    return {
        name: (
            np.array([one.count for one in by_tolerance[0]]),
            np.array([one.uncovered.mean() for one in by_tolerance[0]]),
        )
        for name, by_tolerance in found.items()
    }


def _summary(values: Float[np.ndarray, " b"]) -> dict[str, Any]:
    """Median of the values that are defined, its interval, and how many are not."""
    median, interval = known_median(values)
    undefined = int(np.isnan(values).sum())
    return {"median": median, "interval": interval, "num_undefined": undefined}


def _named(progress: Progress, name: str) -> Callable[[int, int], None]:
    """The part of a callback that is about a name."""
    return lambda done, total: progress(name, done, total)
