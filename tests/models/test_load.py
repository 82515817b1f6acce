"""Cards to models: what is wrong in a card or a plug-in is named with the field and the nearest valid name."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from dr_pipeline.config.cards import CaptionerCard, Card, ScorerCard, TeacherCard
from dr_pipeline.config.jobfile import load_card
from dr_pipeline.config.plugins import load_class
from dr_pipeline.errors import ConfigError, ModelError
from dr_pipeline.models.cards import CardOfEitherKind
from dr_pipeline.models.load import described, load_captioner, load_teacher
from dr_pipeline.models.open_clip import OpenClipTeacher
from dr_pipeline.networks.files import HUB, resource
from dr_pipeline.networks.weights import pretrained_cfg

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
CARDS = sorted((ROOT / "teachers").glob("*.yaml"))
RELEASED = "apple/mobileclip2_coca_dfn2b_s13b_"
RELEASED_CAPTIONERS = {
    "context77",
    "mscoco38k_s12m_context77",
    *(
        f"{name}_s12m_context{length}"
        for name in ("dci-complete", "dci-extended", "dci-short", "docci", "recap-coco-30k")
        for length in (77, 128, 256)
    ),
    "gbc1m-short_context77",
    "gbc1m-long_context256",
    "gbc10m-short-relation_context256",
    "gbc10m-long_context256",
}
"""As the README of MobileCLIP's repository lists them."""
OF_OPEN_CLIP = [
    path for path in CARDS if re.search(r"^use: .*:(CocaCaptioner|OpenClipTeacher)$", path.read_text(), re.M)
]
KINDS: dict[str, type[Card]] = {"Captioner": CaptionerCard, "Scorer": ScorerCard}
"""How the card of a class is read, by what its name ends with; any other is a teacher's."""
CONFIG = {
    "model_cfg": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 20, "vocab_size": 1000, "width": 32, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]},
}
PLUGIN = """
import dataclasses
import torch
from dr_pipeline.models.protocol import ImageSpec, TeacherSpec

class Good:
    def __init__(self, device, dim, scale=1.0):
        self.dim, self.scale = dim, scale
        self.spec = TeacherSpec(image_size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), dim=dim)
    def encode_images(self, images_BCHW):
        return images_BCHW.flatten(1)[:, : self.dim] * self.scale
    def encode_texts(self, texts):
        return torch.tensor([[len(text) + index + 1.0 for index in range(self.dim)] for text in texts])

class Fails(Good):
    def __init__(self, device):
        raise RuntimeError("no such checkpoint")

class Reads(Good):
    def __init__(self, device, weights):
        open(weights)

class NoSpec(Good):
    def __init__(self, device):
        self.spec = {"dim": 4}

class Images:
    def __init__(self, device, dim=4):
        self.spec = TeacherSpec(image_size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), dim=dim)
    def encode_images(self, images_BCHW):
        return images_BCHW.flatten(1)[:, :4]

class Classes(Images):
    def __init__(self, device):
        super().__init__(device)
        self.spec = dataclasses.replace(self.spec, output="probabilities")
    def encode_images(self, images_BCHW):
        return torch.zeros(len(images_BCHW), 4)

class Texts:
    def __init__(self, device):
        self.spec = TeacherSpec(dim=4)
    def encode_texts(self, texts):
        return torch.ones(len(texts), 4)

class Sizeless(Images):
    def __init__(self, device):
        self.spec = TeacherSpec(dim=4, image_size=8)

class Neither(Good):
    encode_images = encode_texts = None

class Specless:
    def __init__(self, device):
        pass

class WrongShape(Good):
    def encode_images(self, images_BCHW):
        return images_BCHW

class Crashes(Good):
    def encode_texts(self, texts):
        return texts["first"]

class NoDevice(Good):
    def __init__(self, dim):
        super().__init__(None, dim)

class Anything(Good):
    def __init__(self, device, **options):
        super().__init__(device, **options)

class Words:
    def __init__(self, device, word="dog"):
        self.word = word
        self.spec = ImageSpec(image_size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    def caption(self, images_BCHW, streams, sampling):
        return [[self.word for _ in captions] for captions in streams]
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder with a plug-in, my_plugin.py."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_plugin", raising=False)
    (tmp_path / "my_plugin.py").write_text(PLUGIN)
    return str(tmp_path)


def plugin_card(name: str, **fields: Any) -> TeacherCard:
    return TeacherCard(name="mine", use=f"my_plugin:{name}", **fields)


def test_a_plugin_in_a_plain_file(plugin: str) -> None:
    teacher = load_teacher(plugin_card("Good", options={"dim": 4}, dim=4, image_size=8), CPU, [plugin])
    assert teacher.spec.dim == 4
    assert load_teacher(plugin_card("Anything", options={"dim": 5}), CPU, [plugin]).spec.dim == 5
    captioner_card = CaptionerCard(name="words", use="my_plugin:Words", image_size=8)
    assert load_captioner(captioner_card, CPU, [plugin]).spec.image_size == 8


def test_a_plugin_cannot_shadow_what_is_installed(plugin: str) -> None:
    (Path(plugin) / "json.py").write_text("class Path: pass")
    assert load_class("json:loads", [plugin]) is json.loads
    assert sys.path[-1] == str(Path(plugin).resolve())


@pytest.mark.parametrize(
    ("use", "said"),
    [
        ("my_plugni:Good", "card mine: use: my_plugni:Good: no module my_plugni; did you mean my_plugin?"),
        ("my_plugin:Goood", "my_plugin has no Goood; did you mean Good?"),
        ("dr_pipeline.models.open_clap:X", "did you mean dr_pipeline.models.open_clip?"),
        ("faulty:Good", "faulty:Good: importing faulty failed: SyntaxError"),
        ("needy:Good", "needy imports not_installed_here, which is not installed"),
    ],
)
def test_a_class_that_is_not_there(plugin: str, use: str, said: str) -> None:
    (Path(plugin) / "needy.py").write_text("import not_installed_here")
    (Path(plugin) / "faulty.py").write_text("class Good")
    with pytest.raises(ConfigError) as caught:
        load_teacher(TeacherCard(name="mine", use=use), CPU, [plugin])
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("Good", {"dmi": 4}, "card mine: options.dmi: my_plugin:Good has no such option; did you mean dim?"),
        ("Good", {"size": 4, "dim": 4}, "options.size: my_plugin:Good has no such option; it has: dim, scale"),
        ("Good", {}, "card mine: options.dim: required by my_plugin:Good, but missing"),
        ("Good", {"dim": 4, "device": "cuda:1"}, "options.device: the pipeline chooses the device"),
        ("NoDevice", {"dim": 4}, "my_plugin:NoDevice must take device"),
    ],
)
def test_wrong_options_are_named(plugin: str, name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_teacher(plugin_card(name, options=options), CPU, [plugin])
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("Fails", {}, "card mine: my_plugin:Fails failed in its constructor: RuntimeError: no such checkpoint"),
        ("Reads", {"weights": "lost.pt"}, ": options.weights is there neither in "),
        ("NoSpec", {}, "card mine: my_plugin:NoSpec must set self.spec to a TeacherSpec, found dict"),
        ("Specless", {}, "card mine: my_plugin:Specless must set self.spec to a TeacherSpec, found NoneType"),
        ("Neither", {"dim": 4}, "card mine: my_plugin:Neither has neither encode_images nor encode_texts; see"),
        ("Sizeless", {}, "card mine: a teacher with encode_images needs image_size, mean and std in its spec"),
        ("Images", {"dim": 5}, "mine: encode_images returned shape [1, 4] for 1 inputs; its spec says [1, 5]"),
        ("WrongShape", {"dim": 4}, "mine: encode_images returned shape [1, 3, 8, 8] for 1 inputs"),
        ("Crashes", {"dim": 4}, "card mine: encode_texts failed on its first input: TypeError"),
        ("Good", {"dim": 4, "scale": float("nan")}, "mine: encode_images returned NaN or infinity for 1 of 1 inputs"),
    ],
)
def test_a_broken_plugin_stops_the_job_at_its_start(plugin: str, name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_teacher(plugin_card(name, options=options), CPU, [plugin])
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "actual"),
    [
        ("dim", 25, "24"),
        ("image_size", 224, "32"),
        ("mean", (0.4, 0.5, 0.61), "(0.4, 0.5, 0.6)"),
        ("std", (0.5, 0.5, 0.5), "(0.2, 0.25, 0.3)"),
    ],
)
def test_a_card_that_declares_another_model_names_the_field_and_both_values(
    tmp_path: Path, field: str, value: Any, actual: str
) -> None:
    (tmp_path / "tiny.json").write_text(json.dumps(CONFIG))
    options = {
        "model": str(tmp_path / "tiny.json"),
        "weights": "random",
        "tokenizer": "dr_pipeline.demo.tokenizer:WordTokenizer",
    }
    use = "dr_pipeline.models.open_clip:OpenClipTeacher"
    right: dict[str, Any] = {"dim": 24, "image_size": 32, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
    assert isinstance(load_teacher(TeacherCard(name="t", use=use, options=options, **right), CPU), OpenClipTeacher)
    with pytest.raises(ModelError) as caught:
        load_teacher(TeacherCard(name="t", use=use, options=options, **{**right, field: value}), CPU)
    assert f"card t: {field} is {value} in the card but {actual} in the model" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("Good", {"image_size": 8}),
        ("Images", {"image_size": 8, "encodes": ["images"]}),
        ("Classes", {"image_size": 8, "encodes": ["images"], "output": "probabilities"}),
        ("Texts", {"image_size": None, "encodes": ["texts"]}),
    ],
)
def test_a_cards_teacher_is_described_by_what_it_can_do(plugin: str, name: str, known: dict[str, Any]) -> None:
    card = plugin_card(name, options={"dim": 4} if name == "Good" else {})
    told = described(card, load_teacher(card, CPU, [plugin]))
    assert told.model_dump(mode="json", include={"image_size", "encodes", "output"}) == known
    assert told.dim == 4
    assert told.identity() == card.identity()
    load_teacher(told, CPU, [plugin])


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("encodes", ["images", "texts"], "encodes is ('images', 'texts') in the card but ('images',) in the model"),
        ("output", "scores", "output is scores in the card but embedding in the model"),
    ],
)
def test_a_card_that_declares_another_ability_is_refused(plugin: str, field: str, value: Any, said: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_teacher(plugin_card("Images", **{field: value}), CPU, [plugin])
    assert said in str(caught.value)


def test_a_text_teacher_has_no_image_size_to_declare(plugin: str) -> None:
    with pytest.raises(ModelError, match="image_size is 224 in the card but None in the model"):
        load_teacher(plugin_card("Texts", image_size=224), CPU, [plugin])


def test_a_captioner_that_is_none(plugin: str) -> None:
    card = CaptionerCard(name="words", use="my_plugin:Words", image_size=9)
    with pytest.raises(ModelError, match="card words: image_size is 9 in the card but 8 in the model"):
        load_captioner(card, CPU, [plugin])
    with pytest.raises(ModelError, match="my_plugin:Images has no method caption"):
        load_captioner(CaptionerCard(name="words", use="my_plugin:Images"), CPU, [plugin])


def test_a_prompt_for_a_captioner_that_takes_none_is_refused(plugin: str) -> None:
    card = CaptionerCard(name="words", use="my_plugin:Words", prompt="Describe it.")
    with pytest.raises(ConfigError) as caught:
        load_captioner(card, CPU, [plugin])
    assert "card words: prompt: my_plugin:Words takes no prompt" in str(caught.value)


def test_missing_weights_name_card_and_option() -> None:
    card = TeacherCard(
        name="dfn",
        use="dr_pipeline.models.open_clip:OpenClipTeacher",
        options={"model": "ViT-L-14", "weights": "s3-mirror/dfn.safetensors"},
    )
    with pytest.raises(ModelError, match=r"card dfn: model ViT-L-14, weights: no file at s3-mirror/dfn.safetensors"):
        load_teacher(card, CPU)


def test_resource_finds_packaged_and_local_files(tmp_path: Path) -> None:
    assert resource("package://dr_pipeline.demo/scene_clip_a.json").name == "scene_clip_a.json"
    (tmp_path / "weights.pt").touch()
    assert resource(str(tmp_path / "weights.pt")) == tmp_path / "weights.pt"
    with pytest.raises(ModelError, match="no file at"):
        resource(str(tmp_path))


def use_of(path: Path) -> str:
    """The class of a card."""
    return load_card(path, CardOfEitherKind).use.rpartition(":")[2]


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_every_card_says_what_it_is_and_on_which_terms(path: Path) -> None:
    kind = next((kind for name, kind in KINDS.items() if use_of(path).endswith(name)), TeacherCard)
    card: Any = load_card(path, kind)
    assert card.licence
    assert card.source.startswith("https://")
    assert path.read_text().startswith("# ")
    if card.use.endswith(":EndpointCaptioner"):
        assert card.prompt
        assert card.connection["base_url"].startswith("http")


@pytest.mark.parametrize("path", OF_OPEN_CLIP, ids=lambda path: path.stem)
def test_every_card_of_open_clip_is_the_model_that_it_says(path: Path) -> None:
    is_captioner = use_of(path) == "CocaCaptioner"
    card: Any = load_card(path, CaptionerCard if is_captioner else TeacherCard)
    model, weights = card.options["model"], card.options["weights"]
    if model.startswith(HUB):  # its repository has the architecture
        assert model == f"{weights}/config.json"
        return
    config = open_clip.get_model_config(model)
    assert config["vision_cfg"]["image_size"] == card.image_size
    assert (card.mean, card.std) == (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    record = pretrained_cfg(model, weights)  # raises if the weights were trained with the other activation
    if record:
        assert (card.mean, card.std) == (record["mean"], record["std"])
        assert bool(record.get("quick_gelu")) == bool(config.get("quick_gelu"))
    else:
        assert weights.removeprefix(f"{HUB}{RELEASED}") in RELEASED_CAPTIONERS
    if is_captioner:
        assert "multimodal_cfg" in config
    else:
        assert config["embed_dim"] == card.dim


def test_every_released_captioner_has_one_card() -> None:
    captioners = [load_card(path, CaptionerCard) for path in OF_OPEN_CLIP if use_of(path) == "CocaCaptioner"]
    cards = [card for card in captioners if card.use.endswith(":CocaCaptioner")]
    repositories = [card.options["weights"].removeprefix(HUB) for card in cards]
    assert len(set(repositories)) == len(repositories)
    assert {name.removeprefix(RELEASED) for name in repositories if name.startswith(RELEASED)} == RELEASED_CAPTIONERS
    for card in cards:
        context = int((re.search(r"context(\d+)$", card.options["weights"]) or ["", "77"])[1])
        assert card.sampling.max_tokens == context, card.name
        assert (card.options["model"] == "coca_ViT-L-14") == (context == 77), card.name
        assert context == 77 or card.name.endswith(f"_context{context}")


def test_the_page_of_teachers_lists_every_card() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "teachers/README.md").read_text(), re.MULTILINE)
    listed = [name for name in rows if (ROOT / f"teachers/{name}.yaml").is_file()]
    assert sorted(listed) == [path.stem for path in CARDS]


def test_logit_scales_are_those_of_the_papers_table_3() -> None:
    clips = [path for path in OF_OPEN_CLIP if use_of(path) == "OpenClipTeacher"]
    scales = {path.stem: load_card(path, TeacherCard).logit_scale for path in clips}
    assert scales == {
        "datacomp_xl_clip_vit_l_14": 50,
        "dfn2b_clip_vit_l_14": 70,
        "dfn2b_clip_vit_l_14_s39b": 60,
        "dfn5b_clip_vit_h_14": 90,
        "dfn5b_clip_vit_h_14_384": 55,
        "openai_clip_vit_l_14": 100,
    }
