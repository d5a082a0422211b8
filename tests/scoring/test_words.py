"""Words, their errors, and the program that hears them."""

import shlex
import sys

import numpy as np
import pytest

from deepnmf_cli.errors import CorpusError, DeepnmfError
from deepnmf_cli.scoring.words import errors, overall, read_transcripts, recognised, words


def edit_distance(said: list[str], heard: list[str]) -> int:
    """The slow twin, by the recursion of Levenshtein."""
    if not said or not heard:
        return len(said) + len(heard)
    if said[0] == heard[0]:
        return edit_distance(said[1:], heard[1:])
    ways = (said[1:], heard[1:]), (said[1:], heard), (said, heard[1:])
    return 1 + min(edit_distance(*way) for way in ways)


def test_errors_are_the_fewest_changes_insertions_and_deletions():
    draw = np.random.default_rng(0)
    for _ in range(60):
        said, heard = (list(draw.choice(["a", "b", "c"], draw.integers(0, 6))) for _ in range(2))
        assert errors(said, heard) == edit_distance(said, heard), (said, heard)


def test_words_are_without_case_and_punctuation():
    assert words("It\u2019s 5 o'clock -- \u201cSTRA\u00dfE\u201d, isn't it?\n") == [
        "it's", "5", "o'clock", "strasse", "isn't", "it",
    ]  # fmt: skip
    assert words(" ... ") == []


def test_marks_are_parts_of_words():
    assert words("हिन्दी में, ก็ 👍️") == ["हिन्दी", "में", "ก็"]
    assert words("हिन्दी") != words("हिन्दा")
    assert words("'tis rock''n''roll's _x_") == ["tis", "rock", "n", "roll's", "x"]


def test_a_corpus_is_scored_over_all_of_its_words():
    assert overall({"a": "one two three", "b": "one"}, {"a": 0.0, "b": 100.0}) == 25.0
    assert overall({"a": ""}, {"a": 0.0}) is None


def test_a_program_gets_a_wav_file_in_its_place_or_last():
    count = (
        "import sys, wave; f = wave.open(sys.argv[1]); print(f.getparams()[:4], f.readframes(3).hex(), sys.argv[2:])"
    )
    program = f"{shlex.quote(sys.executable)} -c {shlex.quote(count)}"
    samples = np.array([[0.5, 2.0, -2.0], [0.0, 0.0, 0.0]])
    expected = np.array([[16384, 0], [32767, 0], [-32768, 0]], "<i2").tobytes().hex()
    assert recognised(program, samples, 8000).strip() == f"(2, 2, 8000, 3) {expected} []"
    assert recognised(f"{program} {{}} end", samples, 8000).strip() == f"(2, 2, 8000, 3) {expected} ['end']"


@pytest.mark.parametrize(
    "command, found",
    [
        ("no-such-program-here", "it cannot be started (No such file or directory)"),
        (f"{sys.executable} -c 'import sys; sys.exit(3)'", "exit code 3 (no message)"),
        ("'open", "a command that cannot be read"),
        ("  ", "no command"),
    ],
)
def test_a_program_that_does_not_work_is_named(command, found):
    with pytest.raises(DeepnmfError) as raised:
        recognised(command, np.zeros((1, 9)), 8000)
    assert found in str(raised.value) and str(raised.value).startswith("--asr-command")


def test_a_program_keeps_its_models_where_it_does_without_us(monkeypatch):
    """Caches of `deepnmf evaluate` are removed at its end: a recogniser would fetch its models again each time."""
    monkeypatch.setenv("XDG_CACHE_HOME", "elsewhere/.deepnmf-abcd1234.deepnmf-partial/cache")
    monkeypatch.setenv("MPLCONFIGDIR", "figures")
    shown = f'{sys.executable} -c \'import os; print(os.environ.get(chr(88) + "DG_CACHE_HOME"), os.environ["MPLCONFIGDIR"])\''
    assert recognised(shown, np.zeros((1, 9)), 8000).split() == ["None", "figures"]


def test_transcripts_are_read_by_name(tmp_path):
    path = tmp_path / "said.csv"
    path.write_text("name,text\na,hello\na.1,good night\ncafe\u0301.WAV,thanks\n", "utf-8")
    assert read_transcripts(path, ["a", "a.1", "caf\xe9"]) == {"a": "hello", "a.1": "good night", "caf\xe9": "thanks"}
    path.write_text("name,text\na,hello\na.wav,good night\n", "utf-8")
    with pytest.raises(CorpusError, match="a second row for 'a' in line 3"):
        read_transcripts(path, ["a"])
    path.write_text('text,name\n"well, yes",a/b.flac\nno,c.1\n', "utf-8")
    assert read_transcripts(path, ["a/b", "c.1"]) == {"a/b": "well, yes", "c.1": "no"}
    path.write_text("name,text\na,yes\n,\na,no\n,\n", "utf-8")
    with pytest.raises(CorpusError, match="a second row for 'a' in line 4"):
        read_transcripts(path, ["a"])
    path.write_text('text,name\n"well, yes",a/b.flac\nno,c.1\n', "utf-8")
    with pytest.raises(CorpusError, match="no text for 1 of 2 recordings, the first being 'd'"):
        read_transcripts(path, ["a/b", "d"])
    path.write_text("name,words\n", "utf-8")
    with pytest.raises(CorpusError, match="found the columns name, words; expected the columns name and text"):
        read_transcripts(path, ["a"])
    with pytest.raises(CorpusError, match="no readable CSV file"):
        read_transcripts(tmp_path / "gone.csv", ["a"])
