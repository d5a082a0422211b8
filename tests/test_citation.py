"""CITATION.cff names this version, and README the same papers."""

import re
from pathlib import Path

import deepnmf_cli

ROOT = Path(__file__).parent.parent
CITATION, README = ((ROOT / name).read_text("utf-8") for name in ("CITATION.cff", "README.md"))


def test_the_version_is_that_of_the_package():
    assert re.search(r"^version: (.+)$", CITATION, re.MULTILINE)[1] == deepnmf_cli.__version__
    assert re.search(r"^authors:\n  - name: (.+)$", CITATION, re.MULTILINE)[1] == "deepnmf contributors"


def test_the_readme_names_the_same_papers():
    papers = re.findall(r"arXiv:(\d{4}\.\d{5}|\d{4}\.\d{4})", CITATION)
    assert len(papers) == 2 and papers == re.findall(r"\[arXiv:([\d.]+)\]\(https://arxiv.org/abs/\1\)", README)
    for title in re.findall(r'^    title: "?(.+?)"?$', CITATION, re.MULTILINE):
        assert title in " ".join(README.split())
