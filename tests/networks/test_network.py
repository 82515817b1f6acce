"""Every family of open_clip's models against open_clip's own loading and encoding of the same files."""

import json
import logging
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
import huggingface_hub.constants
import open_clip
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from dr_pipeline.config.cards import CaptionerCard
from dr_pipeline.demo.tokenizer import WordTokenizer
from dr_pipeline.errors import ConfigError, ModelError
from dr_pipeline.models.cards import card_cost
from dr_pipeline.models.load import load_captioner
from dr_pipeline.models.open_clip import OpenClipTeacher
from dr_pipeline.networks.architecture import build, read_architecture
from dr_pipeline.networks.digests import card_with_digests
from dr_pipeline.networks.network import load_network
from dr_pipeline.networks.tokenizer import make_tokenizer

CPU = torch.device("cpu")
WORDS = WordTokenizer(context_length=20)
OWN_WORDS: dict[str, Any] = {"tokenizer": "dr_pipeline.demo.tokenizer:WordTokenizer"}
VISION = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16}
TEXT = {"context_length": 20, "vocab_size": WORDS.vocab_size, "width": 32, "heads": 2, "layers": 2}
CLIP = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT}
LATENT = {"attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 2, "output_tokens": True}
FAMILIES: dict[str, dict[str, Any]] = {
    "clip": {**CLIP, "quick_gelu": True},
    "clip_eos_bias": {
        **CLIP,
        "text_cfg": {**TEXT, "pool_type": "eos", "eos_id": WORDS.eot_token_id, "proj_bias": True},
    },
    "clip_image_tokens": {**CLIP, "vision_cfg": {**VISION, "output_tokens": True}},
    "custom_causal": {**CLIP, "custom_text": True, "text_cfg": {**TEXT, "output_tokens": True}},
    "custom_class_token": {**CLIP, "custom_text": True, "text_cfg": {**TEXT, "embed_cls": True}},
    "siglip": {
        **CLIP,
        "custom_text": True,
        "init_logit_bias": -10,
        "text_cfg": {**TEXT, "no_causal_mask": True, "pool_type": "last", "proj_bias": True},
    },
    "mobileclip": {**CLIP, "custom_text": True, "text_cfg": {**TEXT, "no_causal_mask": True}},
    "coca": {
        **CLIP,
        "custom_text": True,
        "vision_cfg": {**VISION, **LATENT},
        "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**TEXT, "attn_pooler_heads": 2},
    },
    "resnet": {**CLIP, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16}},
}
CAUSAL = ("clip", "clip_eos_bias", "clip_image_tokens", "custom_causal", "resnet")
TEXTS = ["", "a dog", "ein größeres Bild 🐶 of a red circle", "many words " * 30, "a small blue square on sand"]
PREPROCESS = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}


def write_config(folder: Path, family: str) -> str:
    path = folder / "open_clip_config.json"
    path.write_text(json.dumps({"model_cfg": FAMILIES[family], "preprocess_cfg": PREPROCESS}))
    return str(path)


@pytest.fixture
def checkpoint(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Any, str, str]:
    """open_clip's own model of a family, and the config and weights files that it was loaded from."""
    config = write_config(tmp_path, request.param)
    weights = tmp_path / "open_clip_model.safetensors"
    torch.manual_seed(1)
    made = open_clip.create_model(f"local-dir:{tmp_path}")
    for parameter in made.parameters():  # zeros and ones, as layers begin with, would hide a key that was not loaded
        torch.nn.init.normal_(parameter, std=0.2)
    save_file(made.state_dict(), weights)
    return open_clip.create_model(f"local-dir:{tmp_path}").eval(), config, str(weights)


