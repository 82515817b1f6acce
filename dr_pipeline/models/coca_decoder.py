"""Cached decoding with open_clip's CoCa: one token of each caption at a time → the logits of the next one.

Shapes: B images, N captions of each, R = B·N rows, T positions of a cache, V tokens in the vocabulary, W width,
H heads, D = W / H, S image tokens, C = 3 channels.
"""

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from dr_pipeline.models.choose import TokensSeen
from dr_pipeline.models.operations import Operations, Pair, operations_of

if TYPE_CHECKING:
    from open_clip.coca_model import CoCa
    from open_clip.transformer import ResidualAttentionBlock


class CocaDecoder:
    """CoCa's text tower and multimodal decoder, a position a step, with the logits of its forward on whole prefixes.

    An image is encoded once, and its N captions share the keys and values of the cross-attention. The tower's class
    token is left out: it comes last, so that no text token attends to it.

    What is kept from step to step lies in buffers of fixed shape, which the next `begin` uses again: a step is the same
    work at the same addresses at each position, so that it can be replayed. A step may serve the first images only.
    """

    def __init__(self, model: "CoCa", num_captions: int, num_positions: int, operations: Operations | None = None):
        device = model.text_decoder.text_projection.device
        self.position = TokensSeen(device)
        self.num_captions, self.num_positions = num_captions, num_positions
        self._model, self._text, self._multimodal = model, model.text, model.text_decoder
        self._operations = operations or operations_of(device)
        self._image_keys_values_2BHSD: list[torch.Tensor] = []
        self._text_caches_2RHTD: list[torch.Tensor] = []
        self._multimodal_caches_2RHTD: list[torch.Tensor] = []
        self._visible_RT = torch.ones(0, dtype=torch.bool, device=device)

    def begin(self, images_BCHW: torch.Tensor, room: int = 0, at_once: int | None = None) -> None:
        """Encode normalised images, `at_once` at a time (None: all), and forget the captions so far.

        Memory is taken for `room` images, if they are more, and kept: less is taken again only where it does not do.
        """
        dtype, room = next(self._model.visual.parameters()).dtype, max(room, len(images_BCHW))
        first = 0
        for part_BCHW in images_BCHW.split(at_once or len(images_BCHW)):
            _, image_embs_BSW = self._model._encode_image(part_BCHW.to(dtype))
            if first == 0:
                self.reserve(room, image_embs_BSW.shape[1])
            images = slice(first, first + len(part_BCHW))
            for block, kept_2BHSD in zip(self._multimodal.cross_attn, self._image_keys_values_2BHSD, strict=True):
                projected = _project(block.attn, block.ln_1_kv(image_embs_BSW), slice(1, 3))
                kept_2BHSD[:, images].copy_(projected.permute(2, 0, 3, 1, 4))
            first += len(part_BCHW)
        self.position.set(0)
        self._visible_RT.fill_(True)

    def reserve(self, num_images: int, image_tokens: int) -> None:
        """Take memory for so many images, unless what there is does."""
        weight, rows = self._multimodal.text_projection, num_images * self.num_captions
        dtype = compute_dtype(self._model)
        kept = self._image_keys_values_2BHSD
        if kept and kept[0].dtype == dtype and kept[0].shape[1] >= num_images and kept[0].shape[3] == image_tokens:
            return
        for buffers in (kept, self._text_caches_2RHTD, self._multimodal_caches_2RHTD):
            buffers.clear()  # the old ones go before the new ones come

        def empty(block: "ResidualAttentionBlock", outer: int, length: int) -> torch.Tensor:
            attention = block.attn
            shape = (2, outer, attention.num_heads, length, attention.head_dim)
            return torch.empty(shape, dtype=dtype, device=weight.device)

        kept += [empty(block, num_images, image_tokens) for block in self._multimodal.cross_attn]
        self._text_caches_2RHTD += [
            empty(block, rows, self.num_positions) for block in self._text.transformer.resblocks
        ]
        self._multimodal_caches_2RHTD += [
            empty(block, rows, self.num_positions) for block in self._multimodal.resblocks
        ]
        self._visible_RT = torch.ones(rows, self.num_positions + 1, dtype=torch.bool, device=weight.device)

    def step(self, tokens_BN: torch.Tensor) -> torch.Tensor:
        """Each caption's token at the next position → logits [B, N, V] of the token after it."""
        own_blocks, cross_blocks = self._multimodal.resblocks, self._multimodal.cross_attn
        next_norms = [*(block.ln_1 for block in own_blocks[1:]), self._multimodal.ln_final]
        num_rows, num_images = tokens_BN.numel(), len(tokens_BN)
        x_RW, normed_RW = self._text_step(tokens_BN.flatten())
        for block, cross_block, cache_2RHTD, keys_values_2BHSD, next_norm in zip(
            own_blocks,
            cross_blocks,
            self._multimodal_caches_2RHTD,
            self._image_keys_values_2BHSD,
            next_norms,
            strict=True,
        ):
            attended_RW = self._attend_to_cache(block, normed_RW, cache_2RHTD[:, :num_rows])
            x_RW, normed_RW = self._rest(block, x_RW, attended_RW, cross_block.ln_1)
            queries_RW = _project(cross_block.attn, normed_RW, slice(0, 1)).flatten(1)
            attended_BNW = self._operations.cross_attention(
                queries_RW.unflatten(0, tokens_BN.shape), keys_values_2BHSD[:, :num_images]
            )
            x_RW, normed_RW = self._rest(cross_block, x_RW, attended_BNW.flatten(0, 1), next_norm)
        self.position.advance()
        return (normed_RW @ self._multimodal.text_projection).unflatten(0, tokens_BN.shape)

    def reorder(self, parents_BN: torch.Tensor) -> None:
        """Caption n of image b goes on from what caption parents_BN[b, n] of that image was."""
        num_images, num_captions = parents_BN.shape
        firsts_B1 = torch.arange(num_images, device=parents_BN.device)[:, None] * num_captions
        self._take_rows(self, (parents_BN + firsts_B1).flatten())

    def take_over(self, source: "CocaDecoder", images_B: torch.Tensor) -> None:
        """Go on with these images alone, which a decoder had that may be this one; they are the first from now on."""
        image_tokens = source._image_keys_values_2BHSD[0].shape[3]
        self.reserve(len(images_B), image_tokens)
        for kept_2BHSD, old_2BHSD in zip(
            self._image_keys_values_2BHSD, source._image_keys_values_2BHSD, strict=True
        ):  # fmt: skip
            kept_2BHSD[:, : len(images_B)].copy_(old_2BHSD.index_select(1, images_B))
        self._take_rows(source, rows_of(images_B, self.num_captions))
        self.position.set(source.position.on_host)

    def _take_rows(self, source: "CocaDecoder", rows_R: torch.Tensor) -> None:
        """Row r goes on from what row rows_R[r] of the source was."""
        num_rows, seen = len(rows_R), source.position.on_host
        ours = (*self._text_caches_2RHTD, *self._multimodal_caches_2RHTD)
        theirs = (*source._text_caches_2RHTD, *source._multimodal_caches_2RHTD)
        for cache_2RHTD, old_2RHTD in zip(ours, theirs, strict=True):
            cache_2RHTD[:, :num_rows, :, :seen].copy_(old_2RHTD[:, :, :, :seen].index_select(1, rows_R))
        visible_RT = source._visible_RT[:, : seen + 1].index_select(0, rows_R)
        self._visible_RT.fill_(True)
        self._visible_RT[:num_rows, : seen + 1].copy_(visible_RT)

    def _text_step(self, tokens_R: torch.Tensor) -> Pair:
        """The text tower's output at this position, and normalised for the decoder's first block; each [R, W].

        A tower with a class token masks padding, which is also a word ("!" in CLIP's vocabulary): no token attends to
        it. Released CoCa weights were trained with that mask shifted by one: the key AFTER a padding token is masked.
        """
        text, blocks, position_1 = self._text, self._text.transformer.resblocks, self.position.on_device
        dtype = text.transformer.get_cast_dtype()
        x_RW = text.token_embedding(tokens_R).to(dtype) + text.positional_embedding.index_select(0, position_1).to(
            dtype
        )
        visible_RT = None
        if text.cls_emb is not None:
            visible_RT = self._visible_RT[: len(tokens_R)]
            masked_key_1 = position_1 if text.correct_cls_mask else position_1 + 1
            visible_RT.index_copy_(1, masked_key_1, (tokens_R != text.pad_id)[:, None])
        first_norm = self._multimodal.resblocks[0].ln_1
        last_norm = first_norm if text.cls_emb is not None else text.ln_final
        next_norms = [*(block.ln_1 for block in blocks[1:]), last_norm]
        normed_RW = blocks[0].ln_1(x_RW)
        for block, cache_2RHTD, next_norm in zip(blocks, self._text_caches_2RHTD, next_norms, strict=True):
            attended_RW = self._attend_to_cache(block, normed_RW, cache_2RHTD[:, : len(tokens_R)], visible_RT)
            x_RW, normed_RW = self._rest(block, x_RW, attended_RW, next_norm)
        return (x_RW, normed_RW) if text.cls_emb is not None else (normed_RW, first_norm(normed_RW))

    def _attend_to_cache(
        self,
        block: "ResidualAttentionBlock",
        normed_RW: torch.Tensor,
        cache_2RHTD: torch.Tensor,
        visible_RT: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What a block attends to at one position: to all that the cache holds, and to itself."""
        parts_R3HD = _project(block.attn, normed_RW, slice(0, 3))
        return self._operations.self_attention(parts_R3HD, cache_2RHTD, self.position, visible_RT)

    def _rest(
        self, block: "ResidualAttentionBlock", x_RW: torch.Tensor, attended_RW: torch.Tensor, next_norm: nn.LayerNorm
    ) -> Pair:
        """What an open_clip ResidualAttentionBlock gives after its attention, and that normalised for the next one."""
        add_norm = self._operations.add_norm
        x_RW, normed_RW = add_norm(x_RW, block.ls_1(block.attn.out_proj(attended_RW)), block.ln_2)
        return add_norm(x_RW, block.ls_2(block.mlp(normed_RW)), next_norm)


def rows_of(images_B: torch.Tensor, num_captions: int) -> torch.Tensor:
    """The rows [R] of the captions of these images."""
    return (images_B[:, None] * num_captions + torch.arange(num_captions, device=images_B.device)).flatten()


def compute_dtype(model: "CoCa") -> torch.dtype:
    """The dtype of its matrix products: autocast's, where it is on, else that of its weights."""
    weight = model.text_decoder.text_projection
    kind = weight.device.type
    is_autocast = kind != "meta" and torch.is_autocast_enabled(kind)  # autocast does not know the meta device
    return torch.get_autocast_dtype(kind) if is_autocast else weight.dtype


def _project(attention: nn.MultiheadAttention, x_RLW: torch.Tensor, parts: slice) -> torch.Tensor:
    """The chosen `parts` of (queries, keys, values) of `x_RLW`, [R, L, parts, H, D]; it may lack L."""
    width = attention.embed_dim
    rows = slice(parts.start * width, parts.stop * width)
    projected = F.linear(x_RLW, attention.in_proj_weight[rows], attention.in_proj_bias[rows])
    return projected.unflatten(-1, (parts.stop - parts.start, attention.num_heads, attention.head_dim))
