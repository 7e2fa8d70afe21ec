"""Makes `published_variants.npz`: every constructor option of the published networks, in PyTorch.

    python tests/reference/published_variants.py

The networks of Kamb & Ganguli (2025) as their code defines them, in evaluation mode and float64:
weights drawn at random, inputs and outputs. So that the file is small, weights are float16 and
those of a network one after the other. PyTorch 2.13.
"""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

UNET = {"kind": "unet", "channels": 1, "fsizes": [4, 4], "mode": "zeros", "emb_dim": 4}
RESNET = {"kind": "resnet", "channels": 1, "emb_dim": 8, "mode": "zeros", "num_layers": 1}
CLASSES = {"conditional": True, "num_classes": 3}
GROUP, BATCH = {"normalization": "GroupNorm"}, {"normalization": "BatchNorm"}
VARIANTS = {
    "unet": UNET,
    "unet_circular": UNET | {"mode": "circular"},
    "unet_channels": UNET | {"channels": 2},
    "unet_three_levels": UNET | {"fsizes": [4, 4, 8]},
    "unet_conditional": UNET | CLASSES,
    "unet_kernel_5": UNET | {"kernel_size": 5},
    "unet_kernel_2": UNET | {"kernel_size": 2},
    "unet_last_kernel_3": UNET | {"lastksize": 3},
    "unet_last_kernel_4_circular": UNET | {"lastksize": 4, "mode": "circular"},
    "unet_group": UNET | GROUP,
    "unet_group_32": UNET | GROUP | {"fsizes": [4, 64], "kernel_size": 1},
    "unet_group_last": UNET | GROUP | {"last_norm": True, "lastksize": 3},
    "unet_batch": UNET | BATCH,
    "unet_batch_circular": UNET | BATCH | {"mode": "circular", "kernel_size": 5},
    "unet_batch_last": UNET | BATCH | {"last_norm": True, "lastksize": 3},
    "unet_batch_last_conditional": UNET | BATCH | CLASSES | {"last_norm": True, "mode": "circular"},
    "unet_last_without_norm": UNET | {"last_norm": True},
    "resnet": RESNET,
    "resnet_circular": RESNET | {"mode": "circular"},
    "resnet_channels": RESNET | {"channels": 2},
    "resnet_two_layers": RESNET | {"num_layers": 2},
    "resnet_conditional": RESNET | CLASSES,
    "resnet_kernel_5": RESNET | {"kernel_size": 5},
    "resnet_kernel_2": RESNET | {"kernel_size": 2},
    "resnet_last_kernel_3": RESNET | {"lastksize": 3},
    "resnet_group": RESNET | GROUP,
    "resnet_batch": RESNET | BATCH,
    "resnet_add_none": RESNET | {"add_one": False},
    "resnet_group_add_none": RESNET | GROUP | CLASSES | {"add_one": False, "mode": "circular"},
}


