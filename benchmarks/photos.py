"""Base shards for the benchmarks: photograph-like JPEGs of 640 × 480 pixels with captions."""

from functools import cache
from pathlib import Path

from dr_pipeline.dataset.sample import Sample
from dr_pipeline.dataset.shard_io import write_samples
from dr_pipeline.demo.painting import encode_jpeg, paint
from dr_pipeline.demo.scenes import draw_truth
from dr_pipeline.views.seeding import Stream

_NUM_IMAGES = 16  # painting one takes longer than all that is measured of it


@cache
def photo(index: int) -> tuple[bytes, str]:
    """JPEG and caption of one scene."""
    stream = Stream(0, "photo", index)
    truth = draw_truth(stream)
    jpeg = encode_jpeg(paint(truth, 640, 480, stream), quality=90)
    return jpeg, f"a {truth.main.texture} {truth.main.name} on a {truth.surface} {truth.background} background"


def write_shards(folder: Path, num_shards: int, samples_per_shard: int) -> Path:
    """Tars of samples with an image, an alt-text and a synthetic caption; images repeat, texts do not."""
    folder.mkdir(parents=True)
    photos = [photo(index) for index in range(min(_NUM_IMAGES, samples_per_shard))]
    for shard in range(num_shards):
        samples = []
        for index in range(samples_per_shard):
            jpeg, scene = photos[index % len(photos)]
            caption = f"{scene}, picture {shard * samples_per_shard + index}"
            synthetic = f'{{"syn_text": ["{caption}, seen from the side"]}}'
            members = {"jpg": jpeg, "txt": caption.encode(), "syn.json": synthetic.encode()}
            samples.append(Sample(f"{shard:03d}{index:06d}", members))
        write_samples(folder / f"{shard:05d}.tar", samples)
    return folder
