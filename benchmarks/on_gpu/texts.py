"""The teachers' texts: as the job embeds them, against the bare text tower."""

import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dr_pipeline.models.ensemble import Ensemble
from on_gpu.bench import Bench
from on_gpu.models import JOB_FORMS, TEACHER, Teacher, largest_error, texts_of, two_teachers, write_tiny

_WORDS = 25
_COMPILED_BATCH = 1024


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
        network = Teacher(bench.device, model)._network
        tokenizer = network.tokenizer
        tower = TextTower(deepcopy(network.module).to(torch.bfloat16))
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
            seconds = bench.seconds(lambda texts=texts: tokenizer(texts))
            bench.figure(f"tokenising on one thread, batch {batch}", batch / seconds, "texts/s")
        _as_the_job_does(bench, model)


def _as_the_job_does(bench: Bench, model: str) -> None:
    """Two teachers in each precision that a job may have: tokenised too, and from tokens in the host's memory."""
    few = texts_of(bench.size(64, 4), _WORDS)
    exact = two_teachers(bench, model, "float32").embed_texts(few)
    for label, (precision, is_compiled) in JOB_FORMS.items():
        with bench.attempt(f"the job's, {label}"):
            ensemble = two_teachers(bench, model, precision)
            if is_compiled and not bench.dry:
                ensemble.compile(image_batch=1, text_batch=_COMPILED_BATCH)
            for batch in bench.size((_COMPILED_BATCH,) if is_compiled else (256, 1024), (4,)):
                if not is_compiled:
                    ensemble.replay(image_batch=1, text_batch=batch)
                _rates(bench, ensemble, label, texts_of(batch, _WORDS))
            error = largest_error(ensemble.embed_texts(few), exact)
            bench.figure(f"1 - cosine to float32, the job's, {label}", error, "")


def _rates(bench: Bench, ensemble: Ensemble, label: str, texts: list[str]) -> None:
    batch = len(texts)
    baseline = 1 / bench.bare["text"] if "text" in bench.bare else None
    seconds = bench.seconds(lambda: ensemble.embed_texts(texts))
    bench.figure(f"the job's, two teachers, {label}, batch {batch}", 2 * batch / seconds, "texts/s", baseline)
    tokens = ensemble.tokenize(texts)
    seconds = bench.seconds(lambda: ensemble.start_texts(tokens).finish())
    bench.figure(
        f"the job's, two teachers, {label}, tokens made, batch {batch}", 2 * batch / seconds, "texts/s", baseline
    )
