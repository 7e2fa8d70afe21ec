import shutil
import time

import numpy as np
import pytest
from small_mosaics import mosaic, training_images

from elsjax.pages import Picture, mosaic_page, report_page

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver")

HEIGHT, WIDTH, STEPS, TOP = 9, 13, 4, 3
NAMES = ["zero", "<img src=x onerror=\"document.title='bad'\">", "two"]
LABELS = np.arange(20) % 3
SHOWN = mosaic(2, STEPS, (HEIGHT, WIDTH), 3, top=TOP)
IMAGES = training_images(20, (HEIGHT, WIDTH))
NETWORK = SHOWN.repainted[::-1]


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        "--window-size=1280,1000",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, tmp_path):
    """Opens the page of a mosaic and waits until it is shown; in the end sees that it was quiet."""
    browser.get_log("performance")  # of the tests before

    def open_page(shown=SHOWN, images=IMAGES, **options):
        options = {"title": "Mosaics", "config": {"machine": "ls"}} | options
        (text,) = mosaic_page(shown, images, **options)
        path = tmp_path / "mosaic.html"
        path.write_text(text)
        browser.get(path.as_uri())
        wait(lambda: browser.find_element(By.ID, "viewer").is_displayed())
        return browser

    yield open_page
    assert browser.get_log("browser") == []
    requests = [
        entry["message"]
        for entry in browser.get_log("performance")
        if "Network.requestWillBeSent" in entry["message"]
    ]
    assert len(requests) >= 1
    assert all('"url":"file:' in one or '"url":"data:' in one for one in requests)


def wait(condition):
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def text_of(browser, name):
    return browser.find_element(By.ID, name).text


def hover(browser, row, column, *, click=False):
    canvas = browser.find_element(By.ID, "picture")
    size = canvas.size
    x = (column + 0.5) / WIDTH * size["width"] - size["width"] / 2
    y = (row + 0.5) / HEIGHT * size["height"] - size["height"] / 2
    actions = ActionChains(browser, duration=0).move_to_element_with_offset(canvas, x, y)
    (actions.click() if click else actions).perform()
    # Movements arrive with the next frame.
    frames = "requestAnimationFrame(() => requestAnimationFrame(arguments[0]))"
    browser.execute_async_script(frames)


def press(browser, element, *keys):
    browser.find_element(By.CSS_SELECTOR, element).send_keys(*keys)


def choose(browser, name, value):
    script = (
        "document.querySelector(`input[name=${arguments[0]}][value='${arguments[1]}']`).click()"
    )
    browser.execute_script(script, name, str(value))


def panel(browser):
    """What the panel says: where, the values, the sources and the rest, as text."""
    return browser.execute_script(
        """
        const all = (of, selector) => [...of.querySelectorAll(selector)];
        const words = (of, selector) => all(of, selector).map((e) => e.textContent);
        const there = all(document, "#sources li").filter((e) => !e.hidden);
        return {
          place: document.getElementById("place").textContent,
          when: document.getElementById("when").textContent,
          values: words(document, "#values dd"),
          sources: there.map((e) => words(e, "p")),
          rest: document.getElementById("rest").textContent,
        };
        """
    )


def offset_name(down, right):
    parts = [f"{abs(down)} {'down' if down > 0 else 'up'}"] if down else []
    parts += [f"{abs(right)} {'right' if right > 0 else 'left'}"] if right else []
    return ", ".join(parts) or "same place"


def assert_percent(text, weight):
    if text == "< 0.1 %":
        assert weight < 0.0005 + 1e-7
    else:
        assert float(text.removesuffix(" %")) == pytest.approx(100 * weight, abs=0.05 + 1e-5)


