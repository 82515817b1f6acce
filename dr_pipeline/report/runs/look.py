"""Makes the page of a training run, or of a tuning."""

from pathlib import Path

from dr_pipeline.report.page.frame import find_place, write_page
from dr_pipeline.report.runs.folder import read_run
from dr_pipeline.report.runs.recognised import TUNING_FILE
from dr_pipeline.report.runs.training_page import training_page
from dr_pipeline.report.runs.tuning_page import tuning_page


def look_at_run(folder: str, path: Path | None) -> Path:
    """Write the page of a run's folder, or a tuning's → its path; by default the folder's name in the working folder.

    Raises ConfigError where the folder is neither, the page cannot be written, or jinja2 is missing.
    """
    path = find_place(path, Path(folder).resolve().name)
    page = tuning_page(folder) if Path(folder, TUNING_FILE).is_file() else training_page(read_run(folder))
    write_page(path, page)
    return path
