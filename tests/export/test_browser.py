"""The page of docs/examples enhances in a browser as the program does."""

import base64
import re
import shutil
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from threading import Thread

import numpy as np
import onnx
import pytest
import soundfile

from deepnmf_cli import enhance, zoo
from tests.export.test_examples import DEMO, EXAMPLES, node_packages

PARTS = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


class Quiet(SimpleHTTPRequestHandler):
    """A server of static files that prints nothing."""

    def log_message(self, *_):
        pass


@pytest.fixture
def address(tmp_path):
    for name in ("denoiser.mjs", "browser.html"):
        shutil.copy(EXAMPLES / name, tmp_path)
    onnx.save(onnx.load(zoo.models_folder() / "tiny/model.streaming.onnx"), tmp_path / "model.onnx")
    (tmp_path / "ort").mkdir()
    for name in PARTS:
        shutil.copy(node_packages() / "onnxruntime-web/dist" / name, tmp_path / "ort")
    samples, rate_hz = soundfile.read(DEMO, dtype="int16")
    soundfile.write(tmp_path / "noisy.wav", samples[:32000] + np.int16(500), rate_hz)
    server = ThreadingHTTPServer(("localhost", 0), partial(Quiet, directory=tmp_path))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.skipif(node_packages() is None, reason="needs onnxruntime-web")
def test_the_page_writes_what_the_program_writes(address, tmp_path, browser):
    tab = browser.new_page()
    tab.goto(f"{address}/browser.html?file=noisy.wav")
    link = tab.wait_for_selector("#speech", timeout=120_000).get_attribute("href")
    tab.close()
    found = re.fullmatch(r"data:audio/wav;base64,(.+)", link)
    assert found, link[:100]
    speech, rate_hz = soundfile.read(BytesIO(base64.b64decode(found[1])), dtype="int16")
    noisy, _ = soundfile.read(tmp_path / "noisy.wav", dtype="int16")
    expected = enhance(noisy, rate_hz, "tiny", device="cpu")
    assert rate_hz == 16000 and np.abs(speech.astype(int) - expected).max() <= 1
