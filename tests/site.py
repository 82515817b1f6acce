"""Builds the documentation as `make docs` does, in a folder of a test's own."""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.pages import ROOT


def write_pages(folder: Path) -> Path:
    """Write the pages as Markdown where the builder looks for them below the folder."""
    subprocess.run([sys.executable, ROOT / "docs/generate", folder / "build/docs"], cwd=ROOT, check=True)
    return folder / "build/docs"


def build_site(folder: Path) -> Path:
    """Build the written pages; a broken link is an error. Gives the site's folder."""
    shutil.copy(ROOT / "mkdocs.yml", folder)
    (folder / "dr_pipeline").symlink_to(ROOT / "dr_pipeline")
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "site"
