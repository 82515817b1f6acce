"""Dual encoders of transformers as teachers: embeddings equal the library's own, after its own processor."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn import functional as F
from transformers import (
    AlignConfig,
    AlignModel,
    AlignProcessor,
    AutoProcessor,
    BertTokenizer,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    EfficientNetImageProcessor,
    MetaClip2Config,
    MetaClip2Model,
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2ImageProcessor,
    Siglip2Model,
    Siglip2Processor,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipProcessor,
)

from dr_pipeline.config.cards import TeacherCard
from dr_pipeline.errors import ModelError
from dr_pipeline.models.load import load_teacher
from dr_pipeline.models.precision import load_ready
from dr_pipeline.models.protocol import OwnPrecision, ReplayableTeacher, TokenTeacher
from dr_pipeline.models.transformers import TransformersTeacher
from dr_pipeline.networks.digests import find_digests
from dr_pipeline.networks.images import prepare

CPU = torch.device("cpu")
TEXTS = ["a photo of a dog", "", "dog", "two blue squares a photo of dog " * 4, "ein Bild 🐶"]
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[EOS]",
    *("a", "photo", "of", "dog", "two", "blue", "squares"),
]


def word_tokenizer(start: str | None, end: str, pad: str, **options: Any) -> PreTrainedTokenizerFast:
    """Words as tokens, between `start` and `end`."""
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(word, vocabulary[word]) for word in (start, end) if word]
    single = f"{start + ' ' if start else ''}$A {end}"
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", eos_token=end, pad_token=pad, **options
    )


def clip() -> tuple[Any, Any]:
    text = {**SMALL, "vocab_size": 16, "max_position_embeddings": 24, "eos_token_id": 4, "bos_token_id": 2}
    config = CLIPConfig(
        text_config=text, vision_config={**SMALL, "image_size": 32, "patch_size": 16}, projection_dim=20
    )
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    tokenizer = word_tokenizer("[CLS]", "[EOS]", "[EOS]", model_max_length=24)  # padded with the end, as CLIP's is
    return CLIPModel(config), CLIPProcessor(images, tokenizer)


def metaclip_2() -> tuple[Any, Any]:
    text = {**SMALL, "vocab_size": 16, "max_position_embeddings": 24, "eos_token_id": 4, "bos_token_id": 2}
    config = MetaClip2Config(
        text_config=text, vision_config={**SMALL, "image_size": 32, "patch_size": 16}, projection_dim=20
    )
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    tokenizer = word_tokenizer("[CLS]", "[EOS]", "[PAD]", model_max_length=24)
    return MetaClip2Model(config), CLIPProcessor(images, tokenizer)


def siglip() -> tuple[Any, Any]:
    text = {**SMALL, "vocab_size": 16, "max_position_embeddings": 20, "projection_size": 32}
    config = SiglipConfig(text_config=text, vision_config={**SMALL, "image_size": 32, "patch_size": 16})
    images = SiglipImageProcessor(size={"height": 32, "width": 32})
    tokenizer = word_tokenizer(None, "[EOS]", "[EOS]", model_max_length=20, model_input_names=["input_ids"])
    return SiglipModel(config), SiglipProcessor(images, tokenizer)


def siglip_2_naflex() -> tuple[Any, Any]:
    text = {**SMALL, "vocab_size": 16, "max_position_embeddings": 20, "projection_size": 32}
    config = Siglip2Config(text_config=text, vision_config={**SMALL, "num_patches": 16, "patch_size": 8})
    images = Siglip2ImageProcessor(patch_size=8, max_num_patches=16)
    tokenizer = word_tokenizer(None, "[EOS]", "[PAD]", model_max_length=20)
    return Siglip2Model(config), Siglip2Processor(images, tokenizer)


def align() -> tuple[Any, Any]:
    text = {**SMALL, "vocab_size": 16, "max_position_embeddings": 64}
    vision = {
        "image_size": 33,
        "width_coefficient": 0.1,
        "depth_coefficient": 0.1,
        "depth_divisor": 4,
        "hidden_dim": 32,
        "dropout_rate": 0.0,
        "drop_connect_rate": 0.0,
    }
    config = AlignConfig(text_config=text, vision_config=vision, projection_dim=32)
    images = EfficientNetImageProcessor(
        size={"height": 33, "width": 33}, rescale_factor=1 / 127.5, rescale_offset=True, include_top=False
    )
    tokenizer = BertTokenizer({word: number for number, word in enumerate(WORDS)}, model_max_length=64)
    module = AlignModel(config)
    for parameter in module.vision_model.parameters():
        if parameter.ndim == 4:  # with as little as it has without training, all images give zeros
            torch.nn.init.kaiming_normal_(parameter)
    return module, AlignProcessor(images, tokenizer)


FAMILIES = {made.__name__: made for made in (clip, siglip, siglip_2_naflex, align, metaclip_2)}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Any]:
    """The folder of a saved model with its processor, and both."""
    torch.manual_seed(0)
    module, processor = FAMILIES[request.param]()
    with torch.no_grad():
        for parameter in module.parameters():  # some are saved as zeros, which would hide what they multiply
            if parameter.ndim > 1 and not parameter.any():
                parameter.copy_(0.2 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp(request.param)
    module.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder), module.eval(), AutoProcessor.from_pretrained(folder)


def noise(size: int, count: int = 3) -> list[Image.Image]:
    generator = torch.Generator().manual_seed(0)
    pixels_BHWC = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)
    return [Image.fromarray(pixels_HWC.numpy()) for pixels_HWC in pixels_BHWC]


def normalised(images: list[Image.Image], teacher: TransformersTeacher) -> torch.Tensor:
    """What the pipeline gives a teacher of these images."""
    return prepare(torch.from_numpy(np.stack([np.asarray(image) for image in images])), teacher.spec.images)


def check_rows(rows_BD: torch.Tensor, theirs_BD: torch.Tensor, alone_BD: torch.Tensor) -> None:
    """Rows of a batch are the library's, and those of their inputs alone, and differ from each other."""
    unit_BD = F.normalize(rows_BD)
    torch.testing.assert_close(unit_BD, F.normalize(theirs_BD), rtol=0, atol=1e-6)
    torch.testing.assert_close(unit_BD, F.normalize(alone_BD), rtol=0, atol=1e-6)
    assert torch.pdist(unit_BD).max() > 1e-3


