"""What `plan` takes as given: how fast things are, and what they cost. No run reads any of it."""

from typing import Annotated

from pydantic import Field

from dr_pipeline.config.strict import Positive, PositiveInt, Strict

AtLeastZero = Annotated[float, Field(ge=0)]


class ModelTimes(Strict):
    """How long a model takes for a sample: so long, and so much more for each image or text of it.

    A model that is asked by request takes the time from a request to its answer for each text.
    """

    sample_ms: AtLeastZero = 0
    image_ms: AtLeastZero = 0
    text_ms: AtLeastZero = 0


class RequestTokens(Strict):
    """How many tokens a request has on average."""

    prompt: AtLeastZero
    completion: AtLeastZero


class Assumptions(Strict):
    """The figures by which `plan` estimates hours, cores and network.

    CPU times are of benchmarks/view_cost.py and write_cost.py on one of two virtual cores, a GPU's of benchmarks/gpu.py
    on an H100. `plan --calibrate` measures those of the machine at hand.
    """

    gpu_tflops: Positive = 400
    core_tflops: Positive = 0.05
    caption_step_ms: Positive = 15
    caption_steps: PositiveInt = 25
    models: dict[str, ModelTimes] = Field(default={})
    """Card name → what its model takes, in place of what its operations tell."""
    overhead: Positive = 1
    """A sample's time by that of the slowest of device, cores, network and endpoints."""
    start_s: AtLeastZero = 0
    """Seconds until a worker has its models."""
    image_tokens: PositiveInt = 500
    tokens_per_character: Positive = 0.25
    tokens: dict[str, RequestTokens] = Field(default={})
    """Key of `syn.json` → what a request for it has, in place of what prompt and `max_tokens` tell."""
    decode_ms: Positive = 2.5
    view_ms: Positive = 1.7
    gpu_view_ms: Positive = 0.02
    write_ms: Positive = 1.4
    network_gbit_s: Positive = 10
    store_requests_s: Positive = 3500


class PriceList(Strict):
    """What `plan` counts a run's money by, in one currency. What is not priced is not counted, and named."""

    currency: Annotated[str, Field(pattern=r"^\w{1,12}$")] = "USD"
    worker_hour: AtLeastZero | None = None
    """Of one worker: its share of a machine, a GPU with its cores."""
    driver_hour: AtLeastZero | None = None
    """Of the machine that hands out shards, which has no GPU."""
    stored_tb_month: AtLeastZero | None = None
    stored_months: Positive = 1
    """How long the output is kept."""
    read_tb: AtLeastZero | None = None
    """What a TB costs that leaves the input's store, where workers are elsewhere; 0 where they are beside it."""
    million_reads: AtLeastZero | None = None
    """Of the store's requests."""
    million_writes: AtLeastZero | None = None
    """Of the store's requests, listings included."""
