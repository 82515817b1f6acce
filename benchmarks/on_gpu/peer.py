"""The same samples by what an able user writes with PyTorch alone: a DataLoader and a loop, without resume or checks.

16 processes decode and augment by torchvision's transforms.v2 on uint8 tensors, which are its fastest. Two ViT-L/14 and
CoCa have bfloat16 weights, the teachers' blocks are compiled, and a thread of its own writes tars of embeddings by
torch.save. Captions are written as by open_clip's `CoCa.generate`: an image is encoded once, and each word is a pass
over all words before it. That method itself does not run with transformers 5, so that its loop is here.

Shapes: B images of a batch, N views of each, R captions, L words, S pixels of a side, D dims.
"""

import io
import os
import tarfile
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import open_clip
import torch
from photos import photo
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import decode_jpeg
from torchvision.transforms import InterpolationMode, v2
from transformers import TopPLogitsWarper

from dr_pipeline.networks.architecture import build, read_architecture
from on_gpu.bench import Bench
from on_gpu.models import CAPTIONER, TEACHER, Captioner, write_tiny

_PROCESSES = 16
_CAPTIONS, _WORDS, _TOP_P = 5, 25, 0.9
_START = 49406
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

Batch = tuple[Tensor, Tensor, list[str]]
"""uint8 views [B, N, 3, S, S], uint8 squares for the captioner [B, 3, S, S], and alt-texts."""


class Photos(Dataset):
    """Views of JPEGs, and what the captioner sees of each."""

    def __init__(self, num_samples: int, num_views: int, size: int):
        self._photos = [photo(index) for index in range(min(num_samples, 16))]
        self._num_samples, self._num_views = num_samples, num_views
        crop = v2.RandomResizedCrop(size, interpolation=InterpolationMode.BICUBIC)
        self._augment = v2.Compose([crop, v2.RandAugment()])
        self._square = v2.Compose([v2.Resize(size, InterpolationMode.BICUBIC), v2.CenterCrop(size)])

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, str]:
        jpeg, text = self._photos[index % len(self._photos)]
        image = decode_jpeg(torch.frombuffer(bytearray(jpeg), dtype=torch.uint8))
        views = torch.stack([self._augment(image) for _ in range(self._num_views)])
        return views, self._square(image), f"{text}, picture {index}"


class Reinforcer:
    """The models, and what is made with them of a batch."""

    def __init__(self, bench: Bench, folder: Path):
        tiny_teacher, tiny_captioner = write_tiny(folder)
        self._device, self._words = bench.device, bench.size(_WORDS, 3)
        self._teachers = [_teacher(bench, bench.size(TEACHER, tiny_teacher)) for _ in range(2)]
        self._captioner: Any = Captioner(bench.device, bench.size(CAPTIONER, tiny_captioner))._model.bfloat16()
        self._tokenize = open_clip.get_tokenizer(TEACHER)
        self._top_p = TopPLogitsWarper(_TOP_P)
        self._prepare = v2.Compose([v2.ToDtype(torch.bfloat16, scale=True), v2.Normalize(_MEAN, _STD)])
        self._folder, self._writer = folder, ThreadPoolExecutor(1)
        self._written: list[Future[int]] = []

    def reinforce(self, batch: Batch) -> None:
        """Embed a batch's views and texts, and have them written."""
        views_BNCSS, squares_BCSS, alts = batch
        size = len(alts)
        views = self._prepare(views_BNCSS.to(self._device, non_blocking=True).flatten(0, 1))
        image_emb = torch.cat([teacher.encode_image(views, normalize=True) for teacher in self._teachers], -1)
        captions = self._caption(self._prepare(squares_BCSS.to(self._device, non_blocking=True)))
        texts = [text for number in range(size) for text in (alts[number], *captions[number])]
        tokens = self._tokenize(texts).to(self._device)
        text_emb = torch.cat([teacher.encode_text(tokens, normalize=True) for teacher in self._teachers], -1)
        embs = image_emb.unflatten(0, (size, -1)).cpu(), text_emb.unflatten(0, (size, -1)).cpu()
        path = self._folder / f"{len(self._written):05d}.tar"
        self._written.append(self._writer.submit(_write, path, *embs, captions))

    def finish(self) -> int:
        """Wait until all is written; how many samples there are."""
        return sum(written.result() for written in self._written)

    def _caption(self, images_BCSS: Tensor) -> list[list[str]]:
        """Five captions of each image, word by word, all at once."""
        model, images_RCSS = self._captioner, images_BCSS.repeat_interleave(_CAPTIONS, 0)
        latent, embs = model._encode_image(images_RCSS)
        words_RL = torch.full((len(images_RCSS), 1), _START, device=self._device)
        for _ in range(self._words):
            made = model(images_RCSS, words_RL, image_latent=latent, image_embs=embs, output_labels=False)
            likely_RV = self._top_p(words_RL, made["logits"][:, -1].float()).softmax(-1)
            words_RL = torch.cat((words_RL, torch.multinomial(likely_RV, 1)), 1)
        spelt = [self._tokenize.decode(words) for words in words_RL[:, 1:].tolist()]
        return [spelt[start : start + _CAPTIONS] for start in range(0, len(spelt), _CAPTIONS)]


def _write(path: Path, image_emb_BND: Tensor, text_emb_BTD: Tensor, captions: list[list[str]]) -> int:
    """The number of samples."""
    with tarfile.open(path, "w") as tar:
        for number, own in enumerate(captions):
            # Cloned: torch.save would write the whole batch with each part of it.
            embs = {"image_emb": image_emb_BND[number].clone(), "text_emb": text_emb_BTD[number].clone()}
            buffer = io.BytesIO()
            torch.save({**embs, "syn_text": own}, buffer)
            member = tarfile.TarInfo(f"{number:05d}.pth")
            member.size = buffer.tell()
            buffer.seek(0)
            tar.addfile(member, buffer)
    return len(captions)


def _teacher(bench: Bench, model: str) -> Any:
    with bench.device:
        module = build(read_architecture(model, "random"))
    return bench.compiled_by_blocks(module.bfloat16().eval().requires_grad_(False))


def measure(bench: Bench) -> None:
    """Print the peer's samples a second, and ours of the section `job` by them."""
    num_views, size, batch_size = bench.size(30, 3), bench.size(224, 32), bench.size(32, 2)
    dataset = Photos(bench.size(12, 3) * batch_size, num_views, size)
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        reinforcer = Reinforcer(bench, Path(name))
        views = torch.randint(256, (batch_size, num_views, 3, size, size), dtype=torch.uint8)
        reinforcer.reinforce((views, views[:, 0], ["a photo"] * batch_size))  # blocks are compiled
        bench.wait()
        batches = iter(
            DataLoader(
                dataset,
                batch_size,
                num_workers=bench.size(min(_PROCESSES, os.cpu_count() or 1), 1),
                pin_memory=bench.device.type == "cuda",
                prefetch_factor=1,
            )
        )
        reinforcer.reinforce(next(batches))  # its processes begin
        bench.wait()
        begun = time.perf_counter()
        for batch in batches:
            reinforcer.reinforce(batch)
        num_written = reinforcer.finish()
        seconds = time.perf_counter() - begun
    assert num_written == len(dataset) + batch_size
    rate = (len(dataset) - batch_size) / seconds
    bench.figure(f"samples/s, a DataLoader and a loop, {num_views} views", rate, "samples/s")
    if ours := bench.bare.get("a sample of the recipe"):
        bench.figure("samples/s, ours by the DataLoader's", 1 / ours, "samples/s", rate)
