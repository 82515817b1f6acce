"""The job as a user writes it, whichever engine drives it: views, the teachers' embeddings, a sample's new members.

It does what dr-pipeline is set to do here, by the means of a user who knows torchvision and open_clip: uint8 tensors
through transforms.v2, a seed stored for each view, bfloat16 tensors in a .pth that is not compressed.
"""

import io
import json
import os
from collections.abc import Callable, Sequence

import open_clip
import torch
from recipe import Recipe
from torchvision.io import decode_jpeg
from torchvision.transforms import InterpolationMode, v2

from dr_pipeline.demo.tokenizer import WordTokenizer


class Teacher:
    """One teacher, loaded by open_clip."""

    def __init__(self, name: str):
        is_folder = os.path.isdir(name)
        self.model = open_clip.create_model(f"local-dir:{name}" if is_folder else name).eval()
        config = open_clip.get_model_preprocess_cfg(self.model)
        resize = v2.Resize(config["size"], interpolation=InterpolationMode.BICUBIC)
        to_float = v2.ToDtype(torch.float32, scale=True)
        self.prepare = v2.Compose([resize, to_float, v2.Normalize(config["mean"], config["std"])])
        # The demo's teachers were trained with a tokenizer of a few hundred words.
        self.tokenize: Callable = (
            WordTokenizer(self.model.context_length) if is_folder else open_clip.get_tokenizer(name)
        )


class Reinforcer:
    """The teachers, and what is made with them of a batch of samples."""

    def __init__(self, recipe: Recipe):
        torch.set_num_threads(recipe.threads)
        self._recipe = recipe
        self._teachers = [Teacher(name) for name in recipe.teachers]
        crop = v2.RandomResizedCrop(recipe.view_size, interpolation=InterpolationMode.BICUBIC)
        self._augment = v2.Compose([crop, v2.RandAugment()])
        recipe.loaded()

    @torch.inference_mode()
    def reinforce(self, jpg: Sequence[bytes], txt: Sequence[bytes], syn: Sequence[bytes]) -> dict[str, list[bytes]]:
        """Images, captions and `syn.json` of samples → their `paug.json` and `pth`."""
        seeds = torch.randint(2**31, (len(jpg), self._recipe.num_views)).tolist()
        views_BCHW = torch.cat([self._draw(image, of_image) for image, of_image in zip(jpg, seeds, strict=True)])
        image_emb = torch.cat([t.model.encode_image(t.prepare(views_BCHW), normalize=True) for t in self._teachers], 1)
        texts = [[caption.decode(), *json.loads(made)["syn_text"]] for caption, made in zip(txt, syn, strict=True)]
        flat = [text for of_sample in texts for text in of_sample]
        text_emb = torch.cat([t.model.encode_text(t.tokenize(flat), normalize=True) for t in self._teachers], 1)
        slices = zip(image_emb.split(self._recipe.num_views), text_emb.split(list(map(len, texts))), strict=True)
        return {
            "paug.json": [json.dumps({"param_aug": of_image}).encode() for of_image in seeds],
            "pth": [_pth(image_emb=images, text_emb=texts[:1], syn_text_emb=texts[1:]) for images, texts in slices],
        }

    def _draw(self, jpeg: bytes, seeds: list[int]) -> torch.Tensor:
        """Views [N, 3, H, W], one of each seed."""
        image = decode_jpeg(torch.frombuffer(bytearray(jpeg), dtype=torch.uint8))
        views = []
        for seed in seeds:
            torch.manual_seed(seed)
            views.append(self._augment(image))
        return torch.stack(views)


def _pth(**emb: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    torch.save({name: tensor.bfloat16() for name, tensor in emb.items()}, buffer)
    return buffer.getvalue()
