"""Options, numbers and names that are wrong are refused by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_inputs import KEY, LABELS, PIXELS, X, machine, resnet

import elsjax
from elsjax.experiments.calibration import similarities
from elsjax.nn import AttentionUNet, ResNet, UNet
from elsjax.training.config import TrainingConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *[
            ({"window": window}, "window=.* must be an odd positive integer")
            for window in ("3", 3.0, True, [3, 5], np.array(3))
        ],
        *[({"block_size": size}, "block_size=.* must be an int") for size in (True, 2.0, "3")],
        ({"memory_budget": "1"}, "memory_budget='1' must be"),
        ({"wrap_patches": "no"}, "wrap_patches='no' must be True or False"),
        ({"schedule": elsjax.CosineSchedule}, "schedule=<class .* must be a Schedule, such as"),
        ({"schedule": "cosine"}, "schedule='cosine' must be a Schedule"),
        ({"mesh": 2}, "mesh=2 must be a Mesh, such as elsjax.make_mesh"),
        ({"mesh": jax.make_mesh((2, 2), ("data", "sample"))}, "axis types .*; expected Auto"),
    ],
)
def test_wrong_options_of_a_machine(options, message):
    with pytest.raises(ValueError, match=message):
        machine(**options)


@pytest.mark.parametrize("kind", [None, 1, ["els"], b"els"])
def test_kinds_are_names(kind):
    with pytest.raises(ValueError, match="kind=.* is not known"):
        elsjax.ScoreMachine(kind, PIXELS, window=3)


def test_numbers_of_numpy_are_numbers():
    one = machine(window=np.int64(3), block_size=np.int32(2))
    assert (type(one.window), type(one.block_size)) == (int, int)
    assert type(one.with_index(np.float32(0.5)).tolerance) is float
    windows = elsjax.WindowSchedule([np.int8(3), 5])
    assert windows == elsjax.WindowSchedule((3, 5))
    assert windows(jnp.float32(1)) == 5
    assert type(elsjax.CosineSchedule(np.float32(0.008)).offset) is float
    network = resnet(num_layers=np.int64(1), kernel_size=np.int8(3), num_classes=np.int16(2))
    assert {type(n) for n in (network.num_layers, network.kernel_size, network.num_classes)} == {
        int
    }


WRONG = [
    *[(lambda v=v: elsjax.WindowSchedule(v), "windows=.* sequence") for v in (5, "35", None)],
    *[(lambda v=v: elsjax.WindowSchedule([v]), r"windows\[0\]=") for v in ("3", 3.0, True)],
    *[(lambda v=v: elsjax.WindowSchedule((3,))(v), "t=") for v in ("1", None, np.nan, 2)],
    (lambda: elsjax.WindowSchedule((3,))([0.5]), r"t has shape \[1\]"),
    *[(lambda v=v: elsjax.published_windows(v), "name=") for v in (None, 3, ["mnist/unet/zeros"])],
    *[(lambda v=v: elsjax.CosineSchedule(v), "offset=") for v in ("0", None, np.nan, False)],
    *[
        (lambda v=v: elsjax.ExponentialSchedule(v), "horizon=")
        for v in ("5", np.nan, np.inf, 10**400)
    ],
    (lambda: elsjax.LinearBetaSchedule(beta_last="0.1"), "beta_last='0.1' must lie"),
    (lambda: elsjax.LinearBetaSchedule(num_steps=10.0), "num_steps=10.0 must be"),
    (lambda: machine().with_index("0.1"), r"tolerance='0.1' must lie in \(0, 1\)"),
    (lambda: machine().with_index(float("nan")), "tolerance=nan must lie"),
    (lambda: machine().with_index(True), "tolerance=True must lie"),
    (lambda: machine().with_index(labels=3), "labels=3 must be a sequence"),
    (lambda: machine().with_index(labels=(0,)), "label=0 needs labelled data"),
    (lambda: machine().without([6]), "images=6 is the number of no training image"),
    (lambda: machine().without(range(6)), "images holds the numbers of all 6 training images"),
    (lambda: machine().without([0, -1]), r"images\[1\]=-1 must be an integer"),
    *[
        (lambda v=v: machine().without([v]), r"images\[0\]=.* must be an integer")
        for v in (0.0, True, "0", None)
    ],
    *[(lambda v=v: machine().without(v), "images=.* must be a sequence") for v in (3, "12")],
    *[
        (lambda v=v: machine().posterior(X, 0.5, top=v), "top=.* must be an integer from 0")
        for v in (-1, 1.5, True, None, 2**20)
    ],
    *[
        (lambda v=v: machine().posterior(X, 0.5, answers=v), "answers=.* must be a sequence")
        for v in ("mean", 3, None, np.array("mean"))
    ],
    *[
        (lambda v=v: machine().posterior(X, 0.5, answers=("mean", v)), "answers=.* is not known")
        for v in ("median", "top", None)
    ],
    *[
        (lambda v=v: machine().posterior(X, v), "t=.* must be positive here")
        for v in (0, np.array([0.5, 0]))
    ],
    (lambda: machine().posterior(X, 0.5, 1), "label=1 needs labelled data"),
    (lambda: machine(labels=LABELS).posterior(X, 0.5, 7), "label=7 is no class of the data"),
    (lambda: machine().posterior(X[:, 1:], 0.5), r"x has shape \[2, 5, 6, 1\]"),
    (lambda: elsjax.make_mesh("2"), "data='2' must be"),
    (lambda: elsjax.make_mesh(sample=None), "sample=None must be"),
    (lambda: elsjax.make_mesh(devices="cpu"), "devices='c' must be a Device"),
    (lambda: elsjax.make_mesh(devices=3), "devices=3 must be a sequence"),
    (lambda: elsjax.initial_noise(KEY, 2.0, (6, 6, 1)), "num_samples=2.0"),
    (lambda: elsjax.initial_noise(KEY, True, (6, 6, 1)), "num_samples=True"),
    *[
        (lambda v=v: elsjax.initial_noise(KEY, 2, v), "image_shape=")
        for v in ((6, 6), 6, "661", (6.0, 6, 1))
    ],
    (lambda: resnet(rngs=0), "rngs=0 must be a Rngs"),
    (lambda: resnet(schedule=elsjax.CosineSchedule), "schedule=.* must be a Schedule"),
    (lambda: resnet(padding=None), "padding=None is not known"),
    (lambda: resnet(dtype="float99"), "dtype='float99' must be floating point"),
    (lambda: resnet(dtype="float64"), "dtype=float64 needs jax_enable_x64"),
    (lambda: resnet(num_classes=True), "num_classes=True must be"),
    (lambda: ResNet(6, rngs=nnx.Rngs(0)), "image_shape=6 must be"),
    (lambda: UNet((8, 8, 1), widths=8, rngs=nnx.Rngs(0)), "widths=8 must be a sequence"),
    (lambda: UNet((8, 8, 1), widths="88", rngs=nnx.Rngs(0)), "widths='88' must be a sequence"),
    (
        lambda: AttentionUNet((8, 8, 1), attention_levels=1, rngs=nnx.Rngs(0)),
        "attention_levels=1 must be some of 0 to",
    ),
    (
        lambda: AttentionUNet((8, 8, 1), attention_levels=(1.0,), rngs=nnx.Rngs(0)),
        "attention_levels=1.0 must be an integer",
    ),
    (lambda: TrainingConfig(learning_rate="1e-3"), "learning_rate='1e-3' must lie"),
    (lambda: TrainingConfig(ema_decay=float("nan")), "ema_decay=nan must lie"),
    (lambda: TrainingConfig(warmup_steps=1.5), "warmup_steps=1.5 must be an integer"),
    (lambda: similarities(machine(), None, (3,), X), "machine=None must be a ScoreMachine"),
    (lambda: similarities(machine(), machine(), 3, X), "windows=3 must be a sequence"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), WRONG)
def test_wrong_numbers_and_names(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_tensors_are_arrays_and_what_fails_to_be_one_is_named():
    class Broken:
        def __array__(self, *_, **__):
            raise RuntimeError("on another device\nsecond line")

    with pytest.raises(ValueError, match="^x, of type Broken, is no array: on another device$"):
        machine().denoise(Broken(), 0.5)


def test_what_is_traced_cannot_be_training_data():
    with pytest.raises(ValueError, match="images must be values, not traced"):
        jax.jit(lambda images: machine(images).denoise(X, 0.5))(PIXELS)
    with pytest.raises(ValueError, match="labels must be values, not traced"):
        jax.jit(lambda labels: machine(labels=labels).denoise(X, 0.5))(LABELS)
