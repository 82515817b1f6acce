"""A rewriter of one's own in a whole job: its texts are one more key, are embedded, and come out the same again."""

import json
from pathlib import Path

from dr_pipeline.runners.run import run
from dr_pipeline.storage import Storage
from dr_pipeline.verification.recompute import recompute
from dr_pipeline.verification.verify import verify
from tests.demo_job import Silent, demo_job, make_scenes
from tests.tars import read_reinforced, stored

PLUGIN = """
class Counter:
    def __init__(self, device):
        pass

    def rewrite(self, texts, prompts, streams, sampling):
        pairs = zip(prompts, streams)
        return [[f"{prompt} {stream.integer(10**6)} times" for stream in of_text] for prompt, of_text in pairs]
"""


def test_a_rewriter_s_texts_are_stored_and_embedded(tmp_path: Path) -> None:
    (tmp_path / "counter.py").write_text(PLUGIN)
    scenes = make_scenes(tmp_path / "in", num_shards=1, samples_per_shard=4)
    rewriter = {"use": "counter:Counter", "tag": "counted", "num_captions": 3, "prompt": "Count {alt_text}"}
    changes = [f"rewriters={json.dumps([rewriter])}", f"plugin_dirs=[{tmp_path}]", "captioners=[]"]
    job = demo_job(scenes, tmp_path / "out", *changes)
    observer = Silent()
    run(job, observer)
    (report,) = observer.reports
    assert (report.status, report.num_synthetic, report.usage) == ("done", 12, {})
    assert report.captions == {"syn_text_counted": {"drawn": 12}}
    for sample in read_reinforced(tmp_path / "out" / report.name).values():
        texts = sample.synthetic["syn_text_counted"]
        assert all(text.startswith(f"Count {sample.members['txt'].decode()} ") for text in texts)
        assert len(set(texts)) == 3
        assert len(stored(sample, "syn_text_counted")) == 3
    findings = verify(str(tmp_path / "out"), Storage())
    recompute(str(tmp_path / "out"), Storage(), findings, num_samples=4, plugin_dirs=(str(tmp_path),))
    assert findings.problems == []
    assert "12 of 12 synthetic captions came out the same" in findings.remarks