def families(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("checkpoint", names, indirect=True)


@families(*FAMILIES)
def test_a_teacher_embeds_as_open_clip_does(checkpoint: tuple[Any, str, str]) -> None:
    reference, config, weights = checkpoint
    teacher = OpenClipTeacher(CPU, config, weights, **OWN_WORDS)
    assert teacher.spec.dim == 24
    assert teacher.spec.image_size == open_clip.model.to_2tuple(reference.visual.image_size)[0]
    assert teacher.spec.mean == (0.4, 0.5, 0.6)
    assert teacher.spec.std == (0.2, 0.25, 0.3)
    images = torch.rand(3, 3, teacher.spec.image_size, teacher.spec.image_size)
    tokens = WORDS(TEXTS)
    with torch.inference_mode():
        image_emb, text_emb = teacher.encode_images(images), teacher.encode_texts(TEXTS)
        expected_image, expected_text = reference.encode_image(images), reference.encode_text(tokens)
    first = [output[0] if isinstance(output, tuple) else output for output in (expected_image, expected_text)]
    assert image_emb.shape == (3, 24)
    assert text_emb.shape == (5, 24)
    torch.testing.assert_close(image_emb, first[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(text_emb, first[1], atol=1e-5, rtol=1e-5)
    assert not any(parameter.requires_grad for parameter in teacher._network.module.parameters())


@families(*FAMILIES)
def test_padding_is_cut_where_a_text_tower_pools_at_end_of_text(
    checkpoint: tuple[Any, str, str], request: pytest.FixtureRequest
) -> None:
    _, config, weights = checkpoint
    family = request.node.callspec.params["checkpoint"]
    teacher = OpenClipTeacher(CPU, config, weights, **OWN_WORDS)
    lengths = []
    tower = getattr(teacher._network.module, "text", teacher._network.module)
    tower.transformer.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    with torch.inference_mode():
        cut = teacher.encode_texts(["a circle", "a small circle"])
        alone = teacher.encode_texts(["a circle"])
    full = 21 if family in ("coca", "custom_class_token") else 20  # these append a class token
    assert lengths == ([5, 4] if family in CAUSAL else [full, full])
    torch.testing.assert_close(cut[:1], alone, atol=1e-5, rtol=1e-5)


@families("clip", "custom_causal")
def test_a_training_checkpoint_is_read(checkpoint: tuple[Any, str, str], tmp_path: Path) -> None:
    reference, config, _ = checkpoint
    state = {f"module.{key}": tensor for key, tensor in reference.state_dict().items()}
    torch.save({"epoch": 3, "name": "run", "state_dict": state}, tmp_path / "epoch_3.pt")
    loaded = load_network(config, str(tmp_path / "epoch_3.pt"), CPU, **OWN_WORDS)
    for key, tensor in reference.state_dict().items():
        if key not in ("logit_scale", "logit_bias"):
            torch.testing.assert_close(loaded.module.state_dict()[key], tensor, atol=0, rtol=0)


@families("clip")
def test_weights_of_an_older_form_fit_a_custom_text_model(checkpoint: tuple[Any, str, str], tmp_path: Path) -> None:
    reference, _, weights = checkpoint
    config = tmp_path / "custom.json"
    config.write_text(json.dumps({"model_cfg": {**FAMILIES["clip"], "custom_text": True}}))
    loaded: Any = load_network(str(config), weights, CPU, **OWN_WORDS).module
    torch.testing.assert_close(loaded.text.text_projection, reference.text_projection)


def test_random_weights_are_the_same_everywhere_and_announced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = write_config(tmp_path, "coca")
    torch.manual_seed(1)
    with caplog.at_level(logging.WARNING):
        first = load_network(config, "random", CPU, **OWN_WORDS).module.state_dict()
    assert f"RANDOM WEIGHTS for {config}" in caplog.text
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.copy(config, tmp_path / "elsewhere/another_name.json")
    second = load_network(str(moved), "random", CPU, **OWN_WORDS).module.state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_nothing_defaults_to_random_weights() -> None:
    with pytest.raises(TypeError, match="weights"):
        OpenClipTeacher(CPU, "ViT-B-32")  # type: ignore[call-arg]


@families("clip")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("ln_final.bias"), "lacks ln_final.bias"),
        (lambda state: state.update(extra=torch.zeros(1)), "has extra, which the model has not"),
        (
            lambda state: state.update({"visual.positional_embedding": torch.zeros(10, 64)}),
            r"visual.positional_embedding is \[10, 64\], the model's is \[5, 64\]",
        ),
        (
            lambda state: state.update(positional_embedding=torch.zeros(77, 32)),
            r"positional_embedding is \[77, 32\], the model's is \[20, 32\]",
        ),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(
    checkpoint: tuple[Any, str, str], tmp_path: Path, change: Any, said: str
) -> None:
    reference, config, _ = checkpoint
    state = dict(reference.state_dict())
    change(state)
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=said) as caught:
        load_network(config, str(tmp_path / "other.safetensors"), CPU)
    assert config in str(caught.value)
    assert "other.safetensors" in str(caught.value)


class Dangerous:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Dangerous()}, tmp_path / "evil.pt")
    with pytest.raises(ModelError, match=r"neither .safetensors nor a plain torch state dict"):
        load_network(write_config(tmp_path, "clip"), "evil.pt", CPU)
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("model", "weights", "said"),
    [
        ("ViT-L-41", "openai", "model ViT-L-41: open_clip has no such architecture; did you mean ViT-L-1"),
        ("ViT-L-14-quickgelu", "opanai", "has no such tag for this model; did you mean openai"),
        ("ViT-L-14-quickgelu", "", "has no such tag for this model"),
        ("ViT-L-14", "openai", "trained as ViT-L-14-quickgelu; set options.model to that"),
        ("ViT-L-14", "hf-hub:apple/DFN2B-CLIP-ViT-L-14", "trained as ViT-L-14-quickgelu"),
        ("ViT-L-14-quickgelu", "hf-hub:apple/DFN2B-CLIP-ViT-L-14-39B", "trained as ViT-L-14; set"),
        ("no/such/config.json", "random", "no file at no/such/config.json"),
        ("package://dr_pipeline.demo/scene_clip_z.json", "random", "no such file; did you mean scene_clip_"),
        ("package://no_package/x.json", "random", "no package 'no_package' is installed"),
    ],
)
def test_a_wrong_model_or_weights_names_what_to_write(model: str, weights: str, said: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_network(model, weights, CPU)
    assert said in str(caught.value)


def test_a_missing_weights_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "clip_model.safetensors").touch()
    with pytest.raises(ModelError, match=r"no file at .*clip_modle.safetensors .*did you mean clip_model.safetensors"):
        load_network(write_config(tmp_path, "clip"), str(tmp_path / "clip_modle.safetensors"), CPU)


