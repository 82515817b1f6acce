"""What a job takes: time, bytes, requests and money. `plan` asks for it of the job, and of each alternative."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from dr_pipeline.config.job import Job
from dr_pipeline.networks.cost import Cost
from dr_pipeline.report.bill import Bill, bill_of
from dr_pipeline.report.estimate import Estimate, estimate
from dr_pipeline.report.request_estimate import RequestEstimate, estimate_requests
from dr_pipeline.report.traffic import Work, stored_bytes


@dataclass(frozen=True)
class Models:
    """What is known of a job's models without loading them."""

    costs: Mapping[str, Cost | None] = field(default_factory=dict)
    """Card name → its model's cost; None where it is not known."""
    by_request: Mapping[str, int] = field(default_factory=dict)
    """Names of those that are asked by request, elsewhere → how many requests each worker has there at once."""


@dataclass(frozen=True)
class Forecast:
    """What a run takes."""

    estimate: Estimate
    stored_bytes: int
    requests: tuple[RequestEstimate, ...]
    bill: Bill


def forecast(job: Job, work: Work, models: Models) -> Forecast:
    """What the job takes for the work."""
    found = estimate(job, work, models.costs, models.by_request)
    requests = estimate_requests(job, work.num_samples, models.by_request)
    stored = stored_bytes(job, work)
    return Forecast(found, stored, requests, bill_of(job, work, found, stored, requests))
