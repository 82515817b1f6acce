"""The CoCa captioner as a card constructs it: a tiny architecture, real tokenizers, whole captions as text."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from dr_pipeline.config.cards import Sampling
from dr_pipeline.dataset.caption_faults import CutCaption
from dr_pipeline.demo.tokenizer import WordTokenizer
from dr_pipeline.errors import ModelError
from dr_pipeline.models import coca_generate
from dr_pipeline.models.coca import CocaCaptioner
from dr_pipeline.views.seeding import Stream

WORDS = "dr_pipeline.demo.tokenizer:WordTokenizer"
TOWER = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}


def write_config(folder: Path, vocab_size: int, **text_options: Any) -> str:
    config = {
        "model_cfg": {
            "embed_dim": 32,
            "vision_cfg": {
                "image_size": 32,
                "layers": 1,
                "width": 32,
                "head_width": 32,
                "patch_size": 16,
                "attentional_pool": True,
                "attn_pooler_queries": 4,
                "attn_pooler_heads": 1,
                "output_tokens": True,
            },
            "text_cfg": {**TOWER, "vocab_size": vocab_size, "embed_cls": True, "output_tokens": True, **text_options},
            "multimodal_cfg": {**TOWER, "vocab_size": vocab_size},
            "custom_text": True,
        },
        "preprocess_cfg": {"size": 32, "mean": [0.5, 0.4, 0.3], "std": [0.3, 0.2, 0.1]},
    }
    path = folder / "tiny_coca.json"
    path.write_text(json.dumps(config))
    return str(path)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def tiny_captioner(model: str, tokenizer: str | None = None) -> CocaCaptioner:
    captioner = CocaCaptioner(torch.device("cpu"), model, "random", tokenizer=tokenizer)
    torch.manual_seed(0)
    for name, parameter in captioner._model.named_parameters():
        if "text_decoder" in name and parameter.ndim == 2:  # varied captions need larger weights
            torch.nn.init.normal_(parameter, std=parameter.shape[0] ** -0.5)
    return captioner


@pytest.fixture
def captioner(tmp_path: Path) -> CocaCaptioner:
    return tiny_captioner(write_config(tmp_path, WordTokenizer().vocab_size), tokenizer=WORDS)


def caption(captioner: CocaCaptioner, images: int, captions: int, **options: Any) -> list[list[str]]:
    images_BCHW = torch.randn(images, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    streams = [[Stream(0, "caption", b, n) for n in range(captions)] for b in range(images)]
    with torch.inference_mode():
        return captioner.caption(images_BCHW, streams, Sampling(**options))


def test_captions_are_clean_texts_of_the_vocabulary(captioner: CocaCaptioner) -> None:
    texts = caption(captioner, images=4, captions=3, min_tokens=8, max_tokens=12)
    assert [len(captions) for captions in texts] == [3, 3, 3, 3]
    tokenizer = WordTokenizer()
    for text in (text for captions in texts for text in captions):
        assert text == " ".join(text.split())
        assert text
        assert not any(special in text for special in ("<start>", "<end>", "<pad>"))
        assert len(tokenizer.encode(text)) <= 13  # <unk>, unlikely as it is, counts three
    assert len({text for captions in texts for text in captions}) > 6


def test_spec_is_the_config_s(captioner: CocaCaptioner) -> None:
    assert captioner.spec.image_size == 32
    assert captioner.spec.mean == (0.5, 0.4, 0.3)
    assert captioner.spec.std == (0.3, 0.2, 0.1)


def test_every_method_makes_captions_for_clip_s_vocabulary(tmp_path: Path) -> None:
    captioner = tiny_captioner(write_config(tmp_path, 49408))
    for method in ("greedy", "top_k", "top_p", "beam"):
        texts = caption(captioner, images=2, captions=2, method=method, min_tokens=5, max_tokens=10)
        assert all(texts[b][n] for b in range(2) for n in range(2)), method


# What a model might say, for CLIP's tokenizer. A vocabulary padded to a round number has ids beyond the tokenizer's.
SPOKEN = {
    "a red dog . it sits !": "a red dog . it sits !",
    "<start_of_text>a  red\n dog": "a red dog",
    "a dog<end_of_text>and more": "a dog",
    "<end_of_text>": "",
}


@pytest.mark.parametrize("spoken", SPOKEN)
def test_text_is_cut_at_the_end_token_only(spoken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captioner = tiny_captioner(write_config(tmp_path, 49500))
    words = [49450, *open_clip.SimpleTokenizer().encode(spoken)]
    monkeypatch.setattr(coca_generate, "generate", lambda *arguments: torch.tensor([[words]]))
    ((text,),) = caption(captioner, images=1, captions=1)
    assert text == SPOKEN[spoken]
    assert isinstance(text, CutCaption) == ("<end_of_text>" not in spoken)


@pytest.mark.parametrize("method", ["top_p", "beam"])
def test_a_caption_without_its_end_is_cut(method: str, captioner: CocaCaptioner) -> None:
    cut = caption(captioner, images=2, captions=2, method=method, min_tokens=6, max_tokens=6)
    assert all(isinstance(text, CutCaption) for texts in cut for text in texts)


def test_a_model_that_is_no_coca_is_named() -> None:
    with pytest.raises(ModelError, match=r"'RN50' is a CLIP, which has no text decoder.*CoCa"):
        CocaCaptioner(torch.device("cpu"), "RN50", "random")


@pytest.mark.parametrize(
    ("text_options", "message"),
    [
        ({"no_causal_mask": True}, "sees later tokens"),
        ({"qk_norm": True}, "CustomResidualAttentionBlock"),
    ],
)
def test_a_text_tower_that_cannot_be_cached_is_refused(text_options: dict, message: str, tmp_path: Path) -> None:
    model = write_config(tmp_path, 49408, **text_options)
    with pytest.raises(ModelError, match=message):
        CocaCaptioner(torch.device("cpu"), model, "random")


class MuteTokenizer:
    """A tokenizer that cannot turn tokens back into text."""

    def __init__(self, context_length: int):
        self.context_length = context_length


def test_a_tokenizer_without_decode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="MuteTokenizer, lacks decode, sot_token_id"):
        CocaCaptioner(torch.device("cpu"), write_config(tmp_path, 300), "random", tokenizer=f"{__name__}:MuteTokenizer")
