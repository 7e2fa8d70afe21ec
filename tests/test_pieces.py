"""Pieces of an image, tiles of a mosaic and local consistency, against definitions in NumPy."""

import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from environment import REFERENCE
from small_inputs import IMAGES, PIXELS

import elsjax

with np.load(REFERENCE / "mosaics.npz") as archive:
    MOSAICS = dict(archive)
PICTURES = ("training", "composite", "shifted", "random")
KINDS = [("is", None), ("es", None), ("ls", 3), ("els", 3), ("bbels", 3), ("bbels", 5)]


def labels_of(kind, images, image, tolerance, window):
    """The set of labels that cover each pixel."""
    height, width, channels = image.shape
    half = np.array([height // 2, width // 2])
    found = {}
    for pixel, query, keys, sources in oracle.entries(kind, images, image, window):
        size = query.size
        if kind in ("ls", "bbels"):  # places outside the image are 0 in both
            inside = [
                min(p + window // 2, n - 1) - max(p - window // 2, 0) + 1
                for p, n in zip(pixel, (height, width), strict=True)
            ]
            size = inside[0] * inside[1] * channels
        squares = ((keys - query) ** 2).reshape(len(keys), -1).sum(1) / size
        offsets = sources[:, 1:] - pixel
        if kind in ("es", "els"):
            offsets = (offsets + half) % (height, width) - half
        labels = np.column_stack([sources[:, 0], offsets])[np.sqrt(squares) <= tolerance]
        found[pixel] = set(map(tuple, labels.tolist()))
    return found


def cover(kind, images, image, tolerance, window):
    """Labels in the order taken, and the number of the piece of each pixel."""
    left = labels_of(kind, images, image, tolerance, window)
    labels, piece = [], np.full(image.shape[:2], -1)
    while True:
        counts = {}
        for label in (label for of_pixel in left.values() for label in of_pixel):
            counts[label] = counts.get(label, 0) + 1
        if not counts:
            return labels, piece
        best = min(counts, key=lambda label: (-counts[label], label))
        for pixel in [pixel for pixel, of_pixel in left.items() if best in of_pixel]:
            piece[pixel] = len(labels)
            del left[pixel]
        labels.append(best)


def patchwork(rng, shape, count=6):
    """Smooth 8-bit images whose windows are often alike, and one made of parts of them."""
    images = rng.integers(0, 3, (count, *shape)) * 100
    images = (images + np.roll(images, 1, 1) + np.roll(images, 1, 2)) // 5
    image = np.where(np.arange(shape[1])[:, None] < shape[1] // 2, images[2], images[5])
    image[1:4, 2:5] = images[4, 2:5, 1:4]
    return images.astype(np.uint8), image.astype(np.uint8)


@pytest.mark.parametrize("data", ["mnist", "cifar10"])
def test_pieces_are_those_of_the_reference(data):
    for picture, image in zip(PICTURES, MOSAICS[f"{data}/cover/pixels"], strict=True):
        found = elsjax.fewest_pieces(image, MOSAICS[f"{data}/pixels"], window=3, tolerance=0.1)
        expected = {
            name: MOSAICS[f"{data}/cover/{picture}/{name}"]
            for name in ("labels", "covered", "uncovered_pixels", "in_place", "uncovered")
        }
        np.testing.assert_array_equal(found.labels, expected["labels"])
        np.testing.assert_array_equal(found.covered, expected["covered"])
        np.testing.assert_array_equal(found.uncovered, expected["uncovered_pixels"])
        assert found.uncovered_share == expected["uncovered"] / found.piece.size
        assert found.in_place_share == expected["in_place"] / found.piece.size


@pytest.mark.parametrize(("kind", "window"), KINDS)
def test_pieces_are_those_of_the_definition(kind, window):
    shape = (7, 6, 2) if kind in ("es", "els") else (6, 6, 1)
    images, image = patchwork(np.random.default_rng(3), shape)
    if kind == "is":
        image = images[5] + np.uint8(1)
    elif kind == "es":
        image = np.roll(images[5], (2, 3), (0, 1)) + np.uint8(1)
    labels, piece = cover(kind, images / 127.5 - 1, image / 127.5 - 1, 0.21, window)
    assert len(labels) >= (1 if window is None else 2)
    found = elsjax.fewest_pieces(image, images, window=window, tolerance=0.21, kind=kind)
    assert list(map(tuple, found.labels.tolist())) == labels
    np.testing.assert_array_equal(found.piece, piece)
    np.testing.assert_array_equal(found.covered, np.bincount(piece[piece >= 0]))


def test_pieces_do_not_depend_on_blocks():
    for noise in (0, 20):  # counts of 8-bit images, and of others
        images, image = patchwork(np.random.default_rng(5), (6, 6, 1))
        image = image / 127.5 - 1 + noise / 1000 * np.random.default_rng(6).normal(size=image.shape)
        found = elsjax.fewest_pieces(image, images, tolerance=0.2, memory_budget=1600)
        expected = elsjax.fewest_pieces(image, images, tolerance=0.2)
        assert found.count > 4
        np.testing.assert_array_equal(found.labels, expected.labels)
        np.testing.assert_array_equal(found.piece, expected.piece)


def test_images_that_wait_while_others_are_taken_are_counted_in_the_end():
    rng = np.random.default_rng(0)
    alike = rng.random((30, 6, 6, 1)) < np.linspace(0.2, 0.04, 30)[:, None, None, None]
    images = np.where(alike, 100, 200).astype(np.uint8)
    image = np.full((6, 6, 1), 100, np.uint8)
    labels, piece = cover("ls", images / 127.5 - 1, image / 127.5 - 1, 0.1, 1)
    assert len(labels) > 8
    found = elsjax.fewest_pieces(image, images, window=1, kind="ls", memory_budget=1)
    assert list(map(tuple, found.labels.tolist())) == labels
    np.testing.assert_array_equal(found.piece, piece)


@pytest.mark.parametrize(("kind", "window"), KINDS)
def test_a_training_image_is_one_piece_in_place(kind, window):
    options = {"window": window, "kind": kind, "wrap_patches": kind == "els"}
    images = 0.7 * IMAGES if kind == "ls" else PIXELS  # of no 8 bits, and of 8
    found = elsjax.fewest_pieces(images[4], images, tolerance=0, **options)
    assert found.labels.tolist() == [[4, 0, 0]]
    assert found.covered.tolist() == [36]
    assert not found.piece.any()
    assert (found.count, found.needed(), found.in_place_share) == (1, 1, 1)


def test_a_window_wider_than_the_image_leaves_every_pixel_in_place():
    image = np.concatenate([PIXELS[1, :, :3], PIXELS[3, :, 3:]], axis=1)
    assert elsjax.fewest_pieces(image, PIXELS, window=13, tolerance=0.01).count == 0
    found = elsjax.fewest_pieces(PIXELS[2], PIXELS, window=13, tolerance=0.01)
    assert found.labels.tolist() == [[2, 0, 0]]


def test_halves_of_two_images_are_two_pieces():
    image = np.concatenate([PIXELS[3, :, :2], PIXELS[1, :, 2:]], axis=1)
    found = elsjax.fewest_pieces(image, PIXELS, window=1, tolerance=0, kind="ls")
    # By LS and single pixels, each belongs to its half, but for those that are the same.
    assert found.labels.tolist() == [[1, 0, 0], [3, 0, 0]]
    expected = np.where((image == PIXELS[1])[..., 0], 0, 1)
    np.testing.assert_array_equal(found.piece, expected)
    assert found.in_place_share == 1


def test_a_shifted_image_is_one_piece_of_kinds_that_wrap():
    image = np.roll(PIXELS[3], (2, -1), (0, 1))
    whole = elsjax.fewest_pieces(image, PIXELS, window=None, tolerance=0, kind="es")
    assert whole.labels.tolist() == [[3, -2, 1]]
    assert whole.covered.tolist() == [36]
    # Windows of patches inside the training image: not of those that cross its border.
    local = elsjax.fewest_pieces(image, PIXELS, window=3, tolerance=0, kind="els")
    assert local.labels.tolist() == [[3, -2, 1]]
    assert local.covered.tolist() == [16]
    assert local.in_place_share == 0
    wrapped = elsjax.fewest_pieces(
        image, PIXELS, window=3, tolerance=0, kind="els", wrap_patches=True
    )
    assert wrapped.labels.tolist() == [[3, -2, 1]]
    assert wrapped.covered.tolist() == [36]
    assert elsjax.fewest_pieces(image, PIXELS, window=None, tolerance=0, kind="is").count == 0


def test_how_many_pieces_cover_a_share():
    piece = np.array([[0, 0], [1, -1]])
    found = elsjax.Pieces(np.array([[0, 0, 0], [1, 0, 1]]), np.array([2, 1]), piece)
    assert [found.needed(share) for share in (0, 0.5, 0.51, 0.75, 0.76)] == [0, 1, 2, 2, None]
    assert found.uncovered_share == 0.25
    assert found.in_place_share == 0.5
    with pytest.raises(ValueError, match=r"share=1.5 must lie in \[0, 1\]"):
        found.needed(1.5)


def test_a_tolerance_is_reached_by_a_difference_as_large():
    images, image = np.full_like(PIXELS, 100), np.full_like(PIXELS[0], 104)
    for tolerance in (4 / 127.5, np.float32(4 / 127.5)):
        assert elsjax.fewest_pieces(image, images, tolerance=tolerance).count == 1
    assert elsjax.fewest_pieces(image, images, tolerance=3.99 / 127.5).count == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tolerance": -0.1}, r"tolerance=-0.1 must lie in \[0, 2\]"),
        ({"tolerance": np.nan}, "tolerance=nan must lie in"),
        ({"tolerance": "0.1"}, "tolerance='0.1' must lie in"),
        ({"window": 4}, "window=4 must be an odd positive integer"),
        ({"window": None}, "window=None must be an odd positive integer"),
        ({"kind": "is"}, "window=3 must be None: kind='is' sees the whole image"),
        ({"kind": "els", "window": 7}, "window=7 must be at most 6 for kind='els'"),
        ({"wrap_patches": True}, "wrap_patches=True applies to kind='els' only"),
        ({"kind": "pca"}, "kind='pca' is not known; expected one of is, es, ls"),
        ({"memory_budget": 0}, "memory_budget=0 must be an integer of at least 1"),
        ({"image": PIXELS}, r"image has shape \[6, 6, 6, 1\]; expected \[6, 6, 1\], as images"),
        ({"image": PIXELS[0, ..., 0]}, r"image has shape \[6, 6\]; expected"),
        ({"image": np.where(IMAGES[0] > 0.9, np.nan, 0)}, "image must be finite"),
        ({"image": PIXELS[0].astype(int)}, "image has dtype int64; expected floating point"),
        ({"image": [[[0], [0]], [[0]]]}, "image, of type list, is no array"),
        ({"image": np.ma.masked_array(IMAGES[0], IMAGES[0] > 0)}, "image is a masked array"),
        ({"images": PIXELS[0]}, r"images has shape \[6, 6, 1\]; expected \[batch"),
        ({"images": PIXELS[:0]}, "images is empty"),
        ({"images": 2 * IMAGES}, "images has values from"),
    ],
)
def test_pieces_refuse(change, message):
    arguments = {"image": PIXELS[0], "images": PIXELS} | change
    image, images = arguments.pop("image"), arguments.pop("images")
    with pytest.raises(ValueError, match=message):
        elsjax.fewest_pieces(image, images, **arguments)


def test_an_image_of_another_scale_gives_a_warning():
    with pytest.warns(UserWarning, match="image in .* are of different scales"):
        elsjax.fewest_pieces(PIXELS[0].astype(float), PIXELS)


def top(sources, weight=1.0):
    """The likeliest source of each pixel, [B, H, W, 3] as (n, row, column)."""
    sources = jnp.asarray(sources)[..., None]
    weight = jnp.broadcast_to(jnp.asarray(weight), sources[..., 0, :].shape)
    return elsjax.Top(weight, sources[..., 0, :], sources[..., 1, :], sources[..., 2, :])


def in_place(number, height=3, width=4):
    rows, columns = np.mgrid[:height, :width]
    return np.stack([np.broadcast_to(number, rows.shape), rows, columns], axis=-1)


def test_tiles_are_joined_by_their_sides_only():
    image = np.array([[5, 5, 2, 5], [2, 2, 5, 5], [5, 2, 2, 5]])
    moved = in_place(5)
    moved[1:, :, 1] += 1
    found = elsjax.source_pieces(top([in_place(image), in_place(7), moved]))
    first = [[0, 0, 1, 2], [3, 3, 2, 2], [4, 3, 3, 2]]
    np.testing.assert_array_equal(found.tile[0], first)
    np.testing.assert_array_equal(found.tile[2], [[0] * 4, [1] * 4, [1] * 4])
    np.testing.assert_array_equal(found.count, [5, 1, 2])
    assert not found.ambiguous.any()


def test_a_source_of_less_than_half_the_weight_is_ambiguous():
    weight = np.full((1, 3, 4, 1), 0.5)
    weight[0, 1, 2] = 0.49
    found = elsjax.source_pieces(top([in_place(0)], weight))
    np.testing.assert_array_equal(np.argwhere(found.ambiguous), [[0, 1, 2]])
    assert found.count.tolist() == [1]


def test_tiles_of_a_machine():
    image = np.concatenate([PIXELS[1, :, :3], PIXELS[3, :, 3:]], axis=1)
    x = jnp.asarray(image[None] / 127.5 - 1)
    machine = elsjax.ScoreMachine("ls", PIXELS, window=1)
    found = elsjax.source_pieces(machine.posterior(x, 0.01, top=1, answers=()).top)
    np.testing.assert_array_equal(found.tile[0, :, :3], np.zeros((6, 3)))
    np.testing.assert_array_equal(found.tile[0, :, 3:], np.ones((6, 3)))


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (None, "top=None must be a Top, such as machine.posterior"),
        (top(in_place(0)), r"top.image has shape \[3, 4, 1\]; expected \[B, H, W, k\] of one step"),
        (top([[in_place(0)]]), r"top.image has shape \[1, 1, 3, 4, 1\]"),
        (top(np.zeros((0, 3, 4, 3), int)), r"top.image has shape \[0, 3, 4, 1\]"),
    ],
)
def test_tiles_refuse(sources, message):
    with pytest.raises(ValueError, match=message):
        elsjax.source_pieces(sources)


