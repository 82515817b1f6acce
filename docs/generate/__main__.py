"""Write every page of the site as Markdown, and what belongs to them: `python docs/generate FOLDER`.

What a builder of sites does not do is done here: pages made from the code, and links between files of the repository.
"""

import shutil
import sys
from pathlib import Path

from pages import ROOT, sources, turned
from recipes import recipe_files, recipe_page, recipe_text
from tables import filled


def main(folder: Path) -> None:
    """Write the pages into a folder, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    places = sources() | {recipe: recipe_page(recipe) for recipe in recipe_files()}
    for source, place in places.items():
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.endswith(".md"):
            text = (ROOT / source).read_text(encoding="utf-8")
            target.write_text(turned(filled(text), source, places), encoding="utf-8")
        elif place.endswith(".md"):
            target.write_text(recipe_text(source), encoding="utf-8")
        else:
            shutil.copyfile(ROOT / source, target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
