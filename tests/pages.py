"""The Markdown pages of the repository: their blocks, links and headings."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "teachers/README.md", *sorted((ROOT / "docs").glob("*.md"))]
"""Those whose commands are run."""
ALL = [*PAGES, *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md"))]
ALL += [ROOT / "examples/digits/README.md", ROOT / "jobs/ablation_12m/README.md"]

RUN = ("sh", "console", "python")
_BLOCK = re.compile(r"^(?:<!-- (.*?) -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    remark: str
    """What the comment in front of it says."""

    @property
    def runs(self) -> bool:
        return self.language in RUN and not self.remark.startswith("not run: ")

    def commands(self) -> Iterator[str]:
        """A console's lines behind `$ `, or a shell script's; continued lines are one."""
        for line in re.sub(r"\\\n\s*", "", self.text).splitlines():
            if self.language == "console" and not line.startswith("$ "):
                continue
            if command := line.removeprefix("$ ").strip():
                yield command


def blocks(page: Path) -> list[Block]:
    found = _BLOCK.findall(page.read_text(encoding="utf-8"))
    return [Block(language, text, remark) for remark, language, text in found]


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def links(page: Path) -> list[str]:
    """The targets of a page's links."""
    return _LINK.findall(_without_blocks(page))


def anchors(page: Path) -> set[str]:
    """The names of a page's headings in addresses."""
    headings = (re.sub(r"[`*]", "", heading.lower()) for heading in _HEADING.findall(_without_blocks(page)))
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}


def inline_code(page: Path) -> list[str]:
    """What stands between single backticks, on one line."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", _without_blocks(page))]


def _without_blocks(page: Path) -> str:
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))
