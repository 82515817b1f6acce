"""Read and decode: a tar stream → samples with their images. Everything that can fail for one sample fails here."""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from PIL import Image

from dr_pipeline.config import Job
from dr_pipeline.errors import SampleSkipped
from dr_pipeline.records import Sample
from dr_pipeline.reinforce.tally import Tally
from dr_pipeline.shards.sample import group, to_sample
from dr_pipeline.shards.tar import read_members
from dr_pipeline.views.render import decode


class Decoded(NamedTuple):
    """A sample and its decoded RGB image."""

    sample: Sample
    image: Image.Image


def read_decoded(stream: BinaryIO, job: Job, tally: Tally) -> Iterator[Decoded]:
    """The shard's good samples in order; the bad ones go to the tally with their reasons."""
    groups = group(read_members(stream))
    seen: set[str] = set()
    while True:
        with tally.stage("read"):
            key, fields = next(groups, ("", {}))
        if not fields:
            return
        try:
            if key in seen:
                raise SampleSkipped("duplicate key")
            seen.add(key)
            with tally.stage("decode"):
                sample = to_sample(key, fields, job.input.caption)
                _check_captions(sample, job)
                image = decode(sample.image, job.errors.max_image_pixels)
        except SampleSkipped as skip:
            tally.skipped(key, skip)
        else:
            yield Decoded(sample, image)


def _check_captions(sample: Sample, job: Job) -> None:
    """A consumer needs at least one synthetic caption, and under layout v1 exactly one key of them."""
    ours = [captioner.caption_key for captioner in job.captioners]
    clash = sorted(sample.synthetic.keys() & set(ours))
    if clash:
        raise SampleSkipped("synthetic key taken", f"the input has {', '.join(clash)}: give the captioner another tag")
    keys = [*sample.synthetic, *ours]
    if not any(key.startswith("syn_text") for key in keys):
        raise SampleSkipped("no synthetic captions", "no captioner in the job, and no syn_text… in a syn.json")
    if job.output.layout == "v1" and len(keys) > 1:
        raise SampleSkipped("too many synthetic keys", f"layout v1 holds one, found {', '.join(keys)}")
