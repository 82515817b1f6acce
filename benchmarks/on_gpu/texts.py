"""The teachers' texts: as the job embeds them, against the bare text tower."""

import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dr_pipeline.models.ensemble import Ensemble
from on_gpu.bench import Bench
from on_gpu.models import TEACHER, Teacher, texts_of, write_tiny

_WORDS = 25


class TextTower(nn.Module):
    """What an open_clip CLIP does with tokens that are cut to their longest."""

    def __init__(self, clip: Any):
        super().__init__()
        self.clip = clip

    def forward(self, tokens_TL: torch.Tensor) -> torch.Tensor:
        """→ embeddings [T, D]."""
        clip, length = self.clip, tokens_TL.shape[1]
        hidden_TLW = clip.token_embedding(tokens_TL) + clip.positional_embedding[:length]
        hidden_TLW = clip.transformer(hidden_TLW, attn_mask=clip.attn_mask[:length, :length])
        rows_T = torch.arange(len(tokens_TL), device=tokens_TL.device)
        return clip.ln_final(hidden_TLW[rows_T, tokens_TL.argmax(dim=1)]) @ clip.text_projection


def measure(bench: Bench) -> None:
    """Print texts a second of one teacher."""
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        model = bench.size(TEACHER, write_tiny(Path(name))[0])
        teachers = [Teacher(bench.device, model) for _ in range(2)]
        ensemble = Ensemble([(str(number), teacher) for number, teacher in enumerate(teachers)], bench.device)
        tokenizer = teachers[0]._network.tokenizer
        tower = TextTower(deepcopy(teachers[0]._network.module).to(torch.bfloat16))
        compiled = bench.compiled_by_blocks(deepcopy(tower))
        for batch in bench.size((256, 48, 1024), (4,)):
            texts = texts_of(batch, _WORDS)
            tokens_TL = tokenizer(texts).to(bench.device)
            tokens_TL = tokens_TL[:, : int(tokens_TL.argmax(dim=1).max()) + 1].contiguous()
            for label, form in (("bfloat16 weights", tower), ("bfloat16 weights, compiled by blocks", compiled)):
                with bench.attempt(f"{label}, batch {batch}"):
                    seconds = bench.seconds(lambda form=form, tokens=tokens_TL: form(tokens))
                    bench.remember("text", seconds / batch)
                    bench.figure(f"bare, {label}, batch {batch}", batch / seconds, "texts/s")
            with bench.attempt(f"the job's, batch {batch}"):
                seconds = bench.seconds(lambda texts=texts: ensemble.embed_texts(texts))
                baseline = 1 / bench.bare["text"] if "text" in bench.bare else None
                bench.figure(
                    f"the job's, of two teachers each, batch {batch}", 2 * batch / seconds, "texts/s", baseline
                )
            seconds = bench.seconds(lambda texts=texts: tokenizer(texts))
            bench.figure(f"tokenising on one thread, batch {batch}", batch / seconds, "texts/s")