@pytest.mark.parametrize(("model_at_hub", "weights_at_hub"), [(True, False), (False, True)])
def test_a_hub_that_cannot_be_reached_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_at_hub: bool, weights_at_hub: bool
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub = "hf-hub:apple/DFN2B-CLIP-ViT-L-14-39B"
    with pytest.raises(ModelError, match=f"{hub} cannot be downloaded .* give a path or an s3:// URL"):
        load_network(hub if model_at_hub else write_config(tmp_path, "clip"), hub if weights_at_hub else "random", CPU)


def test_every_tokenizer_of_the_hub_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A third of open_clip's architectures, all SigLIP among them, have no tokenizer in open_clip itself."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", "/nowhere/hub")
    by_repo = {}
    for name in open_clip.list_models():
        text = open_clip.get_model_config(name)["text_cfg"]
        by_repo.setdefault(text.get("hf_tokenizer_name"), name)
    make_tokenizer(read_architecture(by_repo.pop(None), "random"), None, 77)
    assert "timm/ViT-B-16-SigLIP" in by_repo
    for repo, name in by_repo.items():
        with pytest.raises(ModelError) as caught:
            make_tokenizer(read_architecture(name, "random"), None, 64)
        message = str(caught.value)
        assert message.startswith(f"model {name}: its tokenizer: {repo} of the Hugging Face hub cannot be had")
        assert f"from transformers import AutoTokenizer; AutoTokenizer.from_pretrained('{repo}')" in message
        assert f"models--{repo.replace('/', '--')} of the hub cache there to /nowhere/hub here" in message


def test_a_text_tower_of_the_hub_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"its text tower's configuration: roberta-base .*AutoConfig\.from_pretrained"):
        build(read_architecture("roberta-ViT-B-32", "random"))


def test_a_package_that_a_tokenizer_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        ModelError, match=r"its tokenizer: it needs transformers, .*: pip install 'dr-pipeline\[transformers\]'"
    ):
        make_tokenizer(read_architecture("ViT-B-16-SigLIP", "random"), None, 64)


