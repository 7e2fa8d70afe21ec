"""The definitions of the score machines, transcribed pixel by pixel in NumPy float64."""

import numpy as np


def denoise(kind, images, x, alpha, sigma, window=None, wrap_patches=False):
    """E[x_0 | x_t = x] for one noisy image x [H, W, C] and training images [N, H, W, C]."""
    images, x = np.asarray(images, np.float64), np.asarray(x, np.float64)
    height, width, _ = x.shape
    if kind in ("is", "es"):
        shifts = [(0, 0)]
        if kind == "es":
            shifts = [(i, j) for i in range(height) for j in range(width)]
        entries = [np.roll(image, shift, (0, 1)) for image in images for shift in shifts]
        return _softmax_mean(x, np.stack(entries), np.stack(entries), alpha, sigma)
    reach = window // 2
    x_padding = "wrap" if kind == "els" else "constant"
    y_padding = "wrap" if wrap_patches else "constant"
    margins = ((reach, reach), (reach, reach), (0, 0))
    x_padded = np.pad(x, margins, x_padding)
    padded = [np.pad(image, margins, y_padding) for image in images]
    x0 = np.empty_like(x)
    for i in range(height):
        for j in range(width):
            places = [
                (r, s)
                for r in _places(kind, i, height, reach, wrap_patches)
                for s in _places(kind, j, width, reach, wrap_patches)
            ]
            patches = [image[r : r + window, s : s + window] for image in padded for r, s in places]
            centres = [image[r, s] for image in images for r, s in places]
            query = x_padded[i : i + window, j : j + window]
            x0[i, j] = _softmax_mean(query, np.stack(patches), np.stack(centres), alpha, sigma)
    return x0


def _places(kind, coordinate, length, reach, wrap_patches):
    """Where, along one axis, the patches that paint a coordinate have their centres."""
    interior = range(reach, length - reach)
    if kind == "ls" or (kind == "bbels" and coordinate not in interior):
        return [coordinate]
    return range(length) if wrap_patches else interior


def _softmax_mean(query, keys, values, alpha, sigma):
    squares = ((query - alpha * keys) ** 2).reshape(len(keys), -1).sum(1)
    weights = np.exp(-(squares - squares.min()) / (2 * sigma**2))
    return np.tensordot(weights / weights.sum(), values, 1)
