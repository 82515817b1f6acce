"""The captioner behind an OpenAI-compatible endpoint, such as vLLM serves: a chat with one image, or with none."""

import asyncio
import base64
import io
import json
from typing import TYPE_CHECKING, Any

from PIL import Image

from dr_pipeline.dataset.caption_faults import CutCaption, is_blank
from dr_pipeline.errors import ConfigError, ModelError
from dr_pipeline.models.http_client import HttpClient, RequestFailed
from dr_pipeline.models.protocol import Usage, WriteRequest, Written
from dr_pipeline.views.render import decode, size_of

if TYPE_CHECKING:
    import torch

    from dr_pipeline.config.cards import Sampling


_AHEAD = 2
"""Bodies in memory for each request in flight: the next ones are made before they can be sent."""
_SIGNATURES = {"image/jpeg": b"\xff\xd8\xff", "image/png": b"\x89PNG\r\n\x1a\n", "image/webp": b"RIFF"}
"""The formats that every endpoint takes, by the first bytes of a file."""
_ANY_PIXELS = 1 << 62
"""The job's limit was kept when the sample was prepared."""


class EndpointCaptioner:
    """A RequestCaptioner (see protocol.py). docs/endpoints.md has its options.

    Each text is a request of its own: it has a seed of its own and is repeated alone, and not every server knows `n`.
    """

    def __init__(
        self,
        device: "torch.device",
        base_url: str,
        model: str,
        api_key: str = "",
        max_in_flight: int = 64,
        timeout_s: float = 120.0,
        retries: int = 5,
        backoff_s: float = 0.5,
        max_image_side: int | None = None,
        system_prompt: str = "",
        extra_body: dict[str, Any] | None = None,
    ):
        """`base_url` ends before `/chat/completions`. `extra_body`: further fields of each request."""
        if max_in_flight < 1 or retries < 0 or not timeout_s > 0 or not backoff_s >= 0:
            raise ConfigError("max_in_flight is at least 1, retries and backoff_s at least 0, timeout_s more than 0")
        if max_image_side is not None and max_image_side < 1:
            raise ConfigError("max_image_side is at least 1, or null")
        self.max_in_flight = max_in_flight
        url = f"{base_url.rstrip('/')}/chat/completions"
        self._client = HttpClient(url, api_key, max_in_flight, timeout_s, retries, backoff_s)
        self._model, self._max_image_side = model, max_image_side
        self._prepared = asyncio.Semaphore(_AHEAD * max_in_flight)
        self._system = [{"role": "system", "content": system_prompt}] if system_prompt else []
        self._extra = extra_body or {}

    async def write(self, request: WriteRequest) -> Written:
        """A text for each seed, all of them at once. Raises ModelError without a prompt, and for beam search."""
        if not request.prompt:
            raise ModelError("prompt: a chat needs one, such as `prompt: Describe the image in one sentence.`")
        usage = Usage()
        async with self._prepared:
            body = await asyncio.to_thread(self._body, request)
            try:
                async with asyncio.TaskGroup() as group:  # one that fails cancels the others
                    # The image in it is not encoded anew for each seed.
                    bodies = [body[:-1] + f', "seed": {seed}}}'.encode() for seed in request.seeds]
                    tasks = [group.create_task(self._ask(one, usage)) for one in bodies]
            except* RequestFailed as failures:
                usage.failures += 1
                failure = str(failures.exceptions[0])
            else:
                return Written([task.result() for task in tasks], usage)
        return Written([], usage, failure)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _body(self, request: WriteRequest) -> bytes:
        """The JSON of a request, but for its seed."""
        content: list[dict[str, Any]] = [{"type": "text", "text": request.prompt}]
        if request.image is not None:
            url = _data_url(request.image, self._max_image_side)
            content.insert(0, {"type": "image_url", "image_url": {"url": url}})
        body = {
            "model": self._model,
            "messages": [*self._system, {"role": "user", "content": content}],
            **_sampling_fields(request.sampling),
            **self._extra,
        }
        return json.dumps(body).encode()

    async def _ask(self, body: bytes, usage: Usage) -> str:
        """The text of one answer. Raises RequestFailed where it has none."""
        answer = await self._client.post(body, usage)
        tokens = answer.get("usage")
        if isinstance(tokens, dict):
            usage.prompt_tokens += _count(tokens.get("prompt_tokens"))
            usage.completion_tokens += _count(tokens.get("completion_tokens"))
        return _text(answer)


def _data_url(image_bytes: bytes, max_side: int | None) -> str:
    """The image as a data URL: its own bytes where it is JPEG, PNG or WebP, else its pixels as PNG, without loss.

    An image whose longer side has more than `max_side` pixels is made smaller, and is PNG too.
    """
    media_type = next((name for name, start in _SIGNATURES.items() if image_bytes.startswith(start)), None)
    if media_type is None or (max_side is not None and max(size_of(image_bytes)) > max_side):
        image, png = decode(image_bytes, _ANY_PIXELS), io.BytesIO()
        if max_side is not None:
            image.thumbnail((max_side, max_side), Image.Resampling.BICUBIC)
        image.save(png, "PNG", compress_level=1)
        media_type, image_bytes = "image/png", png.getvalue()
    return f"data:{media_type};base64,{base64.b64encode(image_bytes).decode('ascii')}"


def _sampling_fields(sampling: "Sampling") -> dict[str, Any]:
    """The sampling as fields of a request. `top_k`, `min_tokens` and `repetition_penalty` are vLLM's own."""
    if sampling.method == "beam":
        raise ModelError("sampling.method beam: an endpoint has no beam search: choose top_p, top_k or greedy")
    fields: dict[str, Any] = {"max_tokens": sampling.max_tokens, "temperature": sampling.temperature}
    if sampling.method == "greedy":
        fields["temperature"] = 0.0
    elif sampling.method == "top_p":
        fields["top_p"] = sampling.top_p
    else:
        fields["top_k"] = sampling.top_k
    if sampling.min_tokens:
        fields["min_tokens"] = sampling.min_tokens
    if sampling.repetition_penalty != 1:
        fields["repetition_penalty"] = sampling.repetition_penalty
    return fields


def _text(answer: dict[str, Any]) -> str:
    """The text of a chat completion, stripped. Raises RequestFailed where it has none."""
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices:
        held = json.dumps(answer.get("error", answer), ensure_ascii=False)
        raise RequestFailed(f"the answer has no list of choices, but {held:.200}")
    choice = choices[0] if isinstance(choices[0], dict) else {}
    message = choice.get("message")
    if not isinstance(message, dict):
        raise RequestFailed("the first choice has no message")
    if message.get("refusal") or choice.get("finish_reason") == "content_filter":
        raise RequestFailed(f"the model refused: {message.get('refusal') or 'content_filter'}")
    text = message.get("content")
    if not isinstance(text, str) or is_blank(text):
        raise RequestFailed(f"the content is {text!r:.40}, which is no text: {choice.get('finish_reason')}")
    return CutCaption(text.strip()) if choice.get("finish_reason") == "length" else text.strip()


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
