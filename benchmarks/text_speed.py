"""How fast texts are embedded: sorted by length and cut, against unsorted batches of the full context.

    python benchmarks/text_speed.py [--quick]

Text towers of open_clip with random weights. A sample's texts are an alt-text of Openclipart (`alt_texts.txt`, public
domain; 7 tokens on average) and five captions of the demo's grammar (23 tokens). Ours: the worker's own embedder, which
sorts the texts and runs a tower only as far as a batch's last token that matters. The baseline: batches of the same
size in the order of the samples, all 77 tokens through open_clip's `encode_text`. Both normalise. One thread, CPU time;
median of 5 rounds in which both take their turn. The quick form has fewer texts and one tower.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from measure import cpu_seconds, figure, paired
from torch.nn import functional as F

from dr_pipeline.demo.grammar import true_captions
from dr_pipeline.demo.scenes import draw_truth
from dr_pipeline.models.ensemble import Ensemble
from dr_pipeline.models.open_clip import OpenClipTeacher
from dr_pipeline.networks.network import load_network
from dr_pipeline.reinforce.embed import TextEmbedder
from dr_pipeline.views.seeding import Stream

CPU = torch.device("cpu")
ALT_TEXTS = (Path(__file__).parent / "alt_texts.txt").read_text().splitlines()


def texts_of(num_samples: int) -> list[str]:
    """Sample after sample, its alt-text and five captions."""
    truths = [draw_truth(Stream(0, "scene", index)) for index in range(num_samples)]
    return [text for alt, truth in zip(ALT_TEXTS, truths, strict=False) for text in (alt, *true_captions(truth))]


class Tower:
    """One network that embeds texts in both ways."""

    def __init__(self, architecture: str, batch_size: int):
        self._architecture = architecture
        torch.manual_seed(0)
        teacher = OpenClipTeacher(CPU, architecture, "random")
        torch.manual_seed(0)
        self._network = load_network(architecture, "random", CPU)
        self._embedder = TextEmbedder(Ensemble([(architecture, teacher)], CPU, "float32"), batch_size)
        self._batch_size = batch_size

    def sorted_and_cut(self, texts: list[str]) -> torch.Tensor:
        """→ [T, D]."""
        self._embedder.forget()
        pending = self._embedder.start(texts)
        rows = [(batch.finish(), row) for batch, row in map(pending.__getitem__, texts)]
        return torch.from_numpy(np.stack([batch[self._architecture][row] for batch, row in rows]))

    @torch.inference_mode()
    def full_context(self, texts: list[str]) -> torch.Tensor:
        """→ [T, D]."""
        batches = [texts[start : start + self._batch_size] for start in range(0, len(texts), self._batch_size)]
        embs = [self._network.module.encode_text(self._network.tokenizer(batch)) for batch in batches]
        return F.normalize(torch.cat(embs), dim=1)


def compare(architecture: str, texts: list[str], batch_size: int) -> None:
    """Print both figures of one architecture."""
    tower = Tower(architecture, batch_size)
    value, baseline, ratio = paired(
        lambda: len(texts) / cpu_seconds(lambda: tower.sorted_and_cut(texts)),
        lambda: len(texts) / cpu_seconds(lambda: tower.full_context(texts)),
        rounds=5,
    )
    figure(f"texts a CPU second, sorted and cut ÷ full context, {architecture}", value, baseline, ratio)
    difference = (tower.sorted_and_cut(texts) - tower.full_context(texts)).abs().max()
    figure(f"largest difference of the two's embeddings, {architecture}", float(difference))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how fast texts are embedded.")
    parser.add_argument("--quick", action="store_true", help="fewer texts, one tower")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    if quick:
        compare("ViT-B-32", texts_of(6), batch_size=12)
        return
    for architecture in ("ViT-B-32", "ViT-L-14"):
        compare(architecture, texts_of(16), batch_size=32)


if __name__ == "__main__":
    main()