@pytest.mark.parametrize("data", ["mnist", "cifar10"])
def test_consistent_pixels_are_those_of_the_reference(data):
    found = elsjax.local_consistency(
        MOSAICS[f"{data}/cover/pixels"], MOSAICS[f"{data}/pixels"], window=3, tolerance=0.05
    )
    np.testing.assert_array_equal(found, MOSAICS[f"{data}/consistency/flags"])


@pytest.mark.parametrize(("kind", "window"), KINDS[:-1])
def test_consistent_pixels_are_those_of_the_definition(kind, window):
    rng = np.random.default_rng(8)
    pixels = PIXELS[[0, 1, 2, 3, 0, 1]]  # of equal ones the first counts
    images = pixels / 127.5 - 1
    noisy = images[2:4] + rng.normal(0, 0.3, (2, 6, 6, 1))
    expected = np.empty((2, 6, 6), bool)
    for sample, x in enumerate(noisy):
        for pixel, query, keys, sources in oracle.entries(kind, images, x, window):
            nearest = sources[((keys - query) ** 2).reshape(len(keys), -1).sum(1).argmin()]
            expected[sample][pixel] = np.abs(x[pixel] - images[tuple(nearest)]).max() <= 0.2
    found = elsjax.local_consistency(noisy, pixels, window=window, tolerance=0.2, kind=kind)
    np.testing.assert_array_equal(found, expected)
    assert 0 < found.mean() < 1


