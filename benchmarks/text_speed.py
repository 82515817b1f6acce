"""How fast texts are embedded: sorted by length and cut, against unsorted batches of the full context.

    python benchmarks/text_speed.py [--quick]

Text towers of open_clip with random weights. A sample's texts are an alt-text of Openclipart (`alt_texts.txt`, public
domain; 7 tokens on average) and five captions of the demo's grammar (23 tokens). Ours: the worker's own embedder, which
sorts the texts and runs a tower only as far as a batch's last token that matters. The baseline: batches of the same
size in the order of the samples, all 77 tokens through open_clip's `encode_text`. Both normalise. One thread, CPU time;
median of 5 rounds in which both take their turn. The quick form has fewer texts and one tower.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from measure import cpu_seconds, figure, paired
from open_clip.tokenizer import SimpleTokenizer
from torch.nn import functional as F

from dr_pipeline.dataset.sample import TEXT, Column, Sample
from dr_pipeline.demo.grammar import true_captions
from dr_pipeline.demo.scenes import draw_truth
from dr_pipeline.models.ensemble import Ensemble
from dr_pipeline.models.open_clip import OpenClipTeacher
from dr_pipeline.networks.network import load_network
from dr_pipeline.networks.tokenizer import remember_words
from dr_pipeline.reinforce.embed import TextStage
from dr_pipeline.reinforce.in_flight import InFlight
from dr_pipeline.reinforce.stats import ShardStats
from dr_pipeline.views.seeding import Stream

CPU = torch.device("cpu")
ALT_TEXTS = (Path(__file__).parent / "alt_texts.txt").read_text().splitlines()


def samples_of(num_samples: int) -> list[Sample]:
    """Samples with an alt-text and five captions."""
    truths = [draw_truth(Stream(0, "scene", index)) for index in range(num_samples)]
    return [
        Sample(str(index), {}, caption=alt, synthetic={"syn_text": list(true_captions(truth))})
        for index, (alt, truth) in enumerate(zip(ALT_TEXTS, truths, strict=False))
    ]


def texts_of(samples: list[Sample]) -> list[str]:
    """Sample after sample, its alt-text and five captions."""
    return [text for sample in samples for text in (sample.caption, *sample.synthetic["syn_text"])]


class Tower:
    """One network that embeds texts in both ways."""

    def __init__(self, architecture: str, batch_size: int):
        torch.manual_seed(0)
        teacher = OpenClipTeacher(CPU, architecture, "random")
        torch.manual_seed(0)
        self._network = load_network(architecture, "random", CPU)
        self._stage = TextStage(Ensemble([(architecture, teacher)], CPU, "float32"), batch_size)
        self._architecture = architecture
        self._batch_size = batch_size

    def sorted_and_cut(self, samples: list[Sample]) -> torch.Tensor:
        """→ [T, D]."""
        stats = ShardStats()
        items = [InFlight(replace(sample, columns={})) for sample in samples]
        pools = (self._stage.tokenize(pool, stats) for pool in self._stage.pools(items))
        finished = [item.finish() for item in self._stage.run(pools, stats)]
        columns = [sample.columns[Column(self._architecture, of)] for sample in finished for of in (TEXT, "syn_text")]
        return torch.from_numpy(np.concatenate(columns))

    @torch.inference_mode()
    def full_context(self, texts: list[str]) -> torch.Tensor:
        """→ [T, D]."""
        batches = [texts[start : start + self._batch_size] for start in range(0, len(texts), self._batch_size)]
        embs = [self._network.module.encode_text(self._network.tokenizer(batch)) for batch in batches]
        return F.normalize(torch.cat(embs), dim=1)


def compare(architecture: str, samples: list[Sample], batch_size: int) -> None:
    """Print both figures of one architecture."""
    tower, texts = Tower(architecture, batch_size), texts_of(samples)
    value, baseline, ratio = paired(
        lambda: len(texts) / cpu_seconds(lambda: tower.sorted_and_cut(samples)),
        lambda: len(texts) / cpu_seconds(lambda: tower.full_context(texts)),
        rounds=5,
    )
    figure(f"texts a CPU second, sorted and cut ÷ full context, {architecture}", value, baseline, ratio)
    difference = (tower.sorted_and_cut(samples) - tower.full_context(texts)).abs().max()
    figure(f"largest difference of the two's embeddings, {architecture}", float(difference))


def compare_tokenizers(rounds: int) -> None:
    """Print how many texts a CPU second become tokens, words that were seen before remembered by both."""
    ours, theirs = SimpleTokenizer(), SimpleTokenizer()
    remember_words(ours)
    value, baseline, ratio = paired(
        lambda: len(ALT_TEXTS) / cpu_seconds(lambda: ours(ALT_TEXTS)),
        lambda: len(ALT_TEXTS) / cpu_seconds(lambda: theirs(ALT_TEXTS)),
        rounds,
    )
    figure("texts a CPU second made into tokens ÷ open_clip's tokenizer", value, baseline, ratio)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how fast texts are embedded.")
    parser.add_argument("--quick", action="store_true", help="fewer texts, one tower")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    compare_tokenizers(rounds=5)
    if quick:
        compare("ViT-B-32", samples_of(6), batch_size=12)
        return
    for architecture in ("ViT-B-32", "ViT-L-14"):
        compare(architecture, samples_of(16), batch_size=32)


if __name__ == "__main__":
    main()
