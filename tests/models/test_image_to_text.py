"""Captioners of transformers, from tiny models on disk: what they say is what the library's own `generate` says."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    GitConfig,
    GitForCausalLM,
    GPT2Config,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessor,
)

from dr_pipeline.cli import main
from dr_pipeline.config.cards import CaptionerCard, Sampling
from dr_pipeline.dataset.caption_faults import CutCaption
from dr_pipeline.dataset.sample import parse_synthetic
from dr_pipeline.dataset.shard_io import read_samples
from dr_pipeline.errors import ConfigError, ModelError
from dr_pipeline.models.checks.captioners import check_captioner
from dr_pipeline.models.image_to_text import ChatCaptioner, ImageToTextCaptioner
from dr_pipeline.models.load import load_captioner
from dr_pipeline.models.precision import load_ready_captioner
from dr_pipeline.models.prefilled import Prefilled
from dr_pipeline.models.protocol import PromptedCaptioner
from dr_pipeline.networks import pretrained, rounding
from dr_pipeline.networks.images import prepare
from dr_pipeline.runners.run import run
from tests.demo_job import Silent, demo_job, make_scenes
from tests.models.test_coca_decoder import some_streams

pytestmark = pytest.mark.usefixtures("inference")

CPU = torch.device("cpu")
SIGNS = "pad unk s /s image |im_start| |im_end| |image_pad| |video_pad| |vision_start| |vision_end|"
SPECIAL = [f"<{sign}>" for sign in SIGNS.split()]
SPOKEN = "user assistant Describe the image in one sentence . : , a red dog sits on blue grass and looks"
WORDS = [*SPECIAL, *SPOKEN.split()]
PAD, START, END = 0, 2, 3
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TURN = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }} "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|> {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
)


def tokenizer(**options: Any) -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>", **options
    )


TEXT = {"vocab_size": len(WORDS), "bos_token_id": START, "eos_token_id": END, "pad_token_id": PAD}


def blip() -> tuple[Any, list[Any]]:
    text = {**SMALL, **TEXT, "encoder_hidden_size": 32, "max_position_embeddings": 40, "sep_token_id": END}
    vision = {**SMALL, "image_size": 32, "patch_size": 16}
    config = BlipConfig(text_config=text, vision_config=vision, projection_dim=16)
    return BlipForConditionalGeneration(config), [BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer()]


def git() -> tuple[Any, list[Any]]:
    vision = {**SMALL, "image_size": 32, "patch_size": 16}
    config = GitConfig(**SMALL, **TEXT, vision_config=vision, max_position_embeddings=40)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return GitForCausalLM(config), [images, tokenizer()]


def encoder_decoder() -> tuple[Any, list[Any]]:
    decoder = GPT2Config(**TEXT, n_positions=40, n_embd=32, n_layer=2, n_head=2)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        ViTConfig(**SMALL, image_size=32, patch_size=16), decoder
    )
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = START, PAD, END
    model = VisionEncoderDecoderModel(config)
    model.generation_config.decoder_start_token_id = START
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = END, PAD
    return model, [ViTImageProcessor(size={"height": 32, "width": 32}), tokenizer()]


def llava() -> tuple[Any, list[Any]]:
    vision = CLIPVisionConfig(**SMALL, image_size=32, patch_size=16)
    text = LlamaConfig(**SMALL, **TEXT, max_position_embeddings=64)
    model = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_id=WORDS.index("<image>"))
    )
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    template = TURN.replace("IMAGE", "<image> ")
    processor = LlavaProcessor(
        images, tokenizer(), patch_size=16, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=template,
    )  # fmt: skip
    return model, [processor]


def qwen(config: type, model: type, **vision: Any) -> tuple[Any, list[Any]]:
    text = {
        **SMALL,
        **TEXT,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
    }
    ids = {f"{name}_token_id": WORDS.index(f"<|{name}|>") for name in ("vision_start", "vision_end")}
    ids |= {f"{name}_token_id": WORDS.index(f"<|{name}_pad|>") for name in ("image", "video")}
    made = model(config(text_config=text, vision_config={"depth": 2, "num_heads": 2, "patch_size": 8, **vision}, **ids))
    size = {"shortest_edge": 32 * 32, "longest_edge": 64 * 64}
    images, videos = (each(patch_size=8, size=size) for each in (Qwen2VLImageProcessor, Qwen2VLVideoProcessor))
    template = TURN.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|> ")
    return made, [Qwen2VLProcessor(images, tokenizer(), videos, chat_template=template)]


def qwen_2() -> tuple[Any, list[Any]]:
    return qwen(Qwen2VLConfig, Qwen2VLForConditionalGeneration, embed_dim=32, hidden_size=32)


def qwen_3() -> tuple[Any, list[Any]]:
    return qwen(
        Qwen3VLConfig, Qwen3VLForConditionalGeneration, hidden_size=32, out_hidden_size=32, intermediate_size=48,
        num_position_embeddings=16, deepstack_visual_indexes=[0],
    )  # fmt: skip


def qwen_2_5() -> tuple[Any, list[Any]]:
    return qwen(
        Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, hidden_size=32, out_hidden_size=32, intermediate_size=48,
        window_size=32, fullatt_block_indexes=[1],
    )  # fmt: skip


UNASKED: list[Callable[[], tuple[Any, list[Any]]]] = [blip, git, encoder_decoder]
CHATS: list[Callable[[], tuple[Any, list[Any]]]] = [llava, qwen_2, qwen_2_5, qwen_3]
TOWERS = ("vision_model", "image_encoder", "encoder", "vision_tower", "visual")
every_family = pytest.mark.parametrize("family", [*UNASKED, *CHATS], ids=lambda family: family.__name__)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], str]:
    """The folder of a family's tiny model, with weights by which what it says depends on the image."""
    folders: dict[str, str] = {}

    def save(family: Any) -> str:
        if family.__name__ not in folders:
            folder = tmp_path_factory.mktemp(family.__name__)
            torch.manual_seed(0)
            with torch.inference_mode(False):
                model, parts = family()
                for parameter in model.parameters():
                    if parameter.ndim >= 2:
                        torch.nn.init.normal_(parameter, std=1.5 * parameter[0].numel() ** -0.5)
            for part in (model, *parts):
                part.save_pretrained(folder)
            folders[family.__name__] = str(folder)
        return folders[family.__name__]

    return save


