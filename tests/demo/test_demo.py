"""The demo page: its files and limits, the server, and the page operated in a real browser."""

from __future__ import annotations

import errno
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from PIL import ImageCms
from typer.testing import CliRunner

from seemore_fast.cli import app
from seemore_fast.demo import page
from seemore_fast.demo.page import Limits, enlarge
from seemore_fast.errors import ImageError, SeemoreError
from seemore_fast.image import Animation, Image, read, size, write
from seemore_fast.image.picture import PROFILE
from seemore_fast.upscale.size import Size, chosen
from seemore_fast.upscale.upscaler import Upscaler
from tests.support.warm import python

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    return Upscaler("t-x4", "cpu")


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def picture(path: Path, *shape: int) -> Path:
    write(path, Image(noise(*shape)))
    return path


def test_the_result_is_the_networks(tmp_path: Path, upscaler: Upscaler) -> None:
    source = picture(tmp_path / "a photo.png", 20, 26, 3)
    told: list[float] = []
    made = enlarge(source, tmp_path, upscaler, Size(scale=4), Limits(), told.append)
    assert made.result.name == "a photo-x4.png"
    assert np.array_equal(read(made.result).pixels, upscaler.up(read(source).pixels))
    assert size(made.before) == size(made.after) == size(made.result) == (104, 80)
    assert told[-1] == 1
    assert "26 x 20 to 104 x 80 pixels; RGB, 8 bits" in made.report


def test_a_smaller_enlargement_is_resampled(tmp_path: Path, upscaler: Upscaler) -> None:
    made = enlarge(picture(tmp_path / "a.png", 20, 26, 1), tmp_path, upscaler, Size(scale=3), Limits())
    assert made.result.name == "a-x3.png"
    assert size(made.before) == size(made.after) == size(made.result) == (78, 60)


@pytest.mark.parametrize(
    ("choice", "text", "expected"),
    [
        ("width", "100", (100, 77)),
        ("longest", "60", (60, 46)),
        ("at_least", "20x30", (39, 30)),
        ("fit", "500 x 90", None),
        ("fit", "500x90", (117, 90)),
        ("exactly", "50x60", (50, 60)),
        ("shortest", "a few", None),
    ],
)
def test_a_size_is_reached(
    tmp_path: Path, upscaler: Upscaler, choice: str, text: str, expected: tuple[int, int] | None
) -> None:
    source = picture(tmp_path / "a.png", 20, 26, 3)
    if expected is None:
        with pytest.raises(SeemoreError, match=f"{choice} takes "):
            chosen(choice, text)
        return
    made = enlarge(source, tmp_path, upscaler, chosen(choice, text), Limits())
    assert made.result.name == f"a-{expected[0]}x{expected[1]}.png"
    assert size(made.before) == size(made.after) == size(made.result) == expected
    with pytest.raises(ImageError, match=r"a\.png: .* over the limit of 0\.0009 \(--max-output-megapixels\)"):
        enlarge(source, tmp_path, upscaler, chosen(choice, text), Limits(pixels_out=900))


def test_bits_alpha_and_profile_are_kept(tmp_path: Path, upscaler: Upscaler) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = noise(16, 18, 4, dtype=np.uint16)
    blob = pyvips.GValue.blob_type
    write(tmp_path / "deep.png", Image(pixels, {PROFILE: (blob, profile)}))
    result = read(enlarge(tmp_path / "deep.png", tmp_path, upscaler, Size(scale=4), Limits()).result)
    assert result.pixels.dtype == np.uint16
    assert result.icc_profile == profile
    assert np.array_equal(result.pixels, upscaler.up(pixels))


def test_what_is_looked_at_is_reduced_where_it_would_be_large(
    tmp_path: Path, upscaler: Upscaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "_PREVIEW_PIXELS", 5000)
    made = enlarge(picture(tmp_path / "a.png", 16, 32, 3), tmp_path, upscaler, Size(scale=4), Limits())
    assert size(made.result) == (128, 64)
    assert size(made.before) == size(made.after) == (100, 50)