def assert_panel(browser, b, s, row, column):
    """The panel says what the arrays hold, to its digits."""
    found = panel(browser)
    at = (s, b, row, column)
    t, side = SHOWN.times[s], SHOWN.windows[s]
    assert found["place"] == f"Row {row}, column {column}, at t = {float(f'{t:.3g}'):g}"
    assert found["when"].startswith(f"Step {s + 1} of {STEPS}, t = ")
    assert found["when"].endswith(f"window {side} × {side}")
    for text, values in zip(found["values"], (SHOWN.states[at], SHOWN.x0[at]), strict=False):
        numbers = [float(word.replace("−", "-")) for word in text.split(", ")]
        np.testing.assert_allclose(numbers, values, atol=0.000501)
    number, entropy = found["values"][2:4]
    expected = float(f"{SHOWN.effective_number[at]:.3g}")
    assert float(number.replace(",", "")) == pytest.approx(expected, rel=1e-6)
    assert float(entropy.removesuffix(" nats")) == pytest.approx(SHOWN.entropy[at], abs=0.00501)
    weight = SHOWN.top.weight[at]
    images, rows, columns = (getattr(SHOWN.top, n)[at] for n in ("image", "row", "column"))
    assert len(found["sources"]) == (images >= 0).sum()
    for k, (percent, name, place, offset) in enumerate(found["sources"]):
        assert_percent(percent, weight[k])
        assert name == f"image {images[k]} · {NAMES[LABELS[images[k]]]}"
        assert place == f"row {rows[k]}, column {columns[k]}"
        assert offset == offset_name(rows[k] - row, columns[k] - column)
    assert_percent(found["rest"].removeprefix("All others together: "), 1 - weight.sum())


def test_pointing_tells_the_sources_of_a_pixel_at_each_step(page):
    browser = page(labels=LABELS, class_names=NAMES)
    rng = np.random.default_rng(0)
    now = STEPS - 1
    for b in range(2):
        choose(browser, "sample", b)
        for _ in range(25):
            s, row, column = (int(rng.integers(n)) for n in (STEPS, HEIGHT, WIDTH))
            if s != now:
                key = Keys.ARROW_RIGHT if s > now else Keys.ARROW_LEFT
                press(browser, "#step", *[key] * abs(s - now))
                now = s
            hover(browser, row, column)
            assert_panel(browser, b, s, row, column)
    assert browser.title == "Mosaics"  # the class whose name is markup did nothing
    assert browser.find_elements(By.TAG_NAME, "img") == []