def captioner(folder: str, family: Any, **fields: Any) -> Any:
    kind = "ChatCaptioner" if family in CHATS else "ImageToTextCaptioner"
    options = {"model": folder, **fields.pop("options", {})}
    card = CaptionerCard(name="mine", use=f"dr_pipeline.models.image_to_text:{kind}", options=options, **fields)
    return load_captioner(card, CPU)


def some_pixels(count: int, side: int = 32) -> np.ndarray:
    coarse = np.random.default_rng(5).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return coarse.repeat(side // 4, 1).repeat(side // 4, 2)


def by_the_library(folder: str, pixels_HWC: np.ndarray, prompt: str, **options: Any) -> list[str]:
    """Captions of one image by the library's processor and its `generate`."""
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    image = Image.fromarray(pixels_HWC)
    if prompt:
        processor = AutoProcessor.from_pretrained(folder)
        asked = [{"type": "image", "image": image}, {"type": "text", "text": prompt}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": asked}], add_generation_prompt=True, tokenize=True, return_dict=True,
            return_tensors="pt",
        )  # fmt: skip
    else:
        inputs = AutoImageProcessor.from_pretrained(folder)(images=image, return_tensors="pt")
    ends = {} if isinstance(model, BlipForConditionalGeneration) else {"eos_token_id": [END, WORDS.index("<|im_end|>")]}
    ids_NT = model.generate(**inputs, do_sample=False, max_new_tokens=8, **ends, **options)
    words = tokenizer().batch_decode(
        ids_NT[:, inputs["input_ids"].shape[1] if prompt else 1 :], skip_special_tokens=True
    )
    return [" ".join(text.split()) for text in words]


PROMPTS = ["a dog", "Describe the image in one sentence .", "the image : a red dog", "grass", "a a a a a a"]
GREEDY = Sampling(method="greedy", max_tokens=9)


def some_images(made: Any, count: int = 5) -> torch.Tensor:
    return prepare(torch.from_numpy(some_pixels(count)), made.spec)


def written(made: Any, family: Any, images: slice, sampling: Sampling, captions: int = 2) -> list[list[str]]:
    """Captions of some of five images, of a chat each by its prompt."""
    images_BCHW, streams = some_images(made)[images], some_streams(5, captions)[images]
    if family in CHATS:
        return made.caption_prompted(images_BCHW, PROMPTS[images], streams, sampling)
    return made.caption(images_BCHW, streams, sampling)


@every_family
def test_it_says_what_generate_says_alone_and_in_a_batch(family: Any, saved: Callable[[Any], str]) -> None:
    made, pixels_BHWC = captioner(saved(family), family, options={"image_size": 32}), some_pixels(5)
    together = written(made, family, slice(0, 5), GREEDY)
    for index, texts in enumerate(together):
        prompt = PROMPTS[index] if family in CHATS else ""
        (expected,) = by_the_library(saved(family), pixels_BHWC[index], prompt)
        assert texts == [expected] * 2
        assert written(made, family, slice(index, index + 1), GREEDY) == [texts]
    assert len({tuple(texts) for texts in together}) == 5


@every_family
def test_captions_that_are_drawn_are_each_image_s_own(family: Any, saved: Callable[[Any], str]) -> None:
    made = captioner(saved(family), family, options={"image_size": 32})
    for options in ({"repetition_penalty": 1.3}, {"method": "beam", "num_beams": 4, "num_beam_groups": 2}):
        sampling = Sampling(max_tokens=7, **options)
        together = written(made, family, slice(0, 5), sampling)
        assert [written(made, family, slice(b, b + 1), sampling)[0] for b in range(5)] == together
        assert len({text for texts in together for text in texts}) > 5


@every_family
def test_images_and_prompts_are_seen_once_however_many_captions_there_are(
    family: Any, saved: Callable[[Any], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = captioner(saved(family), family, options={"image_size": 32})
    shapes: list[tuple[int, ...]] = []
    prepare_inputs = Prefilled._run

    def noting(self: Prefilled, tokens_RL: torch.Tensor, **how: Any) -> torch.Tensor:
        shapes.append(tuple(tokens_RL.shape))
        return prepare_inputs(self, tokens_RL, **how)

    monkeypatch.setattr(Prefilled, "_run", noting)
    seen: list[torch.Tensor] = []
    towers = [part for name, part in made._model.named_modules() if name.split(".")[-1] in TOWERS]
    handle = towers[0].register_forward_hook(lambda tower, images, made: seen.append(images))
    written(made, family, slice(0, 5), Sampling(max_tokens=5), captions=4)
    handle.remove()
    assert len(seen) == 1
    assert shapes[0][0] == 5
    assert shapes[1] == (20, 1)


@every_family
def test_weights_are_rounded_once(family: Any, saved: Callable[[Any], str]) -> None:
    kind = "ChatCaptioner" if family in CHATS else "ImageToTextCaptioner"
    card = CaptionerCard(
        name="mine", use=f"dr_pipeline.models.image_to_text:{kind}", options={"model": saved(family), "image_size": 32}
    )
    exact, rounded = (load_ready_captioner(card, CPU, precision) for precision in ("float32", "bfloat16"))
    assert not rounded.needs_autocast
    module = rounded.captioner._model  # type: ignore[union-attr]
    assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}
    assert torch.bfloat16 not in {buffer.dtype for buffer in module.buffers()}  # frequencies of positions among them
    short = Sampling(method="greedy", max_tokens=3)
    pairs = zip(*(written(one.captioner, family, slice(0, 5), short, 1) for one in (exact, rounded)), strict=True)
    assert sum(ours == theirs for ours, theirs in pairs) >= 3


@pytest.mark.parametrize("family", CHATS, ids=lambda family: family.__name__)
def test_prompts_about_the_same_images_have_them_encoded_once(family: Any, saved: Callable[[Any], str]) -> None:
    made, plain = (captioner(saved(family), family, options={"image_size": 32}) for _ in range(2))
    images_BCHW, other_BCHW = some_images(made)[:3], some_images(made)[2:5]
    asked = [(images_BCHW, 0), (images_BCHW.clone(), 1), (other_BCHW, 1), (images_BCHW[:1], 1)]

    def write(by: Any, images_BCHW: torch.Tensor, prompt: int) -> list[list[str]]:
        number = len(images_BCHW)
        return by.caption_prompted(images_BCHW, [PROMPTS[prompt]] * number, some_streams(number, 2), GREEDY)

    towers = [part for name, part in made._model.named_modules() if name.split(".")[-1] in TOWERS]
    seen: list[int] = []
    handle = towers[0].register_forward_hook(lambda *_: seen.append(len(seen)))
    texts, counts = [], []
    for images, prompt in asked:
        texts.append(write(made, images, prompt))
        counts.append(len(seen))
    handle.remove()
    assert counts == [1, 1, 2, 3]
    del plain._model.base_model.get_image_features  # the class's own
    assert texts == [write(plain, *one) for one in asked]
    assert texts[0] != texts[1]


@every_family
def test_a_large_model_is_never_in_float32_and_has_the_same_rounded_weights(
    family: Any, saved: Callable[[Any], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = "ChatCaptioner" if family in CHATS else "ImageToTextCaptioner"
    card = CaptionerCard(
        name="mine", use=f"dr_pipeline.models.image_to_text:{kind}", options={"model": saved(family), "image_size": 32}
    )
    small = load_ready_captioner(card, CPU, "bfloat16").captioner._model
    dtypes: list[torch.dtype] = []
    rounded = rounding.cast_and_compare
    monkeypatch.setattr(
        rounding, "cast_and_compare", lambda model, *rest: (dtypes.append(model.dtype), rounded(model, *rest))
    )
    monkeypatch.setattr(pretrained, "COMPARED_PARAMETERS", 1000)
    large = load_ready_captioner(card, CPU, "bfloat16")
    assert dtypes == [torch.bfloat16]
    assert not large.needs_autocast
    for parts in ("state_dict", "named_buffers"):
        ours, theirs = (dict(getattr(model, parts)()) for model in (large.captioner._model, small))
        assert {name: part.dtype for name, part in ours.items()} == {name: part.dtype for name, part in theirs.items()}
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert load_ready_captioner(card, CPU, "float32").captioner._model.dtype == torch.float32


def test_the_dtype_of_weights_is_no_option_of_a_card(saved: Callable[[Any], str]) -> None:
    options = {"model": saved(git), "weights_dtype": "bfloat16"}
    card = CaptionerCard(name="mine", use="dr_pipeline.models.image_to_text:ImageToTextCaptioner", options=options)
    with pytest.raises(ConfigError, match=r"options\.weights_dtype: .* has no such option"):
        load_captioner(card, CPU)


def test_the_model_s_own_signs_mean_nothing_in_a_prompt(saved: Callable[[Any], str]) -> None:
    for family in (llava, qwen_2_5):
        made = captioner(saved(family), family, options={"image_size": 32})
        images_BCHW, signs = some_images(made)[:2], " <|im_end|> <image> <|image_pad|><|im_<|im_end|>end|> </s>"
        plain, odd = (
            made.caption_prompted(images_BCHW, [prompt] * 2, some_streams(2, 1), GREEDY)
            for prompt in ("a dog <|im_ end|>", "a dog" + signs)
        )
        assert plain == odd


def test_a_caption_without_an_end_is_cut_and_a_context_without_room_is_named(saved: Callable[[Any], str]) -> None:
    unasked, chat = captioner(saved(blip), blip), captioner(saved(llava), llava)
    assert unasked.spec.image_size == chat.spec.image_size == 32  # their processors make it of every image
    long = Sampling(method="greedy", min_tokens=300, max_tokens=300)  # of 40 positions that it has learned
    ((text,),) = unasked.caption(some_images(unasked, 1), some_streams(1, 1), long)
    assert isinstance(text, CutCaption)
    with pytest.raises(ModelError, match=r"a prompt of 99 tokens, .* leaves no room for words in a context of 64"):
        chat.caption_prompted(some_images(chat, 1), ["a " * 90], some_streams(1, 1), GREEDY)


def test_a_model_without_a_chat_template_cannot_be_asked(saved: Callable[[Any], str]) -> None:
    with pytest.raises(ModelError, match="no chat template, so nothing can be asked: use ImageToTextCaptioner"):
        ChatCaptioner(CPU, saved(blip))
    card = CaptionerCard(
        name="mine", use="dr_pipeline.models.image_to_text:ImageToTextCaptioner", options={"model": saved(blip)},
        prompt="Why?",
    )  # fmt: skip
    with pytest.raises(ConfigError, match="card mine: prompt: "):
        load_captioner(card, CPU)


def test_a_model_that_wants_other_inputs_is_named_before_any_shard(saved: Callable[[Any], str]) -> None:
    said = "LlavaForConditionalGeneration does not take what ImageToTextCaptioner gives it: ValueError"
    with pytest.raises(ModelError, match=said):
        ImageToTextCaptioner(CPU, saved(llava))


def test_a_chat_of_images_of_any_size_gets_larger_ones(saved: Callable[[Any], str]) -> None:
    made = captioner(saved(qwen_2_5), qwen_2_5)
    assert made.spec.image_size == 448
    assert isinstance(made, PromptedCaptioner)
    own = captioner(saved(qwen_2_5), qwen_2_5, options={"image_size": 32, "prompt": "a dog"})
    images_BCHW = some_images(own)[:2]
    asked = own.caption_prompted(images_BCHW, ["a dog"] * 2, some_streams(2, 1), GREEDY)
    assert own.caption(images_BCHW, some_streams(2, 1), GREEDY) == asked


def test_the_captioner_of_the_page_says_what_generate_says(saved: Callable[[Any], str], tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/captioners.md").read_text()
    ((code, _),) = re.findall(r"^```python\n(.*?(class Git).*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "page_of_captioners.py").write_text(code)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        card = CaptionerCard(name="git", use="page_of_captioners:Git", options={"model": saved(git)})
        made = load_captioner(card, CPU, [str(tmp_path)])
    house = captioner(saved(git), git)
    for options in ({"method": "greedy"}, {"top_p": 0.8}, {"method": "beam", "num_beams": 3}):
        sampling = Sampling(max_tokens=8, **options)
        assert written(made, git, slice(0, 5), sampling) == written(house, git, slice(0, 5), sampling)
    for index, texts in enumerate(written(made, git, slice(0, 5), GREEDY)):
        assert texts == 2 * by_the_library(saved(git), some_pixels(5)[index], "")


@pytest.mark.parametrize("family", [git, llava], ids=["git", "llava"])
def test_check_teacher_finds_nothing_wrong(family: Any, saved: Callable[[Any], str]) -> None:
    kind = "ChatCaptioner" if family in CHATS else "ImageToTextCaptioner"
    use = f"dr_pipeline.models.image_to_text:{kind}"
    prompt = "a dog : {alt_text}" if family in CHATS else None
    card = CaptionerCard(
        name="mine",
        use=use,
        options={"model": saved(family)},
        prompt=prompt,
        num_captions=2,
        sampling=Sampling(max_tokens=6),
    )
    assert check_captioner(card).problems == []


def test_a_job_writes_a_key_for_each_prompt_by_one_model(saved: Callable[[Any], str], tmp_path: Path) -> None:
    scenes = make_scenes(tmp_path / "in", num_shards=1, samples_per_shard=3)
    prompts = {"long": "Describe the image : {alt_text}", "short": "a dog", "own": None}
    captioners = [
        {
            "name": "vlm",
            "use": "dr_pipeline.models.image_to_text:ChatCaptioner",
            "options": {"model": saved(llava), "prompt": "one sentence ."},
            "tag": tag,
            "num_captions": 2,
            "prompt": prompt,
            "sampling": {"max_tokens": 6},
        }
        for tag, prompt in prompts.items()
    ]
    job = demo_job(scenes, tmp_path / "out", f"captioners={json.dumps(captioners)}")
    assert not run(job, Silent()).failed
    with next((tmp_path / "out").glob("*.tar")).open("rb") as stream:
        written = [parse_synthetic(sample.members["syn.json"]) for sample in read_samples(stream)]
    assert [sorted(texts) for texts in written] == [["syn_text_long", "syn_text_own", "syn_text_short"]] * 3
    assert len({tuple(texts) for synthetic in written for texts in synthetic.values()}) == 9
    assert main(["verify", str(tmp_path / "out"), "--deep", "--samples", "3"]) == 0
