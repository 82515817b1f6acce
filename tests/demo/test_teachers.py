"""The demo's models are real: measured on scenes that they have not seen, and small enough to ship."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from dr_pipeline.demo import evaluate
from dr_pipeline.demo.scenes import HELD_OUT_SEED, TEACHER_SEED, Scene

CARDS = sorted((evaluate.FOLDER / "cards").glob("*.yaml"))


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    torch.set_num_threads(1)
    assert HELD_OUT_SEED != TEACHER_SEED
    return evaluate.held_out_scenes(400)


def test_teachers_and_captioner_are_good_on_held_out_scenes(scenes: list[Scene]):
    figures = evaluate.figures(evaluate.FOLDER, scenes)
    print(figures)
    assert figures["scene_clip_a"] >= 0.85
    assert figures["scene_clip_b"] >= 0.85
    assert figures["scene_coca"] >= 0.80


def test_teachers_see_small_differences(scenes: list[Scene]):
    """A true caption is nearer than the same caption with one word changed: more than shape and colour is learnt."""
    truth_words = ("left", "right"), ("striped", "dotted"), ("large", "small")
    for name in evaluate.TEACHERS:
        model, preprocess, tokenizer = evaluate.load(name)
        wins = []
        for scene in scenes[:200]:
            for pair in truth_words:
                for true, false in (pair, pair[::-1]):
                    caption = scene.captions[0]
                    if f" {true} " in caption:
                        wins.append((scene, caption, caption.replace(f" {true} ", f" {false} ")))
        with torch.inference_mode():
            images_BD = model.encode_image(preprocess([scene.image for scene, _, _ in wins]))
            true_BD = model.encode_text(tokenizer([true for _, true, _ in wins]), normalize=True)
            false_BD = model.encode_text(tokenizer([false for _, _, false in wins]), normalize=True)
        won = ((images_BD * (true_BD - false_BD)).sum(1) > 0).float().mean().item()
        assert won >= 0.8, (name, won)


def test_weights_are_small_and_half_precision():
    files = sorted(evaluate.FOLDER.glob("*.safetensors"))
    assert [file.stem for file in files] == ["scene_clip_a", "scene_clip_b", "scene_coca"]
    assert sum(file.stat().st_size for file in files) <= 12 * 10**6


@pytest.mark.parametrize("card_path", CARDS, ids=lambda path: path.stem)
def test_cards_say_what_the_models_are(card_path: Path):
    card = yaml.safe_load(card_path.read_text())
    assert card["name"] == card_path.stem
    assert card["options"]["model"] == f"package://dr_pipeline.demo/{card['name']}.json"
    assert card["options"]["weights"] == f"package://dr_pipeline.demo/{card['name']}.safetensors"
    config = json.loads((evaluate.FOLDER / f"{card['name']}.json").read_text())
    model, preprocess, tokenizer = evaluate.load(card["name"])
    assert card["options"]["context_length"] == tokenizer.context_length
    assert (card["image_size"], card["mean"], card["std"]) == (preprocess.size, preprocess.mean, preprocess.std)
    assert config["model_cfg"]["vision_cfg"]["image_size"] == card["image_size"]
    if card["name"] in evaluate.TEACHERS:
        assert card["dim"] == config["model_cfg"]["embed_dim"]
        assert card["logit_scale"] == pytest.approx(model.logit_scale.exp().item(), abs=0.01)


def test_the_two_teachers_differ_in_size_dim_text_length_and_mean():
    (model_a, preprocess_a, tokenizer_a), (model_b, preprocess_b, tokenizer_b) = map(evaluate.load, evaluate.TEACHERS)
    assert preprocess_a.size != preprocess_b.size
    assert preprocess_a.mean != preprocess_b.mean
    assert tokenizer_a.context_length != tokenizer_b.context_length
    assert model_a.text_projection.shape[1] != model_b.text_projection.shape[1]
