"""Scores on disk as they come: found again for the same files only, whatever a crash left of the file."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from deepnmf_cli.errors import DeepnmfError
from deepnmf_cli.scoring import ledger
from deepnmf_cli.scoring.ledger import LEDGER, Ledger
from deepnmf_cli.scoring.metrics import METRICS
from deepnmf_cli.scoring.pairing import Pair
from deepnmf_cli.scoring.scorer import Scores
from tests import faults


@pytest.fixture
def pair(write):
    return Pair("a", write("clean/a.wav", np.ones(9)), write("noisy/a.wav", np.ones(9)))


VALUES = dict.fromkeys(METRICS, 0.1 + 0.2) | {"PESQ": math.nan}
SCORES = Scores("a", VALUES, ("PESQ: too short",), 9 / 16000, 16000, 0.02)


def keep(folder, pair: Pair, *system: str) -> None:
    with Ledger(folder) as kept:
        part = kept.of(*system)
        assert part.get(pair) is None
        part.add(pair, SCORES)


def found(folder, pair: Pair, *system: str) -> Scores | None:
    with Ledger(folder) as kept:
        scores = kept.of(*system).get(pair)
        assert kept.found == (scores is not None)
        return scores


def test_a_score_is_found_again_to_the_last_bit(tmp_path, pair):
    keep(tmp_path, pair, "files")
    again = found(tmp_path, pair, "files")
    assert {**again.values, "PESQ": None} == {**VALUES, "PESQ": None} and math.isnan(again.values["PESQ"])
    assert (again.name, again.notes, again.seconds, again.rate_hz, again.lag_s) == (
        "a", ("PESQ: too short",), 9 / 16000, 16000, 0.02,
    )  # fmt: skip
    assert found(tmp_path, pair, "files") == again  # rewriting the file keeps it


def test_a_score_is_on_disk_before_the_next_begins(tmp_path, pair):
    with Ledger(tmp_path) as kept:
        part = kept.of("files")
        part.get(pair)
        part.add(pair, SCORES)
        assert len((tmp_path / LEDGER).read_text("utf-8").splitlines()) == 2
        kept.remove()
    assert not (tmp_path / LEDGER).exists()


@pytest.mark.parametrize("side", ["reference", "estimate"])
def test_a_changed_file_is_scored_again(tmp_path, pair, side, write):
    keep(tmp_path, pair, "files")
    path = getattr(pair, side)
    before = path.stat()
    write(str(path.relative_to(tmp_path)), np.zeros(9))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1000))
    assert found(tmp_path, pair, "files") is None
    write(str(path.relative_to(tmp_path)), np.ones(10))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert found(tmp_path, pair, "files") is None
    path.unlink()
    assert found(tmp_path, pair, "files") is None


def test_another_model_another_device_and_another_version_score_again(tmp_path, pair, monkeypatch):
    keep(tmp_path, pair, "model", "ab" * 32, "cpu")
    assert found(tmp_path, pair, "model", "cd" * 32, "cpu") is None
    assert found(tmp_path, pair, "model", "ab" * 32, "cuda") is None
    assert found(tmp_path, pair, "model", "ab" * 32, "cpu") is not None
    monkeypatch.setattr(ledger, "SCORING", ledger.SCORING + 1)
    assert found(tmp_path, pair, "model", "ab" * 32, "cpu") is None


def test_what_is_no_score_is_left_out_wherever_a_crash_cut_the_file(tmp_path, pair):
    keep(tmp_path, pair, "files")
    whole = (tmp_path / LEDGER).read_bytes()
    header = whole.index(b"\n") + 1
    for end in (0, 5, header, header + 1, len(whole) // 2, len(whole) - 2):
        (tmp_path / LEDGER).write_bytes(whole[:end])
        assert found(tmp_path, pair, "files") is None
    (tmp_path / LEDGER).write_bytes(whole[:-1])
    assert found(tmp_path, pair, "files") is not None
    line = json.loads(whole[header:])
    for text in (
        b"[]\n3\nnull\n\xff\n",
        json.dumps({**line, "values": {}}).encode(),
        json.dumps({"key": line["key"]}).encode(),
    ):
        (tmp_path / LEDGER).write_bytes(whole[:header] + text)
        assert found(tmp_path, pair, "files") is None


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(DeepnmfError, match="gone.unfinished.jsonl: found that it cannot be written"):
        Ledger(tmp_path / "gone")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_an_error_with_a_remedy(tmp_path, pair):
    with Ledger(tmp_path) as kept:
        part = kept.of("files")
        part.get(pair)
        kept._file.close()
        kept._file = Path("/dev/full").open("w", encoding="utf-8")  # noqa: SIM115  the ledger closes it
        with pytest.raises(DeepnmfError, match="cannot be written .No space left on device.; .* free some space"):
            part.add(pair, SCORES)


def test_no_line_holds_what_json_lacks():
    with pytest.raises(ValueError, match="JSON"):
        ledger._text({"key": math.nan})


def test_a_score_passes_a_point_before_and_after_it_is_in_the_file(tmp_path, pair):
    with Ledger(tmp_path) as kept, faults.at() as points:
        part = kept.of("files")
        part.get(pair)
        part.add(pair, SCORES)
    assert points == [f"{LEDGER}: line", f"{LEDGER}: appended"]
