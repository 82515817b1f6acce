"""Position embeddings of a checkpoint, made to fit a module that takes longer texts or images of another size.

P, Q: positions before and after; W: width of a transformer.
"""

from contextlib import suppress
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.model import resize_pos_embed
from torch import nn

from dr_pipeline.config.training import Positions
from dr_pipeline.errors import ModelError

State = dict[str, torch.Tensor]

_KEPT_BY_STRETCH = 20


def fit_text_positions(state: State, module: nn.Module, positions: Positions | None) -> None:
    """Give a state dict as many text positions as the module has, where it has fewer; its class token keeps its own.

    CoCa's class token stands behind the last position of a text, padding included, so that its row is the last of both.
    Raises ModelError where `positions` does not say how, or the text tower has no table of positions.
    """
    tower: Any = getattr(module, "text", module)
    if not isinstance(getattr(tower, "positional_embedding", None), nn.Parameter):
        if positions is None:
            return
        raise ModelError(f"student.positions: the text tower is a {type(tower).__name__}, which has no such table")
    key = "positional_embedding" if tower is module else "text.positional_embedding"
    own_QW, old_PW = tower.positional_embedding.detach(), state.get(key)
    if old_PW is None or len(old_PW) >= len(own_QW) or old_PW.shape[1:] != own_QW.shape[1:]:
        return  # what does not fit is named when the weights are loaded
    if positions is None:
        raise ModelError(
            f"the weights have {len(old_PW)} text positions, the architecture {len(own_QW)}: set student.positions to "
            "interpolate, stretch or extend"
        )
    num_class = 0 if getattr(tower, "cls_emb", None) is None else 1
    num_old, num_new = len(old_PW) - num_class, len(own_QW) - num_class
    if positions == "extend":
        tokens_QW = torch.cat([old_PW[:num_old], own_QW[num_old:num_new].to(old_PW)])
    else:
        num_kept = min(_KEPT_BY_STRETCH, num_old - 1) if positions == "stretch" else 0
        # Linear between neighbouring positions, as open_clip resizes those of texts.
        rows_1WP = old_PW[num_kept:num_old].T[None].float()
        rows_1WQ = F.interpolate(rows_1WP, size=num_new - num_kept, mode="linear", align_corners=False)
        tokens_QW = torch.cat([old_PW[:num_kept], rows_1WQ[0].T.to(old_PW)])
    state[key] = torch.cat([tokens_QW, old_PW[num_old:]])


def fit_image_positions(state: State, module: nn.Module) -> None:
    """Resize the grid of an image tower's positions to the module's, by open_clip's bicubic resize."""
    with suppress(RuntimeError):  # weights of another architecture have no square grid: loading them names what differs
        resize_pos_embed(state, module)
