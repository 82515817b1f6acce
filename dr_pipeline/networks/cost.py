"""What a network costs, in figures: parameters, and the operations of a forward pass. `counting` counts them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """A network in figures. Operations are floating-point ones: a multiplication and an addition are two."""

    parameters: int
    image_flops: int
    """One image → embedding; a captioner's: one image → the keys and values that its decoder looks at."""
    text_flops: int = 0
    """One text of the full context length → embedding."""
    token_flops: int = 0
    """A captioner's next token of one caption, when half the context is written. Its parameters are read for it."""
    image_size: int | None = None
    """Pixels of the square images that it takes, where that is known; `dim` is its embeddings' length."""
    dim: int | None = None
