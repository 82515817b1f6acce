"""How fast captions are written: cached decoding against the loop that has no cache.

    python benchmarks/caption_speed.py [--quick]

coca_ViT-B-32 with random weights, 5 captions of each image, as long as the model allows: a start token, 74 words, an
end token, and the class token of its text tower make 77. The baseline is the plain loop: for each of the 5 captions the
batch of images is encoded again, and for each word open_clip's own forward runs on the whole prefix; then both choose
the word alike. Its captions come one after the other at the same cost, so a pass that writes one caption of each image
is measured. That pass costs minutes, hence its words are not all timed: its seconds are those of encoding the images,
and 74 times the mean over five prefixes in the middle of equal fifths. The whole form runs one pass with every prefix
and prints what that estimate is worth. One thread, CPU time; median of 5 rounds in which both take their turn.
The quick form has a batch of 2 images instead of 8.
"""

import argparse
from statistics import mean

import open_clip
import torch
from measure import cpu_seconds, figure, paired
from open_clip.coca_model import CoCa

from dr_pipeline.config.cards import Sampling
from dr_pipeline.models.choose import choose_tokens
from dr_pipeline.models.coca_generate import generate
from dr_pipeline.views.seeding import Stream

NUM_CAPTIONS = 5
NUM_WORDS = 74
SAMPLING = Sampling(method="top_p", min_tokens=77, max_tokens=77)  # no end before the last place
START, END = 49406, 49407
PREFIXES = [int((fifth + 0.5) * NUM_WORDS / 5) for fifth in range(5)]


def cached_seconds(model: CoCa, images_BCHW: torch.Tensor) -> float:
    """All captions of the images."""
    streams = [[Stream(0, "caption", image, caption) for caption in range(NUM_CAPTIONS)] for image in images_BCHW]
    return cpu_seconds(lambda: generate(model, images_BCHW, streams, SAMPLING, START, END))


def uncached_seconds(model: CoCa, images_BCHW: torch.Tensor, prefixes: list[int]) -> float:
    """One caption of each image, from those prefix lengths."""
    image_latent, image_embs = model._encode_image(images_BCHW)
    uniforms_B1 = torch.rand(len(images_BCHW), 1)

    def write_word(length: int) -> None:
        tokens_BL = torch.randint(START, (len(images_BCHW), length))
        tokens_BL[:, 0] = START
        logits_BLV = model(
            images_BCHW, tokens_BL, image_latent=image_latent, image_embs=image_embs, output_labels=False
        )["logits"]
        choose_tokens(logits_BLV[:, -1:], uniforms_B1, SAMPLING)

    words = [cpu_seconds(lambda length=length: write_word(length)) for length in prefixes]
    return cpu_seconds(lambda: model._encode_image(images_BCHW)) + NUM_WORDS * mean(words)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how fast captions are written.")
    parser.add_argument("--quick", action="store_true", help="a batch of 2 images, and no pass with every prefix")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = open_clip.create_model("coca_ViT-B-32").eval()
    batch_size = 2 if quick else 8
    images_BCHW = torch.randn(batch_size, 3, 224, 224)
    with torch.inference_mode():
        value, baseline, ratio = paired(
            lambda: batch_size * NUM_CAPTIONS / cached_seconds(model, images_BCHW),
            lambda: batch_size / uncached_seconds(model, images_BCHW, PREFIXES),
            rounds=5,
        )
        figure(
            f"captions a CPU second, 5 × 77 tokens, batch {batch_size}, ÷ uncached loop estimated from 5 prefixes",
            value,
            baseline,
            ratio,
        )
        if not quick:
            whole = uncached_seconds(model, images_BCHW, list(range(1, NUM_WORDS + 1)))
            estimate = batch_size / baseline
            figure("CPU seconds of the uncached loop, every prefix ÷ the estimate", whole, estimate, whole / estimate)


if __name__ == "__main__":
    main()
