"""The towers of an open_clip network, compiled by torch.compile for batches of few sizes and texts of few lengths.

Each size is a compilation, so batches are filled up. Compiled code is kept in the user's cache between runs.

Shapes: B images or texts, C = 3 channels, H = W pixels, T texts, L tokens.
"""

import logging
import os
from collections.abc import Callable
from typing import Any

import torch
from open_clip.model import CLIP
from open_clip.transformer import CustomResidualAttentionBlock, ResidualAttentionBlock
from torch._dynamo.exc import TorchDynamoException

from dr_pipeline.networks.images import host_tensor
from dr_pipeline.networks.network import Network, embed_images, embed_texts
from dr_pipeline.storage import cache_folder

log = logging.getLogger(__name__)

_BLOCKS = (ResidualAttentionBlock, CustomResidualAttentionBlock)
_CACHE = "TORCHINDUCTOR_CACHE_DIR"
_FRACTIONS = (8, 4, 2, 1)
"""Batches are filled up to these fractions of the largest one."""
_LENGTHS = 16
"""Texts are padded to multiples of so many tokens."""
_MOST_COMPILATIONS = 128
"""Of one function, which all networks share: of four sizes and five lengths for each architecture. torch allows 8."""


class CompiledTowers:
    """A network whose towers are compiled. Where torch cannot compile them, they run as before, with a warning."""

    def __init__(
        self, network: Network, image_batch: int, text_batch: int, backend: str | Callable[..., Any] = "inductor"
    ):
        """`image_batch`, `text_batch`: the largest batches. `backend`: torch.compile's."""
        os.environ.setdefault(_CACHE, str(cache_folder() / "inductor"))
        torch._dynamo.config.cache_size_limit = _MOST_COMPILATIONS  # the only name that torch 2.6 knows
        self._network = network
        self._image_batch, self._text_batch = image_batch, text_batch
        module: Any = network.module
        # open_clip's transformer blocks are alike: one compilation does for all of a tower. Others are compiled whole.
        self._parts: list[torch.nn.Module] = []
        for tower in (module.visual, module.transformer if isinstance(module, CLIP) else module.text):
            blocks = [part for part in tower.modules() if isinstance(part, _BLOCKS)]
            self._parts += blocks or [tower]
        for part in self._parts:
            part.compile(dynamic=False, backend=backend)

    def embed_images(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """As `network.embed_images`."""
        module = self._network.module
        return self._run(lambda batch_BCHW: embed_images(module, batch_BCHW), images_BCHW, self._image_batch)

    def embed_texts(self, tokens_TL: torch.Tensor) -> torch.Tensor:
        """As `network.embed_texts`, of tokens in host memory."""
        module: Any = self._network.module
        device = next(module.parameters()).device

        def embed(batch_TL: torch.Tensor) -> torch.Tensor:
            return embed_texts(module, host_tensor(batch_TL, device), _LENGTHS if self._parts else 1)

        return self._run(embed, tokens_TL, self._text_batch)

    def _run(
        self, embed: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor, batch_size: int
    ) -> torch.Tensor:
        if self._parts:
            try:
                return embed(filled_up(inputs, batch_size))[: len(inputs)]
            except TorchDynamoException as error:
                cause = getattr(error, "inner_exception", error)
                said = f"{type(cause).__name__}: {cause}".splitlines()[0]
                log.warning("model %s runs without torch.compile: %s", self._network.architecture.name, said)
            for part in self._parts:
                part._compiled_call_impl = None
            self._parts = []
        return embed(inputs)


def filled_up(inputs: torch.Tensor, batch_size: int) -> torch.Tensor:
    """The rows, and the last one as often as makes them a half, a quarter or an eighth of a batch, or a whole one."""
    sizes = (-(-batch_size // fraction) for fraction in _FRACTIONS)
    missing = next((size - len(inputs) for size in sizes if size >= len(inputs)), 0)
    return torch.cat([inputs, inputs[-1:].expand(missing, *inputs.shape[1:])]) if missing else inputs
