"""The recipes: job files, cards of models with their plug-ins, and the files that start a job somewhere."""

import re
from pathlib import Path

from pages import ROOT

FIELD = re.compile(r"# \w[\w ]*: {2,}")
"""What begins the part of a header that says what the recipe makes and needs."""


SHOWN = ["jobs/**/*.yaml", "teachers/**/*.yaml", "teachers/**/*.py", "docker/*", "examples/clusters/*"]
LANGUAGES = {".yaml": "yaml", ".py": "python", ".sh": "bash"}


def recipe_files() -> list[str]:
    """Their paths in the repository."""
    return sorted(str(path.relative_to(ROOT)) for pattern in SHOWN for path in ROOT.glob(pattern) if path.is_file())


def recipe_page(recipe: str) -> str:
    """Where the page of a recipe lies in the site."""
    path = Path(recipe)
    return str(
        path.with_suffix(".md") if path.suffix == ".yaml" else path.with_name(path.name.replace(".", "_") + ".md")
    )


def recipe_text(recipe: str) -> str:
    """The page of a recipe: the file whole."""
    language = LANGUAGES.get(Path(recipe).suffix, "dockerfile")
    text = (ROOT / recipe).read_text(encoding="utf-8")
    return f'# {Path(recipe).name}\n\n```{language} title="{recipe}"\n{text}```\n'


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
