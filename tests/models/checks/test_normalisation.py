"""A mean or std other than the library's record is found, at the place where images reach the library's module."""

import json
from pathlib import Path

import pytest

from dr_pipeline.config.cards import TeacherCard
from dr_pipeline.models.checks.teachers import check_teacher
from tests.models.checks.conftest import AddPlugin

PLUGIN = """
import timm
import torch
from open_clip.factory import create_model
from dataclasses import replace
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel
from dr_pipeline.models.open_clip import OpenClipTeacher
from dr_pipeline.models.protocol import TeacherSpec

OPENAI = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
PLAIN = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

class Timm:
    normalisation = HALF
    def __init__(self, device, **options):
        torch.manual_seed(0)
        self.module = self.build(**options).to(device).eval().requires_grad_(False)
        mean, std = self.normalisation
        self.spec = TeacherSpec(dim=self.dim, image_size=32, mean=mean, std=std)
    dim = 64
    def build(self):
        return timm.create_model("test_vit", img_size=32, num_classes=0)
    def encode_images(self, images_BCHW):
        return self.module(images_BCHW)

class TimmImagenet(Timm):
    normalisation = IMAGENET

class TimmNormalisesItself(Timm):
    normalisation = PLAIN
    def encode_images(self, images_BCHW):
        return super().encode_images((images_BCHW - 0.5) / 0.5)

class TimmNormalisesTwice(TimmNormalisesItself):
    normalisation = HALF

class TimmInAList(TimmImagenet):
    def __init__(self, device):
        super().__init__(device)
        self.parts = [{"tower": self.module}]
        del self.module
    def encode_images(self, images_BCHW):
        return self.parts[0]["tower"](images_BCHW)

class OpenClip(Timm):
    normalisation, dim = OPENAI, 8
    def build(self, folder):
        return create_model(f"local-dir:{folder}", pretrained=None, load_weights=False)
    def encode_images(self, images_BCHW):
        return self.module.encode_image(images_BCHW)

class OpenClipHalf(OpenClip):
    normalisation = HALF

class OurOpenClip(OpenClipTeacher):
    def __init__(self, device, folder):
        super().__init__(device, f"{folder}/open_clip_config.json", "random")

class OurOpenClipHalf(OurOpenClip):
    def __init__(self, device, folder):
        super().__init__(device, folder)
        self.spec = replace(self.spec, mean=HALF[0], std=HALF[1])

class HuggingFace(Timm):
    normalisation, dim = OPENAI, 16
    def build(self, folder):
        config = CLIPVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                                  image_size=32, patch_size=8)
        CLIPVisionModel(config).save_pretrained(folder)
        CLIPImageProcessor().save_pretrained(folder)
        return CLIPVisionModel.from_pretrained(folder)
    def encode_images(self, images_BCHW):
        return self.module(pixel_values=images_BCHW).pooler_output

class HuggingFaceImagenet(HuggingFace):
    normalisation = IMAGENET
"""
TINY = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "patch_size": 8, "head_width": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}


@pytest.mark.parametrize(
    ("name", "library", "said"),
    [
        ("Timm", "timm", ""),
        (
            "TimmImagenet",
            "timm",
            "images reach timm's VisionTransformer with mean 0.485/0.456/0.406 and std 0.229/0.22",
        ),
        ("TimmNormalisesItself", "timm", ""),
        (
            "TimmNormalisesTwice",
            "timm",
            "with mean 0.75/0.75/0.75 and std 0.25/0.25/0.25, but timm records mean 0.5/0.5/0.5 and",
        ),
        ("TimmInAList", "timm", "images reach timm's VisionTransformer with mean 0.485"),
        ("OpenClip", "open_clip", ""),
        ("OpenClipHalf", "open_clip", "images reach open_clip's CLIP with mean 0.5/0.5/0.5"),
        ("OurOpenClip", "open_clip", ""),
        ("OurOpenClipHalf", "open_clip", "images reach open_clip's CLIP with mean 0.5/0.5/0.5"),
        ("HuggingFace", "transformers", ""),
        ("HuggingFaceImagenet", "transformers", "images reach transformers's CLIPVisionModel with mean 0.485"),
    ],
)
def test_another_mean_or_std_is_found(plugin: AddPlugin, tmp_path: Path, name: str, library: str, said: str) -> None:
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": {}}))
    options = {} if library == "timm" else {"folder": str(tmp_path)}
    card = TeacherCard(name="mine", use=f"checked_plugin:{name}", options=options)
    checked = check_teacher(card, [plugin(PLUGIN)], batch=1)
    assert len(checked.problems) == bool(said), checked.problems
    assert all(said in problem for problem in checked.problems)
    assert (f"; they reach {library} with mean " in checked.facts["images"]) == (not said)
