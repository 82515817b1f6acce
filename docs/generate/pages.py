"""The files of the repository that are pages of the site, and the links between them."""

import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
BESIDE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks/index.md",
    "benchmarks/learning_efficiency.png": "benchmarks/learning_efficiency.png",
    "examples/digits/README.md": "examples/digits.md",
    "jobs/ablation_12m/README.md": "jobs/ablation_12m/index.md",
    "teachers/README.md": "teachers/index.md",
}
"""Files outside of docs/, and where they lie in the site."""
LINK = re.compile(r"\[([^\]\n]*)\]\((?!\w+:|#)([^)\s#]+)(#[^)\s]*)?\)")


def sources() -> dict[str, str]:
    """The places in the site of all files that are written by hand, by their paths in the repository."""
    docs = ROOT / "docs"
    found = [*docs.glob("*.md"), *docs.glob("assets/*")]
    return {f"docs/{path.relative_to(docs)}": str(path.relative_to(docs)) for path in sorted(found)} | BESIDE


def turned(text: str, source: str, places: dict[str, str]) -> str:
    """The text of a file with its links, which lead to files of the repository, leading to their places in the site.

    A link that is called by its file's name is called by the page's title. A file that has no place there, such as a
    module, keeps its words without a link; one that does not exist keeps its link, for the builder to find it broken.
    """
    here = posixpath.dirname(places[source])

    def link(found: re.Match[str]) -> str:
        words, target, anchor = found[1], found[2], found[3] or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if path in places:
            words = title(path) if words.endswith(".md") else words
            return f"[{words}]({posixpath.relpath(places[path], here or '.')}{anchor})"
        return words if (ROOT / path).exists() else found[0]

    return LINK.sub(link, text)


def title(page: str) -> str:
    """The first heading of a Markdown file of the repository."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return next(line.removeprefix("# ") for line in text.splitlines() if line.startswith("# "))
