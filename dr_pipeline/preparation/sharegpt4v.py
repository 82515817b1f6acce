"""ShareGPT4V (huggingface.co/datasets/Lin-Chen/ShareGPT4V): one JSON file, and the images by the paths that it gives.

    [{"id": "…", "image": "coco/train2017/000000000009.jpg",
      "conversations": [{"from": "human", "value": "<image>\\n…"}, {"from": "gpt", "value": "…"}]}, …]

The caption is the first answer. The mix for instructions holds conversations that are no captions: take
sharegpt4v_instruct_gpt4-vision_cap100k.json (GPT-4V's captions) or share-captioner_coco_lcs_sam_1246k_1107.json.
"""

from collections.abc import Iterator
from typing import Any

from dr_pipeline.config.preparation import Preparation
from dr_pipeline.errors import ConfigError, SampleSkipped
from dr_pipeline.preparation.item import BAD_ANNOTATION, Item, key_of, string_of, texts_of
from dr_pipeline.preparation.source import Source, json_of

LICENCE = "CC BY-NC 4.0 (captions)"


def read(settings: Preparation, source: Source) -> Iterator[Item | SampleSkipped]:
    """An item for each conversation about an image. Raises ConfigError."""
    files = source.annotations("*.json")
    if len(files) > 1:
        names = ", ".join(path.name for path in files)
        raise ConfigError(
            f"{source.folder} has several JSON files, {names}: leave the one to prepare, images by --images"
        )
    return (_item(tree, source) for tree in json_of(files[0], list))


def _item(tree: Any, source: Source) -> Item | SampleSkipped:
    try:
        if not isinstance(tree, dict) or not isinstance(tree.get("conversations"), list):
            raise SampleSkipped(BAD_ANNOTATION, "no conversations")
        if "image" not in tree:
            raise SampleSkipped("no image named")
        turns = [turn for turn in tree["conversations"] if isinstance(turn, dict)]
        answer = next((turn.get("value") for turn in turns if turn.get("from") == "gpt"), None)
        name = string_of(tree, "image")
        return Item(key_of(name), source.image(name), texts_of(answer), record={"file": name, "licence": LICENCE})
    except SampleSkipped as skip:
        return skip