def test_training_images_are_consistent():
    for samples in (PIXELS[:2], IMAGES[:2], IMAGES[:2].astype(np.float32)):
        assert elsjax.local_consistency(samples, PIXELS, window=3, tolerance=0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tolerance": -1}, r"tolerance=-1 must lie in \[0, 2\]"),
        ({"window": 2}, "window=2 must be an odd positive integer"),
        ({"kind": "nearest"}, "kind='nearest' is not known"),
        ({"samples": PIXELS[:0]}, "samples is empty"),
        (
            {"samples": PIXELS[:, :5]},
            r"samples has shape \[6, 5, 6, 1\]; expected \[batch, 6, 6, 1\]",
        ),
        ({"samples": IMAGES[0]}, r"samples has shape \[6, 6, 1\]; expected"),
        ({"samples": IMAGES * np.inf}, "samples must be finite"),
        ({"samples": PIXELS > 3}, "samples has dtype bool"),
        ({"images": PIXELS[..., 0]}, r"images has shape \[6, 6, 6\]; expected"),
    ],
)
def test_local_consistency_refuses(change, message):
    arguments = {"samples": PIXELS, "images": PIXELS, "window": 3, "tolerance": 0.1} | change
    samples, images = arguments.pop("samples"), arguments.pop("images")
    with pytest.raises(ValueError, match=message):
        elsjax.local_consistency(samples, images, **arguments)
