"""Windows of the published calibration: in files of PyTorch, in words and in JSON."""

import json

import numpy as np
import pytest
from torch_stand_ins import Tensor, save, torch

import elsjax
from elsjax.cli import window as words
from elsjax.process.windows import PUBLISHED_SCHEDULE

__all__ = ["torch"]  # a fixture


def parse_window(text, schedule=PUBLISHED_SCHEDULE, num_steps=20):
    return words.parse_window(text, schedule, num_steps)


def test_published_scales(tmp_path, torch):
    windows = list(elsjax.published_windows("mnist/unet/zeros").windows)
    path = tmp_path / "scales_MNIST_UNet_zeros.pt"
    for saved in (
        windows,
        [float(window) for window in windows],
        Tensor(np.array(windows, np.int32), "IntStorage"),
        Tensor(np.array(windows, np.float32)),
        [Tensor(np.int64(window), "LongStorage") for window in windows],
    ):
        save(path, saved)
        assert parse_window(str(path)) == elsjax.published_windows("mnist/unet/zeros")


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ([3, 4], "windows\\[1\\]=4 must be an odd positive integer"),
        ([], "must hold at least one window"),
        ([3, 4.5], "windows\\[1\\]=4.5 must be an odd"),
        ([3, float("nan")], "windows\\[1\\]=nan must be an odd"),
        ([True], "windows\\[0\\]=True must be an odd"),
        ([[3]], "windows\\[0\\]=a list must be an odd"),
        ({"median": [3]}, "holds no list and no tensor of windows"),
        (Tensor(np.ones((2, 3), np.float32)), "a tensor of shape \\[2, 3\\]; expected \\[steps\\]"),
    ],
)
def test_scales_that_are_none(tmp_path, torch, saved, message):
    path = save(tmp_path / "scales.pt", saved)
    with pytest.raises(ValueError, match=f"window='.*scales.pt'.*{message}"):
        parse_window(str(path))


@pytest.mark.parametrize(
    ("text", "windows"),
    [("3", 3), (" 5 ", 5), ("3,5", (3, 5)), ("3, 5 ,7", (3, 5, 7)), ("mnist/unet/zeros", None)],
)
def test_windows_in_words(text, windows):
    found = parse_window(text)
    assert found == windows or found.windows == (windows or found.windows)


def test_windows_are_those_of_their_noise_levels(tmp_path, torch):
    schedule = elsjax.ExponentialSchedule(3)
    table = elsjax.published_windows("mnist/unet/zeros")
    # The time at which the published schedule has the noise of t = 0.25, 0.5, 0.75 and 1.
    times = np.arccos(np.exp(-3 * np.array([0.25, 0.5, 0.75, 1]))) * 1.008 * 2 / np.pi
    expected = elsjax.WindowSchedule(tuple(table(t) for t in times))
    scales = save(tmp_path / "scales.pt", list(table.windows))
    old, own = tmp_path / "old.json", tmp_path / "own.json"
    old.write_text(json.dumps({"windows": table.windows}))
    for text in ("mnist/unet/zeros", str(scales), str(old)):
        assert parse_window(text) == table
        assert parse_window(text, schedule, 4) == expected
    config = {"kind": "ExponentialSchedule", "horizon": 3.0}
    own.write_text(json.dumps({"windows": [3, 5, 7], "schedule": config}))
    assert parse_window(str(own), schedule, 4).windows == (3, 5, 7)
    # The cosine's t = 1/2 and 1 are the exponential's t = 0.11 and 1.46.
    assert parse_window(str(own), num_steps=2).windows == (3, 7)
    # Words are of the machine's own times.
    assert parse_window("3,5,7", schedule, 4).windows == (3, 5, 7)
    assert parse_window("3", schedule, 4) == 3


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            ",",
            "3,",
            "3,3,,5",
            "3 5",
            "3.0",
            "３",
            "٣",
            "-3",
            "+3",
            "0",
            "4",
            "3,4",
            "1_1",
        ),
        *(
            "1e3",
            "3;5",
            "9" * 5000,
            "3," * 9000,
            "nan",
            "mnist",
            "mnist/unet",
            "a\nb",
            "\0",
            "None",
        ),
    ],
)
def test_words_that_are_no_windows(text):
    with pytest.raises(ValueError, match="^window=") as error:
        parse_window(text)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{}", b"[3]", b"3", b"null", b"{", b"\xff\xfe", b"[" * 100_000),
        *(b'{"windows":' * 50_000, b'{"windows": "357"}', b'{"windows": {"0": 3}}'),
        *(b'{"windows": 3}', b'{"windows": null}', b'{"windows": []}', b'{"windows": ["3"]}'),
        *(b'{"windows": [3, true]}', b'{"windows": [3, null]}', b'{"windows": [[3]]}'),
        *(b'{"windows": [NaN]}', b'{"windows": [Infinity]}', b'{"windows": [3.5]}'),
        *(b'{"windows": [4]}', b'{"windows": [-3]}', b'{"windows": [1e99]}'),
        *(b'{"windows": [3], "schedule": null}', b'{"windows": [3], "schedule": "cosine"}'),
        *(b'{"windows": [3], "schedule": {"kind": "Cosine"}}', b'{"windows": [3], "schedule": {}}'),
        b'{"windows": [3], "schedule": {"kind": "CosineSchedule", "offset": 1}}',
        b'{"windows": [3], "schedule": {"kind": ["CosineSchedule"]}}',
        *(b'{"windows": [%s]}' % (b"9" * 5000), b'{"windows": [%s1]}' % (b"1," * 600_000)),
    ],
    ids=lambda content: repr(content[:30]),
)
def test_files_that_hold_no_windows(tmp_path, content):
    path = tmp_path / "windows.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="^window='.*windows.json'") as error:
        parse_window(str(path))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600
    assert b"schedule" not in content or '"schedule"' in str(error.value)


def test_files_that_are_not_there(tmp_path):
    for name, message in (("gone.json", "No such file"), ("gone.pt", "No such file")):
        with pytest.raises(ValueError, match=f"{name}' cannot be read: {message}"):
            parse_window(str(tmp_path / name))
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(ValueError, match="folder.json' cannot be read: Is a directory"):
        parse_window(str(tmp_path / "folder.json"))
    with pytest.raises(ValueError, match="cannot be read: embedded null"):
        parse_window("a\0.json")