@torch.inference_mode()
def test_images_are_embedded_as_by_the_library(family: tuple[str, Any, Any]) -> None:
    folder, module, processor = family
    teacher = TransformersTeacher(CPU, folder)
    images = noise(teacher.spec.images.image_size)
    images_BCHW = normalised(images, teacher)
    theirs = module.get_image_features(**processor.image_processor(images, return_tensors="pt")).pooler_output
    alone = torch.cat([teacher.encode_images(image_CHW[None]) for image_CHW in images_BCHW])
    check_rows(teacher.encode_images(images_BCHW), theirs, alone)


@torch.inference_mode()
def test_texts_are_embedded_as_by_the_library(family: tuple[str, Any, Any]) -> None:
    folder, module, processor = family
    teacher = TransformersTeacher(CPU, folder)
    padding = "max_length" if "siglip" in module.config.model_type else "longest"
    inputs = processor.tokenizer(TEXTS, padding=padding, truncation=True, return_tensors="pt")
    theirs = module.get_text_features(**inputs).pooler_output
    alone = torch.cat([teacher.encode_texts([text]) for text in TEXTS])
    check_rows(teacher.encode_texts(TEXTS), theirs, alone)


def test_it_says_what_it_is(family: tuple[str, Any, Any]) -> None:
    folder, module, _ = family
    card = TeacherCard(
        name="mine", use="dr_pipeline.models.transformers:TransformersTeacher", options={"model": folder}
    )
    teacher = load_teacher(card, CPU)
    assert isinstance(teacher, TokenTeacher)
    assert isinstance(teacher, OwnPrecision)
    assert isinstance(teacher, ReplayableTeacher)
    assert find_digests(card.options, (), "mine").keys() == {"model"}
    assert TransformersTeacher(CPU, folder).tokenizer is teacher.tokenizer
    assert not load_ready(card, CPU, "bfloat16").needs_autocast
    cost = TransformersTeacher.cost(folder)
    assert (cost is None) == (module.config.model_type == "siglip2")  # which looks at the shapes of its images
    if cost is None:
        return
    assert (cost.dim, cost.image_size) == (teacher.spec.dim, teacher.spec.image_size)
    assert cost.parameters == sum(parameter.numel() for parameter in module.parameters())
    assert min(cost.image_flops, cost.text_flops) > 0


def test_what_is_no_dual_encoder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no folder there; write hf-hub:org/repo"):
        TransformersTeacher(CPU, "google/siglip-base")
    with pytest.raises(ModelError, match=r"its weights: the folder .* does not hold it"):
        TransformersTeacher(CPU, str(tmp_path))
    module, processor = clip()
    module.save_pretrained(tmp_path / "clip")
    processor.save_pretrained(tmp_path / "clip")
    with pytest.raises(ModelError, match="context_length is 25; its text tower takes 24"):
        TransformersTeacher(CPU, str(tmp_path / "clip"), context_length=25)
    module.vision_model.save_pretrained(tmp_path / "vision")
    with pytest.raises(ModelError, match="has no get_image_features: it is no dual encoder"):
        TransformersTeacher(CPU, str(tmp_path / "vision"))


def test_a_folder_without_the_tokenizer_is_refused(tmp_path: Path) -> None:
    """The library makes one of special tokens alone, which are the same for all texts of one length."""
    module, processor = clip()
    module.save_pretrained(tmp_path)
    processor.image_processor.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="its tokenizer knows no words"):
        TransformersTeacher(CPU, str(tmp_path))


def test_weights_that_lack_a_part_are_refused(tmp_path: Path) -> None:
    module, processor = clip()
    state = {name: tensor for name, tensor in module.state_dict().items() if "text_projection" not in name}
    module.save_pretrained(tmp_path, state_dict=state)
    processor.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"its weights lack 1 of CLIPModel's: text_projection\.weight"):
        TransformersTeacher(CPU, str(tmp_path))


def test_texts_may_be_cut_and_put_in_small_letters(tmp_path: Path) -> None:
    module, processor = clip()
    module.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    teacher = TransformersTeacher(CPU, str(tmp_path), context_length=4, lowercase=True)
    assert torch.equal(teacher.tokenizer(["A Photo of a dog"]), teacher.tokenizer(["a photo"]))
