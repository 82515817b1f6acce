"""Linear layers computed in float8: both factors in e4m3, each row with a scale of its own, the product in bfloat16.

A row of the input is scaled as it comes, an output channel's weights once. The rest of a network stays in bfloat16.

Shapes: R rows, I and O input and output channels, B texts or images, L positions, W width, H heads, D = W / H.
"""

from collections.abc import Callable
from typing import TypeGuard

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import nn
from torch.nn import functional as F

from dr_pipeline.errors import ConfigError

_LARGEST = 448.0
"""The largest value of e4m3."""
_SMALLEST_SCALE = 1e-12  # of a row of zeros
_ALIGNMENT = 16
"""Channels come in multiples of so many, or a GPU's product refuses them."""


def check_float8(device: torch.device) -> None:
    """Raise ConfigError where the device does not multiply matrices of float8; this is found out by trying."""
    ones = torch.ones(_ALIGNMENT, _ALIGNMENT, device=device, dtype=torch.bfloat16)
    try:
        Float8Linear(ones, None)(ones)
    except Exception as error:  # of torch or Triton, whose errors have no base in common
        what = f"this {device.type} device"
        if device.type == "cuda":
            major, minor = torch.cuda.get_device_capability(device)
            what = f"this {torch.cuda.get_device_name(device)} of CUDA capability {major}.{minor}"
        raise ConfigError(
            f"workers.precision=float8: {what} does not multiply matrices of float8, for which a GPU needs CUDA "
            f"capability 8.9 or more ({str(error).splitlines()[0]}): set workers.precision=bfloat16"
        ) from error


def to_float8(module: nn.Module, run: Callable[[], object]) -> None:
    """Have a network whose weights are bfloat16 compute its linear layers and open_clip's attention in float8.

    `run` embeds an image, a text or both. Layers that it calls with sequences, or maps, are changed. So these stay in
    bfloat16: projections of what is pooled, whose rounding no later layer averages; weights that a layer multiplies
    itself, as EVA's attention does; layers of other widths than multiples of 16.
    """
    called: set[nn.Module] = set()

    def note(part: nn.Module, inputs: tuple[object, ...]) -> None:
        if inputs and isinstance(inputs[0], torch.Tensor) and inputs[0].ndim > 2:
            called.add(part)

    hooks = [part.register_forward_pre_hook(note) for part in module.modules()]
    run()
    for hook in hooks:
        hook.remove()
    for part in list(module.modules()):
        for name, child in list(part.named_children()):
            if child in called and type(child) is nn.Linear and _fits(child.weight):
                setattr(part, name, Float8Linear(child.weight, child.bias))
            elif child in called and isinstance(part, ResidualAttentionBlock) and _is_plain(child):
                setattr(part, name, Float8Attention(child))


class Float8Linear(nn.Module):
    """A linear layer of bfloat16 whose product is computed in float8."""

    int8_original_dtype = torch.bfloat16
    """What an open_clip block with weights of 8 bits gives as its dtype."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    scale_1O: torch.Tensor

    def __init__(self, weight_OI: torch.Tensor, bias_O: torch.Tensor | None):
        super().__init__()
        quantised_OI, scale_O1 = quantise_rows(weight_OI.detach())
        self.register_buffer("weight", quantised_OI)
        self.register_buffer("scale_1O", scale_O1.T.contiguous())
        self.register_buffer("bias", bias_O if bias_O is None else bias_O.detach())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """bfloat16 [..., I] → [..., O]."""
        quantised_RI, scale_R1 = quantise_rows(inputs.flatten(0, -2))
        outputs_RO = torch._scaled_mm(
            quantised_RI,
            self.weight.T,
            scale_a=scale_R1,
            scale_b=self.scale_1O,
            bias=self.bias,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
        return outputs_RO.unflatten(0, inputs.shape[:-1])


class Float8Attention(nn.Module):
    """The self-attention of an open_clip block, called as nn.MultiheadAttention is, with its projections in float8."""

    def __init__(self, attention: nn.MultiheadAttention):
        super().__init__()
        self.num_heads = attention.num_heads
        self.in_proj = Float8Linear(attention.in_proj_weight, attention.in_proj_bias)
        self.out_proj = Float8Linear(attention.out_proj.weight, attention.out_proj.bias)

    def forward(
        self,
        query_BLW: torch.Tensor,
        key_BLW: torch.Tensor,
        value_BLW: torch.Tensor,
        need_weights: bool = False,
        attn_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, None]:
        """What the sequence attends to itself, [B, L, W], and None for the weights.

        `attn_mask` is added to the logits: [L, L], or [B·H, L, L].
        """
        heads = (3, self.num_heads, query_BLW.shape[-1] // self.num_heads)
        queries_BHLD, keys_BHLD, values_BHLD = self.in_proj(query_BLW).unflatten(-1, heads).permute(2, 0, 3, 1, 4)
        if attn_mask is not None and attn_mask.ndim == 3:
            attn_mask = attn_mask.unflatten(0, (-1, self.num_heads))
        attended_BHLD = F.scaled_dot_product_attention(queries_BHLD, keys_BHLD, values_BHLD, attn_mask=attn_mask)
        return self.out_proj(attended_BHLD.transpose(1, 2).flatten(2)), None


def quantise_rows(values_RI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Floats → e4m3 [R, I] and float32 scales [R, 1], whose product they are but for rounding.

    One kernel on a GPU; where torch.compile traces, it makes one itself, together with what comes before.
    """
    if values_RI.device.type == "cuda" and not torch.compiler.is_compiling():
        from dr_pipeline.networks.quantise import quantise_on_device  # Triton, which torch has for GPUs alone

        return quantise_on_device(values_RI, _LARGEST, _SMALLEST_SCALE)
    largest_R1 = torch.linalg.vector_norm(values_RI, ord=torch.inf, dim=1, keepdim=True, dtype=torch.float32)
    scale_R1 = (largest_R1 / _LARGEST).clamp(min=_SMALLEST_SCALE)
    return (values_RI * (1 / scale_R1)).to(torch.float8_e4m3fn), scale_R1


def _is_plain(attention: nn.Module) -> TypeGuard[nn.MultiheadAttention]:
    """Whether an attention's queries, keys and values come of one product, batch first."""
    return (
        type(attention) is nn.MultiheadAttention
        and attention.batch_first
        and attention.in_proj_weight is not None
        and attention.bias_k is None
        and _fits(attention.in_proj_weight)
    )


def _fits(weight_OI: torch.Tensor) -> bool:
    return weight_OI.shape[0] % _ALIGNMENT == 0 and weight_OI.shape[1] % _ALIGNMENT == 0
