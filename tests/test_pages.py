import configparser
import dataclasses
import html
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from small_mosaics import Parsed, mosaic, training_images, unpacked

import elsjax
from elsjax import pages
from elsjax.pages import NotebookPage, Picture, mosaic_page, page_name, report_page

MARKUP = "</script><img src=x onerror=alert(1)><!-- & \"'"


def _pages(shown=None, images=None, **options):
    shown = mosaic() if shown is None else shown
    images = training_images() if images is None else images
    return mosaic_page(shown, images, **{"title": "Mosaics", "config": {}} | options)


def _shown(images):
    """What is seen of images with any number of channels."""
    return images if images.shape[-1] in (1, 3) else images.mean(-1, keepdims=True)


def _steps_first(array):
    """[b, S, ...] to [S, b, ...]."""
    return np.moveaxis(array, 1, 0)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_page_holds_the_mosaic_to_the_digits_that_are_shown(channels):
    shown, images = mosaic(channels=channels), training_images(channels=channels)
    network = shown.x0[0]
    labels = np.arange(20) % 3
    (page,) = _pages(shown, images, labels=labels, network=network, class_names=["a", "b", "c"])
    about, arrays = unpacked(page)
    pictures = {"states": shown.states, "x0": shown.x0}
    single = {"repainted": shown.repainted, "network": network}
    for name, expected in (pictures | single).items():
        found = arrays[name] if name in single else _steps_first(arrays[name])
        np.testing.assert_allclose(found / 1000, _shown(expected), atol=0.000501, err_msg=name)
    found = {
        name: np.moveaxis(_steps_first(arrays[name]), 2, -1)
        for name in ("weight", "image", "down", "right")
    }
    np.testing.assert_allclose(found["weight"] / 1000, shown.top.weight, atol=0.000501)
    there = shown.top.image >= 0
    assert 0 < there.mean() < 1
    np.testing.assert_array_equal(found["image"] < len(arrays["numbers"]), there)
    np.testing.assert_array_equal(arrays["numbers"][found["image"][there]], shown.top.image[there])
    for name, axis, sources in (("down", 2, shown.top.row), ("right", 3, shown.top.column)):
        places = np.indices(sources.shape)[axis]
        np.testing.assert_array_equal((found[name] + places)[there], sources[there])
    rest = 1 - shown.top.weight.sum(-1, dtype=np.float64)
    np.testing.assert_allclose(_steps_first(arrays["rest"]) / 1000, rest, atol=0.000501)
    number, entropy = (_steps_first(arrays[name]) for name in ("number", "entropy"))
    expected = [[float(f"{v:.3g}")] for v in shown.effective_number.ravel()]
    np.testing.assert_allclose(number.ravel(), np.ravel(expected), rtol=1e-6)
    np.testing.assert_allclose(entropy, shown.entropy, atol=0.00501)
    np.testing.assert_array_equal(arrays["labels"], labels[arrays["numbers"]])
    packed = images[arrays["numbers"]]
    if channels == 2:
        np.testing.assert_allclose(arrays["pixels"], packed.mean(-1, keepdims=True), atol=0.51)
    else:
        np.testing.assert_array_equal(arrays["pixels"], packed)
    np.testing.assert_array_equal(np.float32(about["times"]), shown.times)
    assert about["windows"] == shown.windows.tolist()
    assert about["classes"] == ["a", "b", "c"]
    for b, sample in enumerate(about["samples"]):
        assert sample["number"] == b + 1
        assert sample["label"] == shown.label[b]
        assert arrays["numbers"][sample["leftOut"]] == shown.left_out[b]
        r = np.corrcoef(shown.states[-1, b].ravel(), network[b].ravel())[0, 1]
        assert float(sample["r"]) == pytest.approx(r, abs=0.006)
        change = np.abs(shown.states[-1, b] - shown.repainted[b]).max(-1)
        assert sample["changed"] == (change > 1 / 255).sum()


def test_only_images_that_pixels_come_from_are_in_a_page():
    shown = mosaic(images=20)
    (page,) = _pages(shown, training_images(5000))
    _, arrays = unpacked(page)
    np.testing.assert_array_equal(arrays["numbers"], np.unique(shown.top.image)[1:])  # less -1
    assert "labels" not in arrays
    assert "network" not in arrays


def test_floating_point_images_are_shown_as_those_of_8_bits():
    images = training_images()
    (page,) = _pages(images=images / 127.5 - 1)
    assert page == _pages(images=images)[0]


def test_a_correlation_that_is_undefined_is_none():
    shown = mosaic()
    about, _ = unpacked(_pages(shown, network=np.zeros_like(shown.samples))[0])
    assert [sample["r"] for sample in about["samples"]] == [None, None]


