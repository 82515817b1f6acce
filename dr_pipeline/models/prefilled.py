"""A model of transformers that has seen images and prompts once, and goes on from there with several captions of each.

Shapes: B images, L tokens of a prompt, R captions that go on, V tokens in the vocabulary.
"""

from collections.abc import Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch

from dr_pipeline.errors import ModelError
from dr_pipeline.models.decoding import decode

if TYPE_CHECKING:
    from dr_pipeline.config.cards import Sampling
    from dr_pipeline.views.seeding import Stream

_SEEN_ONCE = ("pixel_", "image_", "video_", "mm_encoder_", "inputs_embeds")
"""Beginnings of the names of inputs that only the first pass takes."""
LARGEST_ROUNDING = 0.02
"""How far rounded weights may take the first logits, as 1 - cosine."""


def prefill(model: Any, inputs: Mapping[str, Any], max_tokens: int) -> "Prefilled":
    """Show a model a processor's inputs. Their prompts are padded on the left, if at all.

    The library's `generate` makes everything ready, for it knows what each of its models needs, and leaves the loop to
    the caller. Of the model's own generation settings its end tokens alone are used.
    """
    ready: list[Prefilled] = []

    def take(
        model: Any, input_ids: torch.Tensor, logits_processor: Any, stopping_criteria: Any, generation_config: Any,
        **state: Any,
    ) -> torch.Tensor:  # fmt: skip
        ends = generation_config.eos_token_id
        ready.append(Prefilled(model, input_ids, state, ends if isinstance(ends, list) else [ends]))
        return input_ids

    model.generate(
        **inputs, do_sample=False, num_beams=1, use_cache=True, max_new_tokens=max_tokens, custom_generate=take
    )
    return ready[0]


def write(
    prefilled: "Prefilled",
    streams: "Sequence[Sequence[Stream]]",
    sampling: "Sampling",
    end_tokens: Sequence[int],
    tokenizer: Any,
) -> list[list[str]]:
    """len(streams[b]) texts after prompt b. `end_tokens`: those beside the model's own.

    Raises ModelError where the model's context has no room for words.
    """
    if prefilled.num_positions is not None:
        room = prefilled.num_positions - prefilled.num_prompt_tokens + 1
        if room < 2:
            raise ModelError(
                f"a prompt of {prefilled.num_prompt_tokens} tokens, those of its image among them, leaves no room "
                f"for words in a context of {prefilled.num_positions}: ask for less, or show a smaller image"
            )
        sampling = sampling.model_copy(update={"max_tokens": min(sampling.max_tokens, room)})
    return decode(
        prefilled.logits_BV,
        prefilled.step,
        prefilled.select,
        streams,
        sampling,
        end_tokens=list(dict.fromkeys([*prefilled.end_tokens, *end_tokens])),
        spell=lambda tokens: tokenizer.decode(tokens, skip_special_tokens=True),
    )


def remember_images(model: Any) -> None:
    """Have a model's image tower give what it gave before where the same images come again: those of the last batch.

    So several prompts about one batch have it encoded once. It does nothing to a model whose tower `generate` does not
    call by this method.
    """
    if not hasattr(model.base_model, "get_image_features"):
        return
    encode, last = model.base_model.get_image_features, None

    @wraps(encode)
    def remembered(**inputs: Any) -> Any:
        nonlocal last
        if last is None or not _are_same(last[0], inputs):
            last = None  # before there are two in memory
            last = inputs, encode(**inputs)
        return last[1]

    model.base_model.get_image_features = remembered


def _are_same(before: Mapping[str, Any], inputs: Mapping[str, Any]) -> bool:
    if before.keys() != inputs.keys():
        return False
    for name, one in before.items():
        other = inputs[name]
        if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
            if one.dtype != other.dtype or not torch.equal(one, other):
                return False
        elif one is not other and one != other:
            return False
    return True


class Prefilled:
    """The model, with a row of its cache for each caption: `logits_BV`, `step` and `select` as `decode` takes them."""

    def __init__(self, model: Any, prompts_BL: torch.Tensor, state: dict[str, Any], end_tokens: list[int | None]):
        """`state`: what `generate` gives to a loop, by the names of the model's inputs."""
        self._model, self._state = model, state
        self.end_tokens = [end for end in end_tokens if end is not None]
        self.num_prompt_tokens = prompts_BL.shape[1]
        self.num_positions: int | None = getattr(
            model.config.get_text_config(decoder=True), "max_position_embeddings", None
        )
        """Of the model's context; None where it has no limit."""
        self.logits_BV = self._run(prompts_BL, is_first_iteration=True)
        self._state = {name: value for name, value in self._state.items() if not name.startswith(_SEEN_ONCE)}

    def step(self, tokens_R: torch.Tensor) -> torch.Tensor:
        """A token of each row → logits [R, V] of the next one."""
        return self._run(tokens_R[:, None], next_sequence_length=1)

    def select(self, rows_R: torch.Tensor) -> None:
        """Row r goes on from what row rows_R[r] was."""
        self._state["past_key_values"].reorder_cache(rows_R)
        self._state = {name: _rows_of(name, value, rows_R) for name, value in self._state.items()}

    def _run(self, tokens_RL: torch.Tensor, **how: Any) -> torch.Tensor:
        model = self._model
        output = model(**model.prepare_inputs_for_generation(tokens_RL, **how, **self._state), return_dict=True)
        self._state = model._update_model_kwargs_for_generation(output, self._state, model.config.is_encoder_decoder)
        return output.logits[:, -1]


def _rows_of(name: str, value: Any, rows_R: torch.Tensor) -> Any:
    """These rows of something that a model keeps of each caption; what it keeps of all as it is."""
    if name == "encoder_outputs":
        return type(value)({part: _rows_of(part, kept, rows_R) for part, kept in value.items()})
    if not isinstance(value, torch.Tensor) or value.ndim == 0:
        return value
    # Positions along several axes, as of Qwen-VL, have the axes first.
    return value.index_select(1 if name == "position_ids" and value.ndim == 3 else 0, rows_R)
