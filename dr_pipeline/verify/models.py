"""The models that a dataset's config.json records, loaded again."""

from dr_pipeline.codecs import codec_for
from dr_pipeline.config.job import Job
from dr_pipeline.models.ensemble import Ensemble
from dr_pipeline.models.load import load_captioner, load_teacher
from dr_pipeline.networks import device as devices
from dr_pipeline.reinforce.captions import CaptionStage


class RecordedModels:
    """The models of a recorded job. Raises ModelError when one is not what is recorded."""

    def __init__(self, job: Job):
        device = devices.pick_device()
        teachers = [(card.name, load_teacher(card, device, job.plugin_dirs)) for card in job.teachers]
        captioners = [(card, load_captioner(card, device, job.plugin_dirs)) for card in job.captioners]
        self.job = job
        self.codec = codec_for(job.output.precision)
        self.device = device
        self.arithmetic = devices.arithmetic(device, job.workers.precision)
        self.ensemble = Ensemble(teachers, device, job.workers.precision)
        self.captions = CaptionStage(captioners, device, job.workers.precision, job.seed)
