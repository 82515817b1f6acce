"""The cost of a network: its parameters, and the operations of a forward pass, which `counting` counts."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Parameters and floating-point operations; a multiplication and an addition are two operations."""

    parameters: int
    image_flops: int
    """Of one image → its embedding, or a captioner's keys and values for cross-attention."""
    text_flops: int = 0
    """Of one text of the full context length → its embedding."""
    token_flops: int = 0
    """Of a captioner's next token of one caption, with half the context before it."""
    image_size: int | None = None
    """Pixels of a side of the square images that it takes; None where they are not square."""
    dim: int | None = None
    """Columns of an embedding."""