class Weights(dict):
    """A state dict that draws each tensor when it is first asked for."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def draw(self, name, *shape, positive=False):
        values = self.rng.standard_normal(shape) / max(np.prod(shape[1:]), 1) ** 0.5
        self[name] = np.float16(abs(values) + 0.1 if positive else values)
        return torch.tensor(self[name], dtype=torch.float64)

    def affine(self, name, outputs, *inputs):
        return self.draw(f"{name}.weight", outputs, *inputs), self.draw(f"{name}.bias", outputs)


def conv(weights, name, x, outputs, side, mode):
    before = (side - 1) // 2
    pads = (before, side - 1 - before) * 2
    x = F.pad(x, pads, mode="circular") if mode == "circular" else F.pad(x, pads)
    return F.conv2d(x, *weights.affine(name, outputs, x.shape[1], side, side))


def linear(weights, name, x, outputs):
    return F.linear(x, *weights.affine(name, outputs, x.shape[1]))


def group_norm(weights, name, x, groups):
    return F.group_norm(x, groups, *weights.affine(name, x.shape[1]))


def unet_norm(weights, name, x, normalization):
    channels = x.shape[1]
    if normalization == "GroupNorm":
        return group_norm(weights, name, x, min(32, channels))
    mean = weights.draw(f"{name}.running_mean", channels)
    variance = weights.draw(f"{name}.running_var", channels, positive=True)
    weights[f"{name}.num_batches_tracked"] = np.float16(7)
    return F.batch_norm(x, mean, variance, *weights.affine(name, channels))


def embedding(weights, t, label, config):
    half = config["emb_dim"] // 2
    angles = t[:, None] / 10000 ** (torch.arange(half, dtype=torch.float64) / (half - 1))
    vector = torch.cat([angles.sin(), angles.cos()], dim=1)
    if label is None:
        return vector
    classes = "embedding.class_embeddings.weight"
    return vector + weights.draw(classes, config["num_classes"], config["emb_dim"])[label]


def per_pixel(vector):
    return vector[:, :, None, None]


def resnet(weights, config, t, x, label):
    width, mode, side = config["emb_dim"], config["mode"], config.get("kernel_size", 3)
    normalized = config.get("normalization") is not None
    vector = embedding(weights, t, label, config)

    def shift(i):
        return per_pixel(
            F.relu(
                group_norm(weights, f"embs.{i}.1", linear(weights, f"embs.{i}.0", vector, width), 8)
            )
        )

    h = conv(weights, "up_projection", x, width, side, mode)
    for i in range(config["num_layers"]):
        inner = conv(weights, f"convs.{i}.0", h + shift(i), width, side, mode)
        if normalized:
            inner = group_norm(weights, f"convs.{i}.1", inner, 8)
        h = h + F.relu(inner)
    h = h + shift(config["num_layers"]) if config.get("add_one", True) else 2 * h
    last = "down_projection"
    if normalized:
        h, last = group_norm(weights, "down_projection.0", h, 8), "down_projection.1"
    return conv(weights, last, h, config["channels"], config.get("lastksize", 1), mode)


def unet(weights, config, t, x, label):
    sizes, mode, normalization = config["fsizes"], config["mode"], config.get("normalization")
    vector = embedding(weights, t, label, config)

    def block(name, x, outputs, side):
        x = x + per_pixel(linear(weights, f"{name}.emb.1", F.relu(vector), x.shape[1]))
        for i in range(2):
            place = i * (2 if normalization is None else 3)
            x = conv(weights, f"{name}.model.{place}", x, outputs, side, mode)
            if normalization is not None:
                x = unet_norm(weights, f"{name}.model.{place + 1}", x, normalization)
            x = F.relu(x)
        return x

    side, skips = config.get("kernel_size", 3), []
    for i, size in enumerate(sizes[:-1]):
        skips.append(block(f"feature_blocks.{i}", x, size, side))
        x = F.max_pool2d(skips[-1], 2)
    x = block("bottleneck", x, sizes[-1], side)
    for i, skip in enumerate(reversed(skips)):
        fine, coarse = skip.shape[1], x.shape[1]
        up = weights.draw(f"upsamples.{i}.weight", coarse, fine, 2, 2)
        x = F.conv_transpose2d(x, up, weights.draw(f"upsamples.{i}.bias", fine), stride=2)
        x = block(f"output_blocks.{i}", torch.cat([skip, x], dim=1), fine, 3)
    x = x + per_pixel(linear(weights, "last_emb.1", F.relu(vector), sizes[0]))
    if config.get("last_norm") and normalization is not None:  # else there is none to apply
        x = unet_norm(weights, "last_normalizer", x, normalization)
    return conv(weights, "output_conv", x, config["channels"], config.get("lastksize", 1), mode)


def main():
    arrays = {"configs": json.dumps(VARIANTS), "t": np.array([0.25, 0.75]), "label": [2, 0]}
    shapes = {}
    x = np.random.default_rng(0).standard_normal((2, 2, 8, 8)).astype(np.float16)
    arrays["x"] = x
    for seed, (name, config) in enumerate(VARIANTS.items()):
        weights = Weights(seed)
        label = torch.tensor(arrays["label"]) if config.get("conditional") else None
        images = torch.tensor(x[:, : config["channels"]], dtype=torch.float64)
        network = resnet if config["kind"] == "resnet" else unet
        arrays[f"{name}/y"] = network(
            weights, config, torch.tensor(arrays["t"]), images, label
        ).numpy()
        arrays[f"{name}/weights"] = np.concatenate([value.ravel() for value in weights.values()])
        shapes[name] = {key: np.shape(value) for key, value in weights.items()}
    arrays["shapes"] = json.dumps(shapes)
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **arrays)


if __name__ == "__main__":
    main()
