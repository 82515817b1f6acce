"""Cached decoding with open_clip's CoCa: one token of each caption at a time → the logits of the next one.

Shapes: B images, N captions of each, R = B·N rows, L query positions, T positions of a cache, V tokens in the
vocabulary, W width, H heads, D = W / H, S image tokens.
"""

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from open_clip.coca_model import CoCa
    from open_clip.transformer import ResidualAttentionBlock


class KeyValueCache:
    """The keys and values of one self-attention at all positions so far, in a buffer of fixed length."""

    def __init__(self, max_tokens: int):
        self._max_tokens = max_tokens
        self._length = 0
        self._buffer_2RHTD: torch.Tensor | None = None

    def append(self, keys_RH1D: torch.Tensor, values_RH1D: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add one position → the keys and the values of the t positions so far, each [R, H, t, D]."""
        if self._buffer_2RHTD is None:  # the first keys have the rows and, under autocast, the dtype
            rows, heads, _, width = keys_RH1D.shape
            self._buffer_2RHTD = keys_RH1D.new_empty(2, rows, heads, self._max_tokens, width)
        self._buffer_2RHTD[0, :, :, self._length] = keys_RH1D[:, :, 0]
        self._buffer_2RHTD[1, :, :, self._length] = values_RH1D[:, :, 0]
        self._length += 1
        keys_RHTD, values_RHTD = self._buffer_2RHTD[:, :, :, : self._length]
        return keys_RHTD, values_RHTD

    def reorder(self, parents_R: torch.Tensor) -> None:
        """Row r goes on from what row parents_R[r] was."""
        if self._buffer_2RHTD is not None:
            seen = self._buffer_2RHTD[:, :, :, : self._length]
            seen.copy_(seen.index_select(1, parents_R))


class CocaDecoder:
    """CoCa's text tower and multimodal decoder, a position a step, with the logits of its forward on whole prefixes.

    An image is encoded once, and its N captions share the keys and values of the cross-attention. The tower's class
    token is left out: it comes last, so that no text token attends to it.
    """

    def __init__(self, model: "CoCa", images_BCHW: torch.Tensor, num_captions: int, max_tokens: int):
        self._text = model.text
        self._multimodal = model.text_decoder
        self._position = 0
        _, image_embs_BSW = model._encode_image(images_BCHW)
        self._image_keys_values = [
            _project(block.attn, block.ln_1_kv(image_embs_BSW), slice(1, 3)) for block in self._multimodal.cross_attn
        ]
        self._text_caches = [KeyValueCache(max_tokens) for _ in self._text.transformer.resblocks]
        self._multimodal_caches = [KeyValueCache(max_tokens) for _ in self._multimodal.resblocks]
        rows = images_BCHW.shape[0] * num_captions
        self._visible_RT = torch.ones(rows, max_tokens + 1, dtype=torch.bool, device=images_BCHW.device)

    def step(self, tokens_BN: torch.Tensor) -> torch.Tensor:
        """Each caption's token at the next position → logits [B, N, V] of the token after it."""
        x_RW = self._text_step(tokens_BN.flatten())
        layers = zip(
            self._multimodal.resblocks,
            self._multimodal_caches,
            self._multimodal.cross_attn,
            self._image_keys_values,
            strict=True,
        )
        for block, cache, cross_block, (keys_BHSD, values_BHSD) in layers:
            x_RW = _self_attention_step(block, x_RW, cache)
            # The captions of an image are its query positions, so that its keys and values are never repeated.
            x_BNW = x_RW.unflatten(0, tokens_BN.shape)
            (queries_BHND,) = _project(cross_block.attn, cross_block.ln_1(x_BNW), slice(0, 1))
            attended_BHND = F.scaled_dot_product_attention(queries_BHND, keys_BHSD, values_BHSD)
            x_RW = _residuals(cross_block, x_BNW, attended_BHND).flatten(0, 1)
        self._position += 1
        logits_RV = self._multimodal.ln_final(x_RW) @ self._multimodal.text_projection
        return logits_RV.unflatten(0, tokens_BN.shape)

    def reorder(self, parents_BN: torch.Tensor) -> None:
        """Caption n of image b goes on from what caption parents_BN[b, n] of that image was."""
        num_images, num_captions = parents_BN.shape
        firsts_B1 = torch.arange(num_images, device=parents_BN.device)[:, None] * num_captions
        parents_R = (parents_BN + firsts_B1).flatten()
        self._visible_RT = self._visible_RT[parents_R]
        for cache in (*self._text_caches, *self._multimodal_caches):
            cache.reorder(parents_R)

    def _text_step(self, tokens_R: torch.Tensor) -> torch.Tensor:
        """The text tower's output [R, W] at this position.

        A tower with a class token masks padding, which is also a word ("!" in CLIP's vocabulary): no token attends to
        it. Released CoCa weights were trained with that mask shifted by one: the key AFTER a padding token is masked.
        """
        text = self._text
        dtype = text.transformer.get_cast_dtype()
        x_RW = text.token_embedding(tokens_R).to(dtype) + text.positional_embedding[self._position].to(dtype)
        visible_R11T = None
        if text.cls_emb is not None:
            masked_key = self._position if text.correct_cls_mask else self._position + 1
            self._visible_RT[:, masked_key] = tokens_R != text.pad_id
            visible_R11T = self._visible_RT[:, None, None, : self._position + 1]
        for block, cache in zip(text.transformer.resblocks, self._text_caches, strict=True):
            x_RW = _self_attention_step(block, x_RW, cache, visible_R11T)
        return x_RW if text.cls_emb is not None else text.ln_final(x_RW)


def _project(attention: nn.MultiheadAttention, x_RLW: torch.Tensor, parts: slice) -> tuple[torch.Tensor, ...]:
    """The chosen `parts` of (queries, keys, values) of `x_RLW`, each [R, H, L, D]."""
    width = attention.embed_dim
    rows = slice(parts.start * width, parts.stop * width)
    projected = F.linear(x_RLW, attention.in_proj_weight[rows], attention.in_proj_bias[rows])
    heads = (parts.stop - parts.start, attention.num_heads, attention.head_dim)
    return projected.unflatten(-1, heads).permute(2, 0, 3, 1, 4).unbind(0)


def _self_attention_step(
    block: "ResidualAttentionBlock", x_RW: torch.Tensor, cache: KeyValueCache, visible_R11T: torch.Tensor | None = None
) -> torch.Tensor:
    """What a block makes of `x_RW` at one position, which attends to all that the cache holds and to itself."""
    x_R1W = x_RW[:, None]
    queries, keys, values = _project(block.attn, block.ln_1(x_R1W), slice(0, 3))
    keys_RHTD, values_RHTD = cache.append(keys, values)
    attended_RH1D = F.scaled_dot_product_attention(queries, keys_RHTD, values_RHTD, attn_mask=visible_R11T)
    return _residuals(block, x_R1W, attended_RH1D)[:, 0]


def _residuals(block: "ResidualAttentionBlock", x_RLW: torch.Tensor, attended_RHLD: torch.Tensor) -> torch.Tensor:
    """The rest of an open_clip ResidualAttentionBlock after its attention: projection, residuals and MLP."""
    attended_RLW = attended_RHLD.transpose(1, 2).flatten(2)
    x_RLW = x_RLW + block.ls_1(block.attn.out_proj(attended_RLW))
    return x_RLW + block.ls_2(block.mlp(block.ln_2(x_RLW)))
