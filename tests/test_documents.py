"""The documents point to what exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *(path for top in ("docs", "models", "data") for path in sorted((ROOT / top).rglob("*.md"))),
]


PAGES_OF_USERS = [
    ROOT / "README.md",
    *(path for folder in ("docs", "docs/theory") for path in sorted((ROOT / folder).glob("*.md"))),
    *sorted((ROOT / "models").rglob("*.md")),
]
PAGES_OF_USERS.remove(ROOT / "docs" / "changelog.md")


def without_blocks(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def links(page: Path) -> list[str]:
    """Targets of the links of a Markdown file that lead to other files of the project, or to its own headings."""
    text = re.sub(r"`[^`\n]*`", "", without_blocks(page.read_text("utf-8")))
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]


def target(page: Path, link: str) -> Path:
    name = link.partition("#")[0]
    return (page.parent / name).resolve() if name else page


def fragments(page: Path) -> set[str]:
    """The names that GitHub gives to the headings of a Markdown file."""
    titles = re.findall(r"^#+ (.+)$", without_blocks(page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(document):
    for link in links(document):
        found, fragment = target(document, link), link.partition("#")[2]
        assert found.exists() and found.is_relative_to(ROOT), link
        assert not fragment or fragment in fragments(found), link


def test_every_page_of_the_documentation_is_reachable_from_its_index():
    reached, waiting = set(), [ROOT / "docs" / "index.md"]
    while waiting:
        page = waiting.pop()
        if page.suffix == ".md" and page.is_file() and page not in reached:
            reached.add(page)
            waiting += [target(page, link) for link in links(page)]
    assert not sorted(str(page.relative_to(ROOT)) for page in set((ROOT / "docs").rglob("*.md")) - reached)


@pytest.mark.parametrize("page", PAGES_OF_USERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_of_users_leave_the_history_of_the_work_to_research(page):
    number = "first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth"
    history = re.compile(
        rf"\b({number})\s+runs?\b|to\s+be\s+reached|\baims?\b|\bthat\s+day\b|base-({number})\b", re.IGNORECASE
    )
    assert not history.search(page.read_text("utf-8"))
