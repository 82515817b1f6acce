"""How fast each kind of teacher is, against its library's bare model on the same batch.

    python benchmarks/teacher_kinds.py

Random weights; models of the size of a ViT-B/32, DINOv2 of a ViT-S/14, torchvision's ResNet-18. Ours: the teacher's
method, from normalised images or from texts. The baseline: the library's own module on the same tensors, and of texts
its tokenizer too, as its documentation uses both. The ratio is ours to the baseline's rate: one thread, CPU time, the
median of 3 rounds in which both take their turn.
"""

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from measure import cpu_seconds, figure, paired
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, Dinov2Config, Dinov2Model, PreTrainedTokenizerFast

from dr_pipeline.models.onnx import OnnxImageTeacher
from dr_pipeline.models.open_clip import OpenClipTeacher
from dr_pipeline.models.timm import TimmTeacher
from dr_pipeline.models.torchvision import TorchvisionClassifier
from dr_pipeline.models.transformers import TransformersTeacher
from dr_pipeline.models.transformers_backbone import TransformersBackbone

CPU = torch.device("cpu")
ALT_TEXTS = (Path(__file__).parent / "alt_texts.txt").read_text().splitlines()
Work = Callable[[Any], Any]


def clip_folder(folder: Path) -> str:
    """A CLIP ViT-B/32 of transformers, with a tokenizer of the alt-texts' words."""
    words = {"[UNK]": 0, "[BOS]": 1, "[EOS]": 2}
    words |= {word: index for index, word in enumerate(sorted({*" ".join(ALT_TEXTS).split()} - {*words}), start=3)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [("[BOS]", 1), ("[EOS]", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[BOS] $A [EOS]", special_tokens=ends)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="[EOS]", pad_token="[EOS]", model_max_length=77
    ).save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)
    text = {"vocab_size": len(words), "eos_token_id": 2, "bos_token_id": 1}
    CLIPModel(CLIPConfig(text_config=text, vision_config={"patch_size": 32})).save_pretrained(folder)
    return str(folder)


def dino_folder(folder: Path) -> str:
    """A DINOv2 ViT-S/14 of transformers."""
    config = Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=224, patch_size=14)
    Dinov2Model(config).save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)
    return str(folder)


def exported(module: torch.nn.Module, folder: Path) -> str:
    """A module as an ONNX file."""
    path = folder / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        axes = {"images": {0: "batch"}}
        torch.onnx.export(
            module, (torch.zeros(2, 3, 224, 224),), path, dynamo=False, input_names=["images"], dynamic_axes=axes
        )
    return str(path)


def compare(what: str, inputs: Any, ours: Work, theirs: Work) -> None:
    """Print inputs a second of both, and the ratio."""
    with torch.inference_mode():
        times = paired(lambda: cpu_seconds(lambda: ours(inputs)), lambda: cpu_seconds(lambda: theirs(inputs)), rounds=3)
    figure(what, len(inputs) / times[0], len(inputs) / times[1], 1 / times[2])


def main() -> None:
    """Compare all kinds."""
    torch.set_num_threads(1)
    images_BCHW = torch.randn(8, 3, 224, 224)
    texts = sorted(ALT_TEXTS[:64], key=len)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        open_clip = OpenClipTeacher(CPU, "ViT-B-32", "random")
        module: Any = open_clip._network.module
        compare("open_clip images/s", images_BCHW, open_clip.encode_images, module.encode_image)
        compare(
            "open_clip texts/s",
            texts,
            open_clip.encode_texts,
            lambda them: module.encode_text(open_clip.tokenizer(them)),
        )

        clip = TransformersTeacher(CPU, clip_folder(folder / "clip"))
        hf: Any = CLIPModel.from_pretrained(folder / "clip").eval()
        words = PreTrainedTokenizerFast.from_pretrained(folder / "clip")
        compare("transformers images/s", images_BCHW, clip.encode_images, hf.get_image_features)
        compare(
            "transformers texts/s",
            texts,
            clip.encode_texts,
            lambda them: hf.get_text_features(**words(them, padding=True, truncation=True, return_tensors="pt")),
        )

        dino = TransformersBackbone(CPU, dino_folder(folder / "dino"))
        bare: Any = Dinov2Model.from_pretrained(folder / "dino").eval()
        compare("transformers backbone images/s", images_BCHW, dino.encode_images, bare)

        vit = timm.create_model("vit_base_patch32_224", num_classes=0).eval()
        teacher = TimmTeacher(CPU, "vit_base_patch32_224", "random")
        compare("timm images/s", images_BCHW, teacher.encode_images, vit)

        resnet = torchvision.models.resnet18().eval()
        classifier = TorchvisionClassifier(CPU, "resnet18", "random")
        compare("torchvision images/s", images_BCHW, classifier.encode_images, resnet)

        onnx = OnnxImageTeacher(CPU, exported(vit, folder), mean=[0.5] * 3, std=[0.5] * 3, image_size=224)
        compare("onnx images/s", images_BCHW, onnx.encode_images, vit)


if __name__ == "__main__":
    main()
