"""The recipes: job files, and cards of models with their plug-ins."""

import re
from pathlib import Path

from pages import ROOT

FIELD = re.compile(r"# \w[\w ]*: {2,}")
"""What begins the part of a header that says what the recipe makes and needs."""


def recipe_files() -> list[str]:
    """Their paths in the repository."""
    found = [*ROOT.glob("jobs/**/*.yaml"), *ROOT.glob("teachers/**/*.yaml"), *ROOT.glob("teachers/**/*.py")]
    return sorted(str(path.relative_to(ROOT)) for path in found)


def recipe_page(recipe: str) -> str:
    """Where the page of a recipe lies in the site."""
    path = Path(recipe)
    return str(path.with_suffix(".md") if path.suffix == ".yaml" else path.with_name(f"{path.stem}_py.md"))


def first_sentence(recipe: Path) -> str:
    """The first sentence of a recipe's header."""
    words = []
    for line in recipe.read_text(encoding="utf-8").splitlines():
        if line.startswith("#!"):
            continue
        if not line.startswith("# ") or FIELD.match(line):
            break
        words.append(line.removeprefix("# "))
    return re.split(r"(?<=\.) +(?=[A-Z])", " ".join(words))[0]