def test_what_is_refused_is_named_without_its_folder(tmp_path: Path, upscaler: Upscaler) -> None:
    small = Limits(bytes=1000, pixels=500)

    def refusal(path: Path) -> str:
        with pytest.raises(ImageError) as caught:
            enlarge(path, tmp_path, upscaler, Size(scale=4), small)
        return str(caught.value)

    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(PNG + b"nothing")
    assert refusal(damaged).startswith("damaged.png: truncated or damaged")
    text = tmp_path / "text.png"
    text.write_text("not a picture")
    assert refusal(text).startswith("text.png: not a PNG")
    heavy = picture(tmp_path / "heavy.png", 20, 25, 3)
    assert refusal(heavy) == "heavy.png: 0.0 MB is over the limit of 0.001 MB (--max-upload)"
    large = tmp_path / "large.png"
    write(large, Image(np.zeros((10, 51, 1), np.uint8)))
    assert refusal(large).startswith("large.png: 51x10 is over the limit of 0.0005 megapixels")
    moving = tmp_path / "moving.gif"
    write(
        moving,
        Image(np.repeat(np.uint8([0, 255]), 8 * 8 * 3).reshape(16, 8, 3), animation=Animation(2, (9, 9), 0)),
    )
    assert refusal(moving).startswith("moving.gif: an animation")
    assert not list(tmp_path.glob("*-x4.png"))


def test_every_sample_is_a_small_picture_with_terms() -> None:
    terms = (page.SAMPLES / "README.md").read_text()
    samples = sorted(page.SAMPLES.glob("*.png"))
    assert len(samples) == 3
    for sample in samples:
        assert f"`{sample.name}`" in terms
        assert max(size(sample)) <= 256


@pytest.mark.parametrize("option", ["--max-upload", "--max-megapixels"])
def test_a_limit_is_a_finite_number(option: str) -> None:
    done = CliRunner().invoke(app, ["demo", option, "inf"])
    assert done.exit_code == 2
    assert option in done.output


def test_two_models_of_one_name_are_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["demo", "--model", "t-x4", "--model", "t-x4"])
    assert done.exit_code == 2
    assert "two networks would be called 't-x4'" in done.output


def need(*modules: str) -> None:
    for module in modules:
        pytest.importorskip(module, reason=f"{module} is not installed")


def test_the_server_listens_to_this_machine_and_takes_its_files_along(
    tmp_path: Path, upscaler: Upscaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("gradio", "httpx")
    import httpx

    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with page.serving({"t-x4": upscaler}, Limits(bytes=1000)) as url:
        port = httpx.URL(url).port
        assert url == f"http://127.0.0.1:{port}/"
        answer = httpx.get(url, trust_env=False)
        assert answer.status_code == 200, answer.text
        assert "seemore-fast" in answer.text
        with pytest.raises(ConnectionRefusedError):  # as everything but 127.0.0.1
            socket.create_connection(("127.0.0.2", port), timeout=10)
        for length, status in ((900, 200), (2000, 413)):
            files = {"files": ("a.png", b"x" * length)}
            answer = httpx.post(f"{url}gradio_api/upload", files=files, trust_env=False)
            assert answer.status_code == status, answer.text
        taken = pytest.raises(SeemoreError, match=f"cannot listen on 127.0.0.1, port {port}: ")
        with taken, page.serving({"t-x4": upscaler}, Limits(), port=port):
            pass
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())
    elsewhere = pytest.raises(SeemoreError, match=r"cannot listen on 192\.0\.2\.1, port 7860 and above: ")
    with elsewhere, page.serving({"t-x4": upscaler}, Limits(), "192.0.2.1"):
        pass