@families("clip")
def test_a_hub_repository_is_loaded_whole(checkpoint: tuple[Any, str, str], hub: dict[str, bytes]) -> None:
    reference, config, weights = checkpoint
    hub["lab/clip/open_clip_config.json"] = Path(config).read_bytes()
    hub["lab/clip/open_clip_model.safetensors"] = Path(weights).read_bytes()
    hub["lab/other/mine.safetensors"] = Path(weights).read_bytes()
    hub["lab/many/a.safetensors"] = hub["lab/many/b.safetensors"] = Path(weights).read_bytes()
    for weights_there in ("hf-hub:lab/clip", "hf-hub:lab/other", "hf-hub:lab/many/b.safetensors"):
        loaded = load_network("hf-hub:lab/clip", weights_there, CPU, **OWN_WORDS)
        assert torch.equal(loaded.module.state_dict()["ln_final.weight"], reference.ln_final.weight)
        assert loaded.image.mean == (0.4, 0.5, 0.6)
    with pytest.raises(ModelError, match=r"hf-hub:lab/many has no .*FILE of \['a.safetensors', 'b.safetensors'\]"):
        load_network("hf-hub:lab/clip", "hf-hub:lab/many", CPU, **OWN_WORDS)
    with pytest.raises(ModelError, match=r"hf-hub:lab/clip has no epoch_9.pt"):
        load_network("hf-hub:lab/clip", "hf-hub:lab/clip/epoch_9.pt", CPU, **OWN_WORDS)


def test_a_released_captioner_is_loaded_from_a_copied_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its repository holds one of open_clip's files of architectures as config.json, and one checkpoint of any name."""
    snapshot = tmp_path / "hub/models--lab--coca_context20/snapshots/r1"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text("r1")
    (snapshot / "config.json").write_text(json.dumps({**FAMILIES["coca"], "embed_dim": TEXT["width"]}))
    reference = build(read_architecture(str(snapshot / "config.json"), "random"), seed=3)
    torch.save(reference.state_dict(), snapshot / "mine.pt")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for model in ("hf-hub:lab/coca_context20/config.json", str(snapshot / "config.json")):
        options = {**OWN_WORDS, "model": model, "weights": "hf-hub:lab/coca_context20"}
        plain = CaptionerCard(name="coca", use="dr_pipeline.models.coca:CocaCaptioner", options=options)
        card = card_with_digests(plain)
        assert {"model", "weights"} <= card.digests.keys()
        captioner = load_captioner(card, CPU)
        assert captioner.spec.image_size == 32
        assert torch.equal(captioner._model.state_dict()["text.cls_emb"], reference.text.cls_emb)
        cost = card_cost(card)
        assert cost is not None
        assert cost.token_flops > 0


def test_the_cost_of_an_architecture_out_of_reach_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    options = {"model": "hf-hub:lab/nowhere/config.json", "weights": "hf-hub:lab/nowhere"}
    card = CaptionerCard(name="coca", use="dr_pipeline.models.coca:CocaCaptioner", options=options)
    assert card_cost(card) is None


def test_a_tokenizer_works_from_a_copied_cache(hub: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    words = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2, "cube": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    repo = "timm/ViT-B-16-SigLIP"
    hub[f"{repo}/tokenizer.json"] = words.to_str().encode()
    special = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    hub[f"{repo}/tokenizer_config.json"] = json.dumps(special).encode()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):  # as transformers asks for them
        with suppress(EntryNotFoundError):  # that there is no config.json is kept in the cache too
            huggingface_hub.hf_hub_download(repo, name)
    hub.clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    tokenizer = make_tokenizer(read_architecture("ViT-B-16-SigLIP", "random"), None, 5)
    assert tokenizer(["A cube", "cube of"]).tolist() == [[2, 3, 0, 0, 0], [3, 1, 0, 0, 0]]