def test_keys_move_over_pixels_and_steps(page):
    browser = page(labels=LABELS, class_names=NAMES)
    picture, last = "#picture", STEPS - 1
    hover(browser, 4, 5)
    press(browser, picture, Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert_panel(browser, 0, last, 5, 7)
    press(browser, picture, Keys.ARROW_UP, Keys.ARROW_LEFT)
    assert_panel(browser, 0, last, 4, 6)
    press(browser, picture, *[Keys.ARROW_LEFT] * WIDTH, *[Keys.ARROW_DOWN] * HEIGHT)
    assert_panel(browser, 0, last, HEIGHT - 1, 0)
    source = SHOWN.top.image[last, 0, HEIGHT - 1, 0, 0]
    told = f"Row {HEIGHT - 1}, column 0: "
    wait(lambda: browser.find_element(By.ID, "live").get_property("textContent").startswith(told))
    assert f"from image {source}" in browser.find_element(By.ID, "live").get_property("textContent")
    press(browser, picture, Keys.SHIFT + Keys.ARROW_LEFT)
    assert_panel(browser, 0, last - 1, HEIGHT - 1, 0)
    press(browser, picture, Keys.HOME)
    assert_panel(browser, 0, 0, HEIGHT - 1, 0)
    browser.execute_script("document.activeElement.blur()")
    press(browser, "body", Keys.ARROW_RIGHT)
    assert_panel(browser, 0, 1, HEIGHT - 1, 0)
    press(browser, "body", Keys.END)
    assert_panel(browser, 0, last, HEIGHT - 1, 0)
    press(browser, "body", Keys.SPACE)  # from the first step on
    assert text_of(browser, "play") == "Pause"
    wait(lambda: text_of(browser, "play") == "Play")
    assert_panel(browser, 0, last, HEIGHT - 1, 0)
    press(browser, "body", Keys.SPACE)
    wait(lambda: text_of(browser, "when").startswith("Step 2"))
    press(browser, "body", Keys.SPACE)
    assert text_of(browser, "play") == "Play"


def test_a_pinned_pixel_stays(page):
    browser = page(labels=LABELS, class_names=NAMES)
    last = STEPS - 1
    free = browser.find_element(By.ID, "free")
    assert not free.is_displayed()
    hover(browser, 2, 3, click=True)
    hover(browser, 6, 7)
    assert_panel(browser, 0, last, 2, 3)
    choose(browser, "sample", 1)
    assert_panel(browser, 1, last, 2, 3)
    free.click()
    hover(browser, 6, 7)
    assert_panel(browser, 1, last, 6, 7)
    press(browser, "#picture", Keys.ENTER)
    hover(browser, 1, 1)
    assert_panel(browser, 1, last, 6, 7)
    press(browser, "#picture", Keys.ESCAPE)
    hover(browser, 1, 2)
    assert_panel(browser, 1, last, 1, 2)
    hover(browser, 5, 5, click=True)
    hover(browser, 5, 5, click=True)
    assert not free.is_displayed()


def _drawn(browser):
    """The middle of each pixel of the picture, [H, W, 3]."""
    values = browser.execute_script(
        """
        const picture = document.getElementById("picture"), canvas = picture.cloneNode();
        const context = canvas.getContext("2d", { willReadFrequently: true });
        const cell = canvas.width / arguments[1], found = [];
        context.drawImage(picture, 0, 0);
        for (let i = 0; i < arguments[0]; i++) for (let j = 0; j < arguments[1]; j++) {
          const at = [(j + 0.3) * cell, (i + 0.3) * cell].map(Math.floor);
          found.push(...context.getImageData(...at, 1, 1).data.slice(0, 3));
        }
        return found;
        """,
        HEIGHT,
        WIDTH,
    )
    return np.reshape(values, (HEIGHT, WIDTH, 3))


def _grey_levels(images):
    return (np.clip(images, -1, 1) + 1) * 127.5


def test_views_show_what_they_are_named_for(page):
    browser = page(network=NETWORK)
    press(browser, "#step", Keys.ARROW_LEFT)
    s = STEPS - 2
    expected = {
        "state": SHOWN.states[s, 0],
        "x0": SHOWN.x0[s, 0],
        "sample": SHOWN.states[-1, 0],
        "network": NETWORK[0],
        "without": SHOWN.repainted[0],
    }
    for view, image in expected.items():
        choose(browser, "view", view)
        np.testing.assert_allclose(_drawn(browser), _grey_levels(image), atol=1, err_msg=view)
    r = np.corrcoef(SHOWN.states[-1, 0].ravel(), NETWORK[0].ravel())[0, 1]
    choose(browser, "view", "difference")
    said = text_of(browser, "caption").rsplit(" ", 1)[1].rstrip(".").replace("−", "-")
    assert float(said) == pytest.approx(r, abs=0.005001)
    difference = (np.clip(SHOWN.states[-1, 0], -1, 1) - NETWORK[0]).mean(-1)
    red, _, blue = np.moveaxis(_drawn(browser), -1, 0)
    assert (red > blue)[difference > 0.05].all()
    assert (red < blue)[difference < -0.05].all()
    choose(browser, "view", "number")
    order = np.argsort(SHOWN.effective_number[s, 0].ravel())
    green = _drawn(browser)[..., 1].ravel()[order]  # of viridis, rises all along
    assert (np.diff(green) >= 0).all()
    assert green[-1] > green[0] + 100
    choose(browser, "view", "without")
    n = SHOWN.left_out[0]
    change = (np.abs(SHOWN.repainted[0] - SHOWN.states[-1, 0]).max(-1) > 1 / 255).sum()
    assert f"without image {n}, which" in text_of(browser, "caption")
    assert f"{change} of {HEIGHT * WIDTH} pixels change" in text_of(browser, "caption")


def _pieced():
    """A mosaic of four pieces of two images, and a pixel that is committed late."""
    shown = mosaic(1, STEPS, (HEIGHT, WIDTH), 1, top=1)
    rows, columns = np.indices((HEIGHT, WIDTH))
    top = shown.top
    top.image[:] = np.where(columns < 4, 7, 3)[..., None]
    top.row[:] = (rows + (rows > 5))[..., None].clip(max=HEIGHT - 1)
    top.row[..., -1, :, :] = HEIGHT - 1
    top.row[..., -2, :, :] = HEIGHT - 1
    top.column[:] = columns[..., None]
    top.weight[:] = 0.75
    top.weight[-1, 0, 0, :5] = 0.25
    top.image[: STEPS - 1, 0, 1, 1] = 3
    return shown


def _pieces(shown, s):
    """Number of pieces, by flooding."""
    label = np.stack(
        [
            shown.top.image[s, 0, ..., 0],
            shown.top.row[s, 0, ..., 0] - np.arange(HEIGHT)[:, None],
            shown.top.column[s, 0, ..., 0] - np.arange(WIDTH),
        ],
        -1,
    )
    left, count = set(zip(*np.nonzero(shown.top.weight[s, 0, ..., 0] >= 0.5), strict=True)), 0
    while left:
        count += 1
        front = [left.pop()]
        while front:
            i, j = front.pop()
            for near in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
                if near in left and (label[near] == label[i, j]).all():
                    left.remove(near)
                    front.append(near)
    return count


def test_pieces_and_commitment_are_found(page):
    shown = _pieced()
    browser = page(shown, training_images(20, (HEIGHT, WIDTH), 1))
    choose(browser, "view", "source")
    caption = text_of(browser, "caption")
    count = _pieces(shown, STEPS - 1)
    assert 4 <= count <= 8
    assert f"{count} pieces from 2 training images; 5 pixels, faint, with no source" in caption
    drawn = _drawn(browser).reshape(-1, 3)
    colours = drawn.reshape(HEIGHT, WIDTH, 3)
    assert (colours[3, 0] != colours[3, -1]).any()
    np.testing.assert_array_equal(colours[3, 4], colours[3, 10])
    press(browser, "#step", Keys.ARROW_LEFT)
    assert f"{_pieces(shown, STEPS - 2)} pieces" in text_of(browser, "caption")
    last = f"t = {float(f'{shown.times[STEPS - 1]:.3g}'):g}"
    hover(browser, 1, 1)
    assert panel(browser)["values"][-1] == last
    hover(browser, 1, 2)
    assert panel(browser)["values"][-1] == "t = 1"
    choose(browser, "view", "offset")
    assert "same place" in text_of(browser, "legend")


def test_a_mosaic_of_one_step_sample_and_source(page):
    shown = mosaic(1, 1, (HEIGHT, WIDTH), 1, top=1, labels=False)
    shown.windows[:] = 0  # sees the whole image
    shown.left_out[:] = -1
    browser = page(shown, training_images(20, (HEIGHT, WIDTH), 1), config={"machine": "is"})
    assert not browser.find_element(By.ID, "play").is_enabled()
    assert not browser.find_element(By.ID, "samples").is_displayed()
    hover(browser, 3, 4)
    assert "window: the whole image" in text_of(browser, "when")
    assert panel(browser)["sources"][0][1] == f"image {shown.top.image[0, 0, 3, 4, 0]}"
    for view in ("state", "x0", "sample", "source", "offset", "number", "commitment", "without"):
        choose(browser, "view", view)
        assert text_of(browser, "caption")
    assert text_of(browser, "caption") == "There is no other training image to paint with."
    assert len(browser.find_elements(By.CSS_SELECTOR, "input[name=view]")) == 8  # without a network


def test_a_picture_of_a_report_is_enlarged(browser, tmp_path):
    from matplotlib.figure import Figure

    picture = Picture("a.png", "What it shows.", "What is seen.", Figure((3, 2)))
    path = tmp_path / "report.html"
    path.write_text(report_page("Report", ["text"], [["a", "b"], ["1", "2"]], [picture], {"a": 1}))
    browser.get(path.as_uri())
    button = browser.find_element(By.CLASS_NAME, "enlarge")
    dialog = browser.find_element(By.TAG_NAME, "dialog")
    assert not dialog.is_displayed()
    button.send_keys(Keys.ENTER)
    assert dialog.is_displayed()
    large = dialog.find_element(By.TAG_NAME, "img")
    assert large.get_attribute("alt") == "What is seen."
    assert "What it shows." in dialog.text
    assert large.size["width"] > button.size["width"]
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    wait(lambda: not dialog.is_displayed())
    assert browser.get_log("browser") == []
