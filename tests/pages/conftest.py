"""A page to open in a browser."""

from pathlib import Path
from typing import Any

import pytest

LISTEN = """
// Whatever a page sends to the loudspeakers goes to an analyser too.
const connect = AudioNode.prototype.connect;
AudioNode.prototype.connect = function (target, ...more) {
  if (target instanceof AudioDestinationNode) {
    window.ear = window.ear || new AnalyserNode(this.context, { fftSize: 4096, smoothingTimeConstant: 0 });
    connect.call(this, window.ear);
  }
  return connect.call(this, target, ...more);
};
window.started = [];
const start = AudioBufferSourceNode.prototype.start;
AudioBufferSourceNode.prototype.start = function (when, offset) {
  window.started.push([when, offset]);
  return start.call(this, when, offset);
};
// [frequency in Hz of what is loudest, its level in dB]
window.heard = () => {
  if (!window.ear) return [0, -Infinity];
  const levels = new Float32Array(window.ear.frequencyBinCount);
  window.ear.getFloatFrequencyData(levels);
  const loudest = levels.indexOf(Math.max(...levels));
  return [loudest * window.ear.context.sampleRate / window.ear.fftSize, levels[loudest]];
};
"""


@pytest.fixture
def show(browser):
    """show(file) -> the page of playwright; fails at the end if it said anything on the console or asked for more than
    the file.
    """
    complaints: list[str] = []
    tab = browser.new_page(viewport={"width": 1280, "height": 900}, offline=True)
    tab.add_init_script(LISTEN)
    tab.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))

    def open_file(path: Path) -> Any:
        tab.goto(path.resolve().as_uri())
        return tab

    yield open_file
    tab.close()
    assert not complaints
    assert not [url for url in asked[1:] if not url.startswith("data:")]