def test_there_may_be_no_other_image_to_paint_with():
    shown = mosaic()
    shown.left_out[0] = -1
    about, arrays = unpacked(_pages(shown)[0])
    assert about["samples"][0]["leftOut"] is None
    assert arrays["numbers"][about["samples"][1]["leftOut"]] == shown.left_out[1]
    assert (arrays["numbers"] >= 0).all()
    assert (unpacked(_pages(shown, page_size=1)[0])[1]["numbers"] >= 0).all()


def test_what_is_not_finite_is_shown_as_undefined_or_black():
    shown = mosaic()
    shown.states[-1, 0, 0, 0], shown.effective_number[0, 0, 0, 0] = np.nan, np.inf
    _, arrays = unpacked(_pages(shown)[0])
    np.testing.assert_array_equal(arrays["states"][0, -1, 0, 0], -1000)
    assert arrays["number"][0, 0, 0, 0] == np.inf


def test_samples_that_are_too_many_for_a_page_go_to_others():
    shown, images = mosaic(5, 6, (16, 16), 1, images=50), training_images(50, (16, 16), 1)
    limit = len(_pages(mosaic(2, 6, (16, 16), 1, images=50), images)[0]) + 60_000
    found = _pages(shown, images, page_size=limit)
    assert 2 <= len(found) <= 4
    assert all(len(page.encode()) <= limit for page in found)
    first, numbers = 1, []
    for number, page in enumerate(found):
        about, arrays = unpacked(page)
        here = [sample["number"] for sample in about["samples"]]
        numbers += here
        said = f"samples {first}–{here[-1]}" if len(here) > 1 else f"sample {first}"
        assert f"This page: {said} of 5." in Parsed(page).text
        links = [attributes for tag, attributes in Parsed(page).tags if tag == "a"]
        assert [link["href"] for link in links] == [page_name(n) for n in range(len(found))]
        assert [n for n, link in enumerate(links) if "aria-current" in link] == [number]
        chosen = np.array(here) - 1
        np.testing.assert_allclose(
            arrays["states"] / 1000, _steps_first(shown.states)[chosen], atol=0.000501
        )
        first = here[-1] + 1
    assert numbers == [1, 2, 3, 4, 5]
    assert [page_name(n) for n in range(3)] == ["mosaic.html", "mosaic-2.html", "mosaic-3.html"]
    whole = _pages(shown, images)
    assert len(whole) == 1
    assert "This page:" not in whole[0]


def test_images_of_the_least_weight_are_left_out_of_a_page_that_is_too_large():
    size = (32, 32)
    shown, images = mosaic(1, 2, size, 3, images=400), training_images(400, size)
    limit = 800_000
    (page,) = _pages(shown, images, page_size=limit)
    _, arrays = unpacked(page)
    kept = len(arrays["pixels"])
    assert 20 < kept < 400
    assert len(page.encode()) <= limit
    assert f"{400 - kept} of the 400 training images" in Parsed(page).text
    np.testing.assert_array_equal(np.sort(arrays["numbers"]), np.arange(400))
    np.testing.assert_array_equal(arrays["pixels"], images[arrays["numbers"][:kept]])
    there = shown.top.image >= 0
    weight = np.bincount(shown.top.image[there], shown.top.weight[there], 400)
    chosen = set(arrays["numbers"][:kept].tolist())
    assert shown.left_out[0] in chosen
    heaviest = np.argsort(-weight)[: kept - 1]
    assert set(heaviest.tolist()) <= chosen


def test_a_page_of_the_default_size_holds_a_sample_of_many_images():
    shown, images = mosaic(1, 2, (4, 4), 1, images=5000), training_images(5000, (4, 4), 1)
    (page,) = _pages(shown, images)
    assert len(page.encode()) < 5_000_000


def test_markup_in_names_stays_text():
    (page,) = _pages(
        labels=np.zeros(20, int),
        class_names=[MARKUP] * 3,
        title=MARKUP,
        config={"machine": MARKUP, MARKUP: MARKUP},
    )
    parsed = Parsed(page)
    plain = Parsed(_pages(labels=np.zeros(20, int), class_names=["a"] * 3)[0])
    assert [tag for tag, _ in parsed.tags] == [tag for tag, _ in plain.tags]
    assert parsed.text.count(MARKUP) == 2  # title and heading
    assert unpacked(page)[0]["classes"] == [MARKUP] * 3
    report = report_page(MARKUP, [MARKUP], [[MARKUP]] * 2, [], {MARKUP: MARKUP}, mosaic=MARKUP)
    tags = [tag for tag, _ in Parsed(report).tags]
    assert tags.count("img") == 1  # that of the dialog
    assert tags.count("script") == 1


