"""The definitions of the denoisers, transcribed pixel by pixel in NumPy float64."""

import numpy as np


def denoise(kind, images, x, alpha, sigma, window=None, wrap_patches=False):
    """E[x_0 | x_t = x] for one noisy image x [H, W, C] and training images [N, H, W, C]."""
    images, x = np.asarray(images, np.float64), np.asarray(x, np.float64)
    x0 = np.empty_like(x)
    for pixel, query, keys, sources in entries(kind, images, x, window, wrap_patches):
        weights = np.exp(_logits(query, keys, alpha, sigma))
        x0[pixel] = np.tensordot(weights / weights.sum(), images[tuple(sources.T)], 1)
    return x0


def denoise_pspc(images, x, alpha, sigma, side):
    """The mean over all crops that cover a pixel, for one noisy image x [H, W, C]."""
    images, x = np.asarray(images, np.float64), np.asarray(x, np.float64)
    total, covering = np.zeros_like(x), np.zeros((*x.shape[:2], 1))
    for i in range(x.shape[0] - side + 1):
        for j in range(x.shape[1] - side + 1):
            crop = (slice(i, i + side), slice(j, j + side))
            weights = np.exp(_logits(x[crop], images[:, *crop], alpha, sigma))
            total[crop] += np.tensordot(weights / weights.sum(), images[:, *crop], 1)
            covering[crop] += 1
    return total / covering


def locality_mask(images, alpha, sigma, threshold, normalized_by):
    """M [D, D] of PCA locality, row j of the estimate at j; from an inverse, so for sigma > 0."""
    rows = np.asarray(images, np.float64).reshape(len(images), -1)
    covariance = alpha**2 * np.cov(rows.T, bias=True)
    size = rows.shape[1]
    filtered = covariance @ np.linalg.inv(covariance + sigma**2 * np.eye(size))
    relative = np.zeros((size, size))
    for j in range(size):
        for i in range(size):
            own = {"output": j, "input": i}[normalized_by]
            if filtered[own, own] >= 1e-8:
                relative[j, i] = abs(filtered[j, i]) / filtered[own, own]
    least = threshold * relative.max()
    return (relative >= least) & (relative > 0) | np.eye(size, dtype=bool)


def denoise_pca_locality(images, x, alpha, sigma, threshold, normalized_by="output"):
    """The mean at each pixel of what its mask lets it see, for one noisy image x [H, W, C]."""
    rows = np.asarray(images, np.float64).reshape(len(images), -1)
    mask = locality_mask(images, alpha, sigma, threshold, normalized_by)
    x0 = np.empty(x.size)
    for j, seen in enumerate(mask):
        weights = np.exp(_logits(x.ravel()[seen], rows[:, seen], alpha, sigma))
        x0[j] = weights @ rows[:, j] / weights.sum()
    return x0.reshape(x.shape)


def ranked(kind, images, x, alpha, sigma, window=None, wrap_patches=False):
    """Sources [K, 3] of each pixel's entries, the largest weight first, equal ones by source."""
    images, x = np.asarray(images, np.float64), np.asarray(x, np.float64)
    found = {}
    for pixel, query, keys, sources in entries(kind, images, x, window, wrap_patches):
        logits = _logits(query, keys, alpha, sigma)
        falling = np.argsort(-logits)
        level = np.empty(len(logits), int)  # equal ones differ by rounding
        level[falling] = np.cumsum(np.diff(-logits[falling], prepend=-np.inf) > 1e-8)
        found[pixel] = sources[np.lexsort((*sources.T[::-1], level))]
    return found


def entries(kind, images, x, window=None, wrap_patches=False):
    """For each pixel (i, j) its query, keys [K, ...] and their sources [K, 3]."""
    height, width, _ = x.shape
    pixels = [(i, j) for i in range(height) for j in range(width)]
    if kind in ("is", "es"):
        shifts = np.array(pixels if kind == "es" else [(0, 0)])
        keys = np.stack([np.roll(image, shift, (0, 1)) for image in images for shift in shifts])
        numbers = np.repeat(np.arange(len(images)), len(shifts))
        for pixel in pixels:
            places = np.tile((np.array(pixel) - shifts) % (height, width), (len(images), 1))
            yield pixel, x, keys, np.column_stack([numbers, places])
        return
    reach = window // 2
    margins = ((reach, reach), (reach, reach), (0, 0))
    x = np.pad(x, margins, "wrap" if kind == "els" else "constant")
    padded = [np.pad(image, margins, "wrap" if wrap_patches else "constant") for image in images]
    for i, j in pixels:
        sources = [
            (n, r, c)
            for n in range(len(images))
            for r in _places(kind, i, height, reach, wrap_patches)
            for c in _places(kind, j, width, reach, wrap_patches)
        ]
        keys = np.stack([padded[n][r : r + window, c : c + window] for n, r, c in sources])
        yield (i, j), x[i : i + window, j : j + window], keys, np.array(sources)


def _places(kind, coordinate, length, reach, wrap_patches):
    """Where, along one axis, the patches that paint a coordinate have their centres."""
    interior = range(reach, length - reach)
    if kind == "ls" or (kind == "bbels" and coordinate not in interior):
        return [coordinate]
    return range(length) if wrap_patches else interior


def _logits(query, keys, alpha, sigma):
    """-|x - alpha y|² / 2 sigma², less the largest."""
    squares = ((query - alpha * keys) ** 2).reshape(len(keys), -1).sum(1)
    return (squares.min() - squares) / (2 * sigma**2)


def lower_bounds(images, x, alpha, pool):
    """Squared coarse distances of training images to x, and lower bounds of the squared ones."""
    coarse, bounds = [], []
    parts = [_pooled(np.asarray(x, np.float64), pool)]
    for image in np.asarray(images, np.float64):
        parts.append(_pooled(image, pool))
        (x_means, x_rest), (means, rest) = parts[0], parts[-1]
        coarse.append(((x_means - alpha * means) ** 2).sum())
        apart = np.linalg.norm(x_rest) - alpha * np.linalg.norm(rest)
        bounds.append(coarse[-1] + apart**2)
    return np.array(coarse), np.array(bounds)


def _pooled(image, pool):
    """An image with every block replaced by its mean, and what is left."""
    means = np.empty_like(image)
    for i in range(0, image.shape[0], pool):
        for j in range(0, image.shape[1], pool):
            block = np.s_[i : i + pool, j : j + pool]
            means[block] = image[block].mean((0, 1))
    return means, image - means
