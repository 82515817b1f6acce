"""The demo's models are real: measured on scenes that they have not seen, and small enough to ship."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from evaluate_models import (
    CAPTIONER,
    FOLDER,
    TEACHERS,
    caption_accuracy,
    figures,
    greedy_captions,
    held_out_scenes,
    load,
)

from dr_pipeline.config.cards import CaptionerCard, Sampling, TeacherCard
from dr_pipeline.demo.scenes import HELD_OUT_SEED, TEACHER_SEED, Scene
from dr_pipeline.models.load import load_captioner, load_teacher
from dr_pipeline.views.seeding import Stream

CARDS = sorted((FOLDER / "cards").glob("*.yaml"))
MODELS = {"scene_filter": "scene_clip_a"}
"""The model of a card that has not its name."""


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    torch.set_num_threads(1)
    assert HELD_OUT_SEED != TEACHER_SEED
    return held_out_scenes(400)


def test_teachers_and_captioner_are_good_on_held_out_scenes(scenes: list[Scene]):
    measured = figures(FOLDER, scenes)
    assert measured["scene_clip_a"] >= 0.85
    assert measured["scene_clip_b"] >= 0.85
    assert measured["scene_coca"] >= 0.80


@pytest.mark.parametrize("words", [("large", "small"), ("checked", "plain")], ids=" and ".join)
def test_teachers_know_more_than_shape_and_colour(scenes: list[Scene], words: tuple[str, str]):
    """A true detailed caption is nearer than the same caption with one word changed."""
    swap = {f" {words[0]} ": f" {words[1]} ", f" {words[1]} ": f" {words[0]} "}
    cases = [
        (scene.image, scene.captions[0], scene.captions[0].replace(true, false))
        for scene in scenes
        for true, false in swap.items()
        if true in scene.captions[0]
    ]
    images, true_captions, false_captions = map(list, zip(*cases, strict=True))
    for name in TEACHERS:
        model, preprocess, tokenizer = load(name)
        with torch.inference_mode():
            images_BD = model.encode_image(preprocess(images))
            true_BD = model.encode_text(tokenizer(true_captions), normalize=True)
            false_BD = model.encode_text(tokenizer(false_captions), normalize=True)
        assert ((images_BD * (true_BD - false_BD)).sum(1) > 0).float().mean() >= 0.9, name


def test_weights_are_small_and_half_precision():
    files = sorted(FOLDER.glob("*.safetensors"))
    assert [file.stem for file in files] == ["scene_clip_a", "scene_clip_b", "scene_coca"]
    assert sum(file.stat().st_size for file in files) <= 12 * 10**6


@pytest.mark.parametrize("card_path", CARDS, ids=lambda path: path.stem)
def test_cards_say_what_the_models_are(card_path: Path):
    card = yaml.safe_load(card_path.read_text())
    assert card["name"] == card_path.stem
    name = MODELS.get(card["name"], card["name"])
    assert card["options"]["model"] == f"package://dr_pipeline.demo/{name}.json"
    assert card["options"]["weights"] == f"package://dr_pipeline.demo/{name}.safetensors"
    config = json.loads((FOLDER / f"{name}.json").read_text())
    model, preprocess, tokenizer = load(name)
    assert (card["image_size"], card["mean"], card["std"]) == (preprocess.size, preprocess.mean, preprocess.std)
    image_cfg = config["model_cfg"].get("vision_cfg") or config["model_cfg"]["conv_cfg"]
    assert image_cfg["image_size"] == card["image_size"]
    if card["name"] in TEACHERS:
        assert card["options"]["context_length"] == tokenizer.context_length
        assert card["dim"] == config["model_cfg"]["embed_dim"]
        assert card["logit_scale"] == pytest.approx(model.logit_scale.exp().item(), abs=0.01)


def test_the_cards_load_and_the_captioner_says_what_plain_greedy_decoding_says(scenes: list[Scene]):
    cards = {path.stem: yaml.safe_load(path.read_text()) for path in CARDS}
    for name in TEACHERS:
        load_teacher(TeacherCard(**cards[name]), torch.device("cpu"))
    captioner = load_captioner(CaptionerCard(**cards[CAPTIONER]), torch.device("cpu"))
    model, preprocess, tokenizer = load(CAPTIONER)
    images_BCHW = preprocess([scene.image for scene in scenes[:40]])
    streams = [[Stream(0, "caption", index)] for index in range(len(images_BCHW))]
    with torch.inference_mode():
        captions = captioner.caption(images_BCHW, streams, Sampling(method="greedy"))
    assert [caption for (caption,) in captions] == greedy_captions(model, images_BCHW, tokenizer)


def test_sampled_captions_vary(scenes: list[Scene]):
    card = yaml.safe_load((FOLDER / "cards" / "scene_coca.yaml").read_text())
    captioner = load_captioner(CaptionerCard(**card), torch.device("cpu"))
    _, preprocess, _ = load(CAPTIONER)
    images_BCHW = preprocess([scene.image for scene in scenes[:40]])
    streams = [[Stream(0, index, caption) for caption in range(5)] for index in range(len(images_BCHW))]
    with torch.inference_mode():
        captions_BN = captioner.caption(images_BCHW, streams, Sampling(method="top_p", top_p=0.9))
    assert sum(len(set(captions)) for captions in captions_BN) / len(captions_BN) >= 3
    right = [caption_accuracy(list(column), scenes[:40]) for column in zip(*captions_BN, strict=True)]
    assert sum(right) / len(right) >= 0.8


def test_the_two_teachers_differ_in_size_dim_text_length_and_mean():
    (model_a, preprocess_a, tokenizer_a), (model_b, preprocess_b, tokenizer_b) = map(load, TEACHERS)
    assert preprocess_a.size != preprocess_b.size
    assert preprocess_a.mean != preprocess_b.mean
    assert tokenizer_a.context_length != tokenizer_b.context_length
    assert model_a.text_projection.shape[1] != model_b.text_projection.shape[1]
