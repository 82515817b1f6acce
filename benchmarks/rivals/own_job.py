"""The whole job with dr-pipeline."""

from pathlib import Path
from typing import Any

from recipe import Recipe

from dr_pipeline.config.job import Job
from dr_pipeline.dataset.plan import make_plan
from dr_pipeline.runners.run import make_runner


def card(name: str, view_size: int) -> dict[str, Any]:
    """The card of a teacher that the rivals load by this name."""
    if name == "weightless":
        return {"name": name, "use": "weightless:Weightless", "options": {"image_size": view_size}}
    options = {"model": name, "weights": "random"}
    if Path(name).is_dir():
        options = {
            "model": f"{name}/open_clip_config.json",
            "weights": f"{name}/open_clip_model.safetensors",
            "tokenizer": "dr_pipeline.demo.tokenizer:WordTokenizer",
        }
    return {"name": Path(name).name, "use": "dr_pipeline.models.open_clip:OpenClipTeacher", "options": options}


def make_job(recipe: Recipe) -> Job:
    """The recipe as a job."""
    workers = {"engine": recipe.engine, "min": recipe.workers, "max": recipe.workers}
    view_batch = recipe.samples_per_batch * recipe.num_views
    return Job.model_validate(
        {
            "name": "whole_job",
            "input": {"shards": recipe.shards},
            "output": {"path": recipe.output},
            "teachers": [card(name, recipe.view_size) for name in recipe.teachers],
            "augmentation": {"num_views": recipe.num_views, "random_resized_crop": {"size": recipe.view_size}},
            "workers": {**workers, "gpus": 0, "cpus": recipe.threads, "view_batch": view_batch},
            "plugin_dirs": [str(Path(__file__).parent)],
        }
    )


def main() -> None:
    recipe = Recipe.given()
    plan = make_plan(make_job(recipe))
    runner = make_runner(plan.job)
    runner.start()
    recipe.stamp("loaded")
    for report in runner.run(plan.todo):
        assert report.status == "done", report.error
    recipe.stamp("done")
    runner.close()


if __name__ == "__main__":
    main()