def test_foreign_pages_and_unknown_ids(upscaler: Upscaler) -> None:
    need("gradio", "httpx")
    import httpx

    with page.serving({"t-x2": upscaler, "t-x4": upscaler}, Limits()) as url:
        port = httpx.URL(url).port

        def status(method: str, path: str, **headers: str) -> int:
            answer = httpx.request(method, f"{url}{path}", headers=headers, trust_env=False)
            assert "Traceback" not in answer.text
            return answer.status_code

        assert status("GET", "") == 200
        assert status("GET", "", Host=f"localhost:{port}") == 200
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "192.0.2.1", ""):
            assert status("GET", "", Host=host) == 403, host
        assert status("POST", "gradio_api/upload", Origin="https://evil.example") == 403
        assert status("POST", "gradio_api/upload", Origin="null") == 403
        assert status("GET", "", Origin=f"http://127.0.0.1:{port}") == 200
        for method, path in [
            ("GET", "gradio_api/queue/data?session_hash=unknown"),
            ("GET", "gradio_api/call/run/unknown"),
            ("POST", "gradio_api/call/unknown"),
            ("POST", "gradio_api/run/unknown"),
            ("GET", "gradio_api/upload_progress?upload_id=unknown"),
            ("GET", "gradio_api/file=/etc/passwd"),
            ("GET", "gradio_api/stream/unknown/unknown/unknown/playlist.m3u8"),
            ("GET", "gradio_api/component_server"),
            ("GET", "unknown"),
        ]:
            assert 400 <= status(method, path) < 500, path
        config = httpx.get(f"{url}config", trust_env=False).json()
        parts = {part["props"].get("elem_id"): part["props"] for part in config["components"]}
        assert parts["model"]["value"] == "t-x4"
        assert [choice[1] for choice in parts["scale"]["choices"]] == [2, 3, 4]
        order = [part["props"].get("elem_id") for part in config["components"]]
        assert order.index("slider") < order.index("download")

        # What the page itself asks for comes through: another model's scales.
        ids = {part["props"].get("elem_id"): part["id"] for part in config["components"]}
        (event,) = [event["id"] for event in config["dependencies"] if event["inputs"] == [ids["model"]]]
        asked = {"data": ["t-x2"], "fn_index": event, "session_hash": "mine"}
        joined = httpx.post(f"{url}gradio_api/queue/join", json=asked, trust_env=False)
        assert joined.status_code == 200, joined.text
        answer = httpx.get(f"{url}gradio_api/queue/data?session_hash=mine", trust_env=False, timeout=60)
        assert answer.status_code == 200
        assert "process_completed" in answer.text
        assert '"success":true' in answer.text.replace(" ", "")
        assert '"value":4' in answer.text.replace(" ", "")


def test_the_first_free_port_is_taken() -> None:
    port = page._free_port("127.0.0.1", None)
    assert 7860 <= port < 7960
    with socket.create_server(("127.0.0.1", port)):
        assert page._free_port("127.0.0.1", None) > port
        with pytest.raises(OSError) as caught:  # noqa: PT011
            page._free_port("127.0.0.1", port)
    assert caught.value.errno == errno.EADDRINUSE


def test_a_message_of_the_page_is_text_not_markup(tmp_path: Path, upscaler: Upscaler) -> None:
    need("gradio")
    import gradio

    blocks = page.page({"t-x4": upscaler}, Limits(), tmp_path)
    (run,) = [function.fn for function in blocks.fns.values() if function.name == "run"]
    source = tmp_path / "<b>.png"
    source.write_bytes(b"")
    with pytest.raises(gradio.Error) as caught:
        run(str(source), "t-x4", 4, "by enlargement", "")
    assert caught.value.message == "&lt;b&gt;.png: the file is empty"
    assert list(tmp_path.iterdir()) == [source]
    with pytest.raises(gradio.Error, match="Choose a picture first"):
        run(None, "t-x4", 4, "by enlargement", "")