@families("clip")
def test_weights_come_from_a_url_once_per_version(
    checkpoint: tuple[Any, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, config, weights = checkpoint
    monkeypatch.setenv("DR_PIPELINE_CACHE", str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    memory.pipe("/models/clip.safetensors", Path(weights).read_bytes())
    downloads = set()
    for _ in range(2):
        module = load_network(config, "memory://models/clip.safetensors", CPU, **OWN_WORDS).module
        torch.testing.assert_close(module.state_dict()["ln_final.weight"], reference.ln_final.weight)
        cached = list((tmp_path / "cache").rglob("*.safetensors"))
        assert [path.read_bytes() for path in cached] == [Path(weights).read_bytes()]
        downloads.add(cached[0].stat().st_ino)
    assert len(downloads) == 1
    memory.pipe("/models/clip.safetensors", b"another version")
    with pytest.raises(ModelError, match=r"neither .safetensors nor"):
        load_network(config, "memory://models/clip.safetensors", CPU, **OWN_WORDS)
    memory.rm("/models/clip.safetensors")
    with pytest.raises(ModelError, match=r"memory://models/clip.safetensors cannot be downloaded"):
        load_network(config, "memory://models/clip.safetensors", CPU)


@families("clip", "siglip")
def test_context_length_shortens_texts_only_where_that_is_sound(
    checkpoint: tuple[Any, str, str], request: pytest.FixtureRequest
) -> None:
    reference, config, weights = checkpoint
    if request.node.callspec.params["checkpoint"] == "siglip":
        with pytest.raises(ModelError, match="context_length is 8; its text tower takes 20"):
            OpenClipTeacher(CPU, config, weights, **OWN_WORDS, context_length=8)
        return
    short = OpenClipTeacher(CPU, config, weights, **OWN_WORDS, context_length=8)
    words = "one two three four five six seven eight nine"
    with torch.inference_mode():
        padded = torch.nn.functional.pad(WORDS([words], context_length=8), (0, 12))
        torch.testing.assert_close(short.encode_texts([words]), reference.encode_text(padded), atol=1e-5, rtol=1e-5)
    with pytest.raises(ModelError, match="context_length is 77; its text tower takes 20"):
        OpenClipTeacher(CPU, config, weights, **OWN_WORDS, context_length=77)


def test_tokenizers(tmp_path: Path) -> None:
    config = write_config(tmp_path, "clip")
    with pytest.raises(ModelError, match=rf"49408 tokens but the model knows {WORDS.vocab_size}: set tokenizer"):
        load_network(config, "random", CPU)
    own = load_network(config, "random", CPU, **OWN_WORDS, context_length=9)
    assert own.tokenizer(["a red circle"]).shape == (1, 9)
    with pytest.raises(ConfigError, match="did you mean WordTokenizer"):
        load_network(config, "random", CPU, tokenizer="dr_pipeline.demo.tokenizer:WordTokeniser")
    large = tmp_path / "large.json"
    large.write_text(json.dumps({"model_cfg": {**CLIP, "text_cfg": {**TEXT, "vocab_size": 49408}}}))
    clips = load_network(str(large), "random", CPU)
    assert (
        clips.tokenizer(["a dog"]).tolist() == open_clip.get_tokenizer("ViT-B-32", context_length=20)("a dog").tolist()
    )
    assert clips.image.mean == open_clip.OPENAI_DATASET_MEAN


def test_weights_without_a_record_take_the_mean_and_std_that_the_architectures_tags_agree_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert read_architecture("ViT-B-16-SigLIP", "mine.pt").mean == (0.5, 0.5, 0.5)
    assert read_architecture("MobileCLIP2-S0", "mine.pt").std == (1.0, 1.0, 1.0)
    assert not caplog.records
    assert read_architecture("ViT-L-14", "mine.pt").mean == open_clip.OPENAI_DATASET_MEAN
    assert "its tags differ in mean and std" in caplog.text


def test_a_config_that_is_none_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    for text, said in [
        ("not json", "expected JSON"),
        ("[1]", "expected JSON"),
        ('{"embed_dim": 4}', "expected JSON"),
        ('{"model_cfg": "ViT-B-32"}', "expected JSON"),
        (json.dumps({"model_cfg": CLIP, "preprocess_cfg": {"mean": 0.5}}), "expected JSON"),
        (json.dumps({"model_cfg": {"embed_dim": 4}}), "cannot build a CLIP of it"),
        (json.dumps({"model_cfg": {**CLIP, "embed_dmi": 4}}), "cannot build a CLIP of it"),
        (json.dumps({"model_cfg": {**CLIP, "vision_cfg": {**VISION, "image_size": [32, 48]}}}), "only square"),
    ]:
        config.write_text(text)
        with pytest.raises(ModelError, match=said):
            load_network(str(config), "random", CPU)
