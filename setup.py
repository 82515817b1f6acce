"""The wheel holds the recipes too: jobs/ and teachers/ lie beside the package in the tree, in it where installed."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
UNWANTED = shutil.ignore_patterns("__pycache__", ".*")


class BuildWithRecipes(build_py):
    """An editable install takes them from the tree."""

    def run(self) -> None:
        """Build the package, then lay its recipes into it."""
        super().run()
        if not self.editable_mode:
            for name in ("jobs", "teachers"):
                target = Path(self.build_lib, "dr_pipeline", name)
                shutil.rmtree(target, ignore_errors=True)  # what an earlier build left
                shutil.copytree(ROOT / name, target, ignore=UNWANTED)


setup(cmdclass={"build_py": BuildWithRecipes})
