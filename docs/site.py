"""Hooks for MkDocs that add what the site needs beside the pages of this folder.

Pages elsewhere in the project, such as the models' cards, are placed below `project/` on the site, and links between
all pages are adapted to that. The recordings to listen to are those of the demo. A link to a file that is not on the
site becomes plain text.
"""

import os
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
ELSEWHERE = {
    path: f"project/{path.relative_to(ROOT)}"
    for path in [
        *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "LICENSE", "data/README.md")),
        *sorted(ROOT.glob("models/*/README.md")),
    ]
}
"""Files outside of this folder -> their places on the site."""

DEMO = ROOT / "data" / "demo"
SOUNDS = {DEMO / f"{name}.wav": f"listen/{name}.wav" for name in ("noisy", "enhanced", "clean")}

LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_files(files, config):
    for path, place in (ELSEWHERE | SOUNDS).items():
        files.append(File.generated(config, place, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    folder = origin(page.file).parent
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.DOTALL | re.MULTILINE)  # blocks of code stay as they are
    for place in range(0, len(parts), 2):
        parts[place] = LINK.sub(lambda match: lead(match, folder, page.file, files), parts[place])
    return "".join(parts)


def on_post_page(output, page, config):
    return without_network(output, page.file.dest_uri.count("/"))


def on_post_template(output_content, template_name, config):
    return without_network(output_content, 0)


def without_network(html: str, depth: int) -> str:
    """Replace the script for pages on a disk that the theme would load from another host by the site's own."""
    return html.replace("https://unpkg.com/iframe-worker/shim", f"{'../' * depth}assets/search-on-disk.js")


def lead(match, folder, file, files) -> str:
    """Return a link of a page in `folder` of the project as it must be on the site."""
    text, target = match.groups()
    name, hash_, fragment = target.partition("#")
    if "://" in target or not name:
        return match[0]
    path = (folder / name).resolve()
    path = path / "README.md" if (path / "README.md").is_file() else path
    place = str(path.relative_to(DOCS)) if path.is_relative_to(DOCS) else ELSEWHERE.get(path)
    if path == ROOT / "models":
        place = ELSEWHERE[ROOT / "models" / "base" / "README.md"]
    if place is None or files.get_file_from_path(place) is None:
        return text
    return f"[{text}]({os.path.relpath(place, os.path.dirname(file.src_uri) or '.')}{hash_}{fragment})"


def origin(file) -> Path:
    """Return the path of a page's source in the project."""
    return Path(file.abs_src_path).resolve()