def test_pages_refer_to_nothing_outside():
    picture = Picture("a.png", "caption", "alt", Figure((1, 1)))
    report = report_page("title", [], [["a"]], [picture], {})
    for page in [*_pages(), report]:
        assert "http:" not in page
        assert "https:" not in page
        assert "default-src 'none'" in page
        assert not re.search(r"url\(|@import|\bimport\b", page)
        for tag, attributes in Parsed(page).tags:
            for name in ("src", "href"):
                assert attributes.get(name, "data:").startswith("data:"), tag


def test_the_machine_is_explained():
    (page,) = _pages(config={"machine": "els", "wrap_patches": True})
    assert pages.MACHINES["els"].sentence in page
    about, _ = unpacked(page)
    assert (about["wraps"], about["sourceWraps"]) == (True, True)
    about, _ = unpacked(_pages(config={"machine": "els"})[0])
    assert (about["wraps"], about["sourceWraps"]) == (True, False)
    about, _ = unpacked(_pages(config={"machine": "ls"})[0])
    assert (about["wraps"], about["sourceWraps"]) == (False, False)
    assert set(pages.MACHINES) == set(elsjax.posterior.dictionaries.KINDS)


def test_a_report_shows_its_machines_and_links_to_its_mosaic():
    picture = Picture("a.png", "What it shows.", "What is seen.", Figure((1, 1)))
    table = [["machine", "r"], ["IS", "0.5"]]
    page = report_page("t", ["p"], table, [picture], {}, machines=["is", "ls"], mosaic="m 1.html")
    for kind in ("is", "ls"):
        assert pages.MACHINES[kind].sentence in page
    assert pages.MACHINES["els"].sentence not in page
    tags = Parsed(page).tags
    assert ("a", {"href": "m%201.html"}) in tags
    assert [a["alt"] for tag, a in tags if tag == "img"] == ["What is seen.", ""]
    assert '<th scope="col">machine</th><th scope="col">r</th>' in page
    assert '<th scope="row">IS</th><td>0.5</td>' in page
    without = report_page("t", ["p"], table, [picture], {})
    assert not [tag for tag, _ in Parsed(without).tags if tag in ("a", "dl")]


def test_a_notebook_shows_a_page_in_a_frame():
    (page,) = _pages()
    shown = NotebookPage(page, 700)._repr_html_()
    ((tag, attributes),) = Parsed(shown).tags
    assert (tag, attributes["srcdoc"], attributes["height"]) == ("iframe", page, "700")
    assert attributes["sandbox"] == "allow-scripts"
    assert html.escape(page) in shown


def test_all_files_of_the_pages_are_installed():
    root = Path(elsjax.__file__).parents[1]
    config = configparser.ConfigParser()
    config.read(root / "setup.cfg")
    patterns = config["options.package_data"]["elsjax.pages"].split(", ")
    files = [path for path in Path(pages.__file__).parent.iterdir() if path.is_file()]
    others = {path for path in files if path.suffix != ".py"}
    assert len(others) >= 8
    assert {path for path in others if any(path.match(p) for p in patterns)} == others


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"images": training_images(channels=1)}, r"images has shape \[20, 5, 8, 1\]; expected"),
        ({"images": training_images(3)}, "images has 3 images, but pixels come from number 19"),
        ({"images": np.zeros((20, 5, 8, 3), int)}, "images has dtype int64"),
        ({"labels": np.zeros(3, int)}, r"labels has shape \[3\]; expected \[20\]"),
        ({"class_names": ["a"]}, "class_names has 1 names; expected one for each of the classes"),
        ({"class_names": "abc"}, "class_names='abc' must be a sequence of names"),
        ({"class_names": [0, 1, 2]}, "class_names=.* must be a sequence of names"),
        ({"network": np.zeros((1, 5, 8, 3))}, r"network has shape \[1, 5, 8, 3\]; expected"),
        ({"network": np.full((2, 5, 8, 3), np.nan)}, "network"),
        ({"title": 3}, "title"),
        ({"config": []}, r"config=\[\] must be a dict"),
        ({"config": {"a": object()}}, "config must hold JSON values"),
        ({"page_size": 0}, "page_size=0 must be an integer of at least 1"),
        ({"mosaic": None}, "mosaic"),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    wrong = dict(wrong)
    shown, images = wrong.pop("mosaic", mosaic()), wrong.pop("images", training_images())
    with pytest.raises(ValueError, match=message):
        mosaic_page(shown, images, **{"title": "Mosaics", "config": {}} | wrong)


def test_a_mosaic_without_labels_has_none():
    about, _ = unpacked(_pages(dataclasses.replace(mosaic(), label=None))[0])
    assert [sample["label"] for sample in about["samples"]] == [None, None]
    with pytest.raises(ValueError, match="height=0"):
        NotebookPage("", 0)
