"""How well a sample's captions fit its views: mean cosines, by each teacher that embeds both images and texts."""

from typing import NamedTuple

from dr_pipeline.config.cards import SIMILARITY
from dr_pipeline.dataset.layout import paired_teachers
from dr_pipeline.dataset.sample import IMAGE, TEXT, Column, Sample


class Similarities(NamedTuple):
    """The cosines of a sample; None, and no scores, where no teacher embeds both images and texts."""

    scores: dict[str, float]
    """`similarity/TEACHER/text`, the ground-truth caption's, and `similarity/TEACHER/KEY`, the mean over a key's."""
    ground_truth: float | None
    """The mean over the teachers."""
    synthetic: float | None
    """The mean over the teachers and all synthetic captions."""


def similarities_of(sample: Sample) -> Similarities:
    """The cosines of a sample's captions with its views, each a mean over the views."""
    # A teacher's embeddings have norm 1, so that the mean of the views' cosines is a product with their mean.
    mean_views = {
        teacher: sample.columns[Column(teacher, IMAGE)].mean(axis=0)
        for teacher in sorted(paired_teachers(sample.columns))
    }
    scores: dict[str, float] = {}
    sums = dict.fromkeys((TEXT, *sample.synthetic), 0.0)
    for teacher, mean_view_D in mean_views.items():
        for of in sums:
            cosines_R = sample.columns[Column(teacher, of)] @ mean_view_D
            scores[f"{SIMILARITY}{teacher}/{of}"] = float(cosines_R.mean())
            sums[of] += float(cosines_R.sum())
    if not mean_views:
        return Similarities({}, None, None)
    num_captions = sum(map(len, sample.synthetic.values()))
    ground_truth = sums.pop(TEXT) / len(mean_views)
    return Similarities(scores, ground_truth, sum(sums.values()) / (num_captions * len(mean_views)))