# The page as a person uses it: the command, and Chromium.


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    """The address of a page that the command serves."""
    need("gradio", "selenium")
    for program in ("chromium", "chromedriver"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [*python(), "-m", "seemore_fast.cli", "demo", "--device", "cpu", "--max-upload", "1"]
    server = subprocess.Popen([*command, "--port", str(port)], stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        line = server.stderr.readline()
        assert f"http://127.0.0.1:{port}/ " in line, line + server.stderr.read()
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 130


class Page:
    """What a person does on the page; waits as a person would."""

    def __init__(self, driver: Any):
        self.driver = driver

    def find(self, selector: str) -> Any:
        return self.wait(lambda: self.driver.find_elements("css selector", selector))[0]

    def wait(self, condition: Callable[[], Any]) -> Any:
        end = time.monotonic() + 60
        while not (found := condition()):
            assert time.monotonic() < end, self.find("body").text
            time.sleep(0.1)
        return found

    def choose(self, path: Path) -> None:
        """Replaces the picture."""
        for clear in self.driver.find_elements("css selector", "#source button[aria-label=Clear]"):
            clear.click()
        self.find("#source input[type=file]").send_keys(str(path))

    def enlarge(self, path: Path) -> None:
        self.choose(path)
        self.wait(lambda: path.stem in self.find("#source").text)
        self.find("#start").click()

    def messages(self) -> str:
        return " ".join(toast.text for toast in self.driver.find_elements("css selector", ".toast-body"))

    def close_messages(self) -> None:
        for button in self.driver.find_elements("css selector", "[data-testid=toast-close]"):
            button.click()
        self.wait(lambda: not self.messages())


@pytest.fixture
def browser(served: str, tmp_path: Path) -> Iterator[Page]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1000"):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path / "downloads")})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        driver.get(served)
        yield Page(driver)
    finally:
        driver.quit()


@pytest.mark.full
def test_a_size_is_asked_for(browser: Page, tmp_path: Path) -> None:
    browser.find("#choice input").click()
    options = browser.wait(lambda: browser.driver.find_elements("css selector", "[role=option]"))
    next(option for option in options if option.text.strip().endswith("longest")).click()
    browser.find("#pixels textarea, #pixels input").send_keys("100")
    browser.enlarge(picture(tmp_path / "photo.png", 30, 42, 3))
    browser.wait(lambda: "42 x 30 to 100 x 71 pixels" in browser.find("#report").text)


@pytest.mark.full
def test_upload_slider_and_download(browser: Page, tmp_path: Path, upscaler: Upscaler) -> None:
    from selenium.webdriver import ActionChains

    source = picture(tmp_path / "photo.png", 30, 42, 3)
    browser.enlarge(source)
    browser.wait(lambda: "42 x 30 to 168 x 120 pixels" in browser.find("#report").text)
    natural = (
        "return [...document.querySelectorAll('#slider img')].map(i => [i.naturalWidth, i.naturalHeight])"
    )
    browser.wait(lambda: browser.driver.execute_script(natural) == [[168, 120], [168, 120]])

    after = browser.find("#slider img.fixed")
    assert "50%" in after.get_attribute("style")
    handle = browser.find("#slider [data-testid=slider] .icon-wrap")
    ActionChains(browser.driver).drag_and_drop_by_offset(handle, 60, 0).perform()
    browser.wait(lambda: "50%" not in after.get_attribute("style"))

    browser.find("#download").click()
    result = tmp_path / "downloads/photo-x4.png"
    browser.wait(result.is_file)
    assert np.array_equal(read(result).pixels, upscaler.up(read(source).pixels))


@pytest.mark.full
def test_a_sample_at_another_enlargement(browser: Page) -> None:
    browser.find("#samples button").click()
    browser.wait(lambda: "coffee" in browser.find("#source").text)
    browser.find("#scale label").click()
    browser.find("#start").click()
    browser.wait(lambda: "240 x 200 to 480 x 400 pixels" in browser.find("#report").text)


@pytest.mark.full
def test_what_cannot_be_enlarged_is_said_on_the_page(browser: Page, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(PNG + b"nothing")
    browser.enlarge(damaged)
    browser.wait(lambda: "damaged.png: truncated or damaged" in browser.messages())

    browser.close_messages()
    large = tmp_path / "large.png"
    write(large, Image(np.zeros((2001, 2000, 1), np.uint8)))
    browser.enlarge(large)
    browser.wait(lambda: "large.png: 2000x2001 is over the limit of 4 megapixels" in browser.messages())

    browser.close_messages()
    heavy = tmp_path / "heavy.png"
    heavy.write_bytes(PNG + bytes(1_200_000))
    browser.choose(heavy)
    browser.wait(lambda: "exceed the maximum allowed size" in browser.messages())


@pytest.mark.full
def test_on_a_phone_the_result_stands_above_the_download(browser: Page) -> None:
    browser.driver.set_window_size(500, 900)
    browser.wait(lambda: browser.find("#model input").get_attribute("value") == "t-x4")
    assert [label.text for label in browser.driver.find_elements("css selector", "#scale label")] == [
        "x2",
        "x3",
        "x4",
    ]
    places = [browser.find(f"#{name}").rect for name in ("source", "slider", "download")]
    assert [place["y"] for place in places] == sorted(place["y"] for place in places)
    assert places[1]["x"] < 100, "one column"
