"""The worker on whole shards, with the demo's trained teachers and captioner."""

import io
import json
import logging
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from dr_pipeline.config.job import Job
from dr_pipeline.dataset import layout
from dr_pipeline.dataset.plan import make_plan
from dr_pipeline.dataset.reports import ShardReport, ShardTask
from dr_pipeline.dataset.sample import IMAGE, TEXT
from dr_pipeline.errors import ConfigError
from dr_pipeline.reinforce.worker import Worker
from dr_pipeline.storage import Storage
from dr_pipeline.verification.verify import verify
from dr_pipeline.views.render import decode, render
from tests.conftest import STANDARD
from tests.demo_job import demo_job, make_scenes
from tests.tars import group, read_members, read_reinforced, stored

BFLOAT16_STEP = 2**-8


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("scenes"), num_shards=1, samples_per_shard=6)


def run_first_shard(job: Job) -> tuple[Worker, ShardReport]:
    plan = make_plan(job)
    worker = Worker(plan.job)
    worker.load()
    return worker, worker.run(plan.todo[0])


def read_output(path: Path) -> dict[str, dict[str, bytes]]:
    with path.open("rb") as stream:
        return dict(group(read_members(stream)))


def rewrite(source: Path, target: Path, change: dict[str, bytes | None]) -> None:
    """Copy a tar with other bytes for the members named in `change`, and without those that it maps to None."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for member in old.getmembers():
            data = change.get(member.name, old.extractfile(member).read())
            if data is not None:
                member.size = len(data)
                new.addfile(member, io.BytesIO(data))
        for name in change.keys() - set(old.getnames()):
            info = tarfile.TarInfo(name)
            info.size = len(change[name])
            new.addfile(info, io.BytesIO(change[name]))


@pytest.fixture(scope="module")
def reinforced(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Worker, ShardReport, Path]:
    output = tmp_path_factory.mktemp("output")
    worker, report = run_first_shard(demo_job(scenes, output))
    return worker, report, output / report.name


def test_every_sample_has_all_its_members(reinforced, scenes: Path) -> None:
    _, report, path = reinforced
    assert (report.status, report.num_read, report.num_written, report.num_views) == ("done", 6, 6, 18)
    assert verify(str(path), Storage()).problems == []
    before = read_output(scenes / path.name)
    for key, fields in read_output(path).items():
        assert list(fields) == ["jpg", "txt", "json", "syn.json", "paug.json", "pth.gz"]
        assert fields["jpg"] == before[key]["jpg"]
        assert fields["json"] == before[key]["json"]
        assert len(json.loads(fields["syn.json"])["syn_text_scene_coca"]) == 2


def test_stored_embeddings_are_the_teachers_of_the_stored_views(reinforced) -> None:
    worker, _, path = reinforced

    def check(stored_RD: np.ndarray, expected: dict[str, np.ndarray]) -> None:
        np.testing.assert_allclose(stored_RD, np.concatenate([*expected.values()], axis=1), atol=BFLOAT16_STEP)

    for sample in read_reinforced(path).values():
        pixels = render(decode(sample.image, 10**9), sample.views, STANDARD, 96)
        check(stored(sample, IMAGE), worker._ensemble.embed_images(pixels))
        check(stored(sample, TEXT), worker._ensemble.embed_texts([sample.members["txt"].decode()]))
        key = "syn_text_scene_coca"
        check(stored(sample, key), worker._ensemble.embed_texts(sample.synthetic[key]))


def test_the_teachers_see_that_captions_fit_their_own_image(reinforced) -> None:
    _, _, path = reinforced
    samples = read_reinforced(path).values()
    image_SD = np.stack([stored(sample, IMAGE).mean(axis=0) for sample in samples])
    text_SD = np.stack([stored(sample, "syn_text_scene_coca").mean(axis=0) for sample in samples])
    cosines = image_SD @ text_SD.T
    assert cosines.diagonal().mean() > np.median(cosines) + 0.1


COMPILED = """
from dr_pipeline.models.open_clip import OpenClipTeacher

class Compiled(OpenClipTeacher):
    def compile_towers(self, image_batch, text_batch):
        self.batches = image_batch, text_batch
        super().compile_towers(image_batch, text_batch, backend="aot_eager")
"""


def test_a_compiled_teacher_gives_its_embeddings_and_the_report_tells(reinforced, scenes: Path, tmp_path: Path) -> None:
    plain, report, path = reinforced
    assert report.arithmetic == "cpu float32"
    (tmp_path / "compiled_teacher.py").write_text(COMPILED)
    card = demo_job(scenes, tmp_path).teachers[0].model_dump(include={"name", "options"}) | {
        "use": "compiled_teacher:Compiled"
    }
    changes = [f"teachers=[{json.dumps(card)}]", f"plugin_dirs=[{tmp_path}]", "workers.compile=true"]
    worker, report = run_first_shard(demo_job(scenes, tmp_path / "out", *changes))
    assert report.status == "done", report.error
    assert report.arithmetic == "cpu float32 compiled"
    teacher = worker._ensemble._of_images[card["name"]]
    assert teacher.batches == (12, 256)
    assert teacher._compiled._parts
    others, dim = read_reinforced(path), plain._ensemble.dims[card["name"]]
    for key, sample in read_reinforced(tmp_path / "out" / report.name).items():
        for of in (IMAGE, TEXT, "syn_text_scene_coca"):
            expected = stored(others[key], of)[:, :dim]
            np.testing.assert_allclose(stored(sample, of), expected, atol=BFLOAT16_STEP)


def test_the_log_names_each_model_once(scenes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "dr_pipeline")
    Worker(make_plan(demo_job(scenes, tmp_path)).job).load()
    loading = [line for line in caplog.messages if line.startswith("loading ")]
    assert loading == ["loading teacher scene_clip_a", "loading teacher scene_clip_b", "loading captioner scene_coca"]


def test_batch_size_changes_neither_views_nor_captions(reinforced, scenes: Path, tmp_path: Path) -> None:
    _, _, path = reinforced
    _, report = run_first_shard(demo_job(scenes, tmp_path, "workers.view_batch=64"))
    other = read_reinforced(tmp_path / report.name)
    for key, sample in read_reinforced(path).items():
        for ext in ("paug.json", "syn.json", "jpg", "txt"):
            assert sample.members[ext] == other[key].members[ext]
        for of in (IMAGE, TEXT):
            np.testing.assert_allclose(stored(sample, of), stored(other[key], of), atol=BFLOAT16_STEP)


def test_bad_samples_do_not_change_their_neighbours(reinforced, scenes: Path, tmp_path: Path) -> None:
    _, _, path = reinforced
    whole = read_reinforced(path)
    keys = list(whole)
    image = read_output(scenes / path.name)[keys[1]]["jpg"]
    bad = {f"{keys[1]}.jpg": image[: len(image) // 2], f"{keys[3]}.txt": None, f"{keys[3]}.json": None}
    rewrite(scenes / path.name, tmp_path / "in" / path.name, bad)
    _, report = run_first_shard(demo_job(tmp_path / "in", tmp_path / "out", "errors.max_skipped=0.5"))
    assert report.skipped == {"corrupt image": 1, "no text": 1}
    kept = read_reinforced(tmp_path / "out" / path.name)
    assert list(kept) == [key for key in keys if key not in (keys[1], keys[3])]
    for key, sample in kept.items():
        assert (sample.views, sample.synthetic) == (whole[key].views, whole[key].synthetic)
        np.testing.assert_allclose(stored(sample, IMAGE), stored(whole[key], IMAGE), atol=BFLOAT16_STEP)
    rows = pq.read_table(tmp_path / "out" / "manifest" / "samples" / path.with_suffix(".parquet").name).to_pylist()
    assert {row["key"]: row["skip_reason"] for row in rows if row["skip_reason"]} == {
        keys[1]: "corrupt image",
        keys[3]: "no text",
    }


def test_too_many_skips_fail_the_shard(scenes: Path, tmp_path: Path) -> None:
    name = next(scenes.glob("*.tar")).name
    keys = list(read_output(scenes / name))
    rewrite(scenes / name, tmp_path / "in" / name, {f"{key}.jpg": b"" for key in keys[:4]})
    _, report = run_first_shard(demo_job(tmp_path / "in", tmp_path / "out"))
    assert report.status == "failed"
    assert "4 of 6 samples skipped" in report.error
    assert "empty image" in report.error
    assert keys[0] in report.error
    assert not list((tmp_path / "out").rglob("*"))


def test_a_truncated_tar_publishes_nothing(scenes: Path, tmp_path: Path) -> None:
    source = next(scenes.glob("*.tar"))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / source.name).write_bytes(source.read_bytes()[:20_000])
    _, report = run_first_shard(demo_job(tmp_path / "in", tmp_path / "out"))
    assert report.status == "failed"
    assert "truncated" in report.error
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_captions_of_the_input_are_embedded_without_a_captioner(scenes: Path, tmp_path: Path) -> None:
    source = next(scenes.glob("*.tar"))
    keys = list(read_output(source))
    mine = {f"{key}.syn.json": json.dumps({"syn_text": [f"a red square {key}"]}).encode() for key in keys}
    rewrite(source, tmp_path / "in" / "a.tar", mine)
    # Appended members stand apart from their sample; sorting brings them together, as dataset writers do.
    members = sorted(read_members((tmp_path / "in" / "a.tar").open("rb")))
    with tarfile.open(tmp_path / "in" / "a.tar", "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    _, report = run_first_shard(demo_job(tmp_path / "in", tmp_path / "only", "captioners=[]"))
    assert (report.num_written, report.num_synthetic) == (6, 6)
    _, report = run_first_shard(demo_job(tmp_path / "in", tmp_path / "both"))
    assert (report.num_written, report.num_synthetic) == (6, 18)
    for sample in read_reinforced(tmp_path / "both" / "a.tar").values():
        assert [of for _, of in sample.columns] == [IMAGE, TEXT, "syn_text", "syn_text_scene_coca"]
    _, report = run_first_shard(demo_job(scenes, tmp_path / "none", "captioners=[]"))
    assert "no synthetic captions" in report.error


@pytest.mark.parametrize("form", ["v1", "v2"])
@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_both_layouts_in_both_precisions(form: str, precision: str, scenes: Path, tmp_path: Path) -> None:
    overrides = [f"output.layout={form}", f"output.precision={precision}", "captioners.0.tag=null"]
    _, report = run_first_shard(demo_job(scenes, tmp_path, *overrides))
    assert verify(str(tmp_path / report.name), Storage()).problems == []
    sample = next(iter(read_reinforced(tmp_path / report.name).values()))
    assert layout.decode(sample) == form
    assert ("npz" in sample.members) == (precision == "float32")
    assert [len(stored(sample, of)) for of in (TEXT, "syn_text")] == [1, 2]


def test_images_can_be_omitted(scenes: Path, tmp_path: Path) -> None:
    _, report = run_first_shard(demo_job(scenes, tmp_path, "output.images=omit"))
    assert all("jpg" not in fields for fields in read_output(tmp_path / report.name).values())


NAN_TEACHER = '''
import torch

from dr_pipeline.models.protocol import TeacherSpec


class Poisoned:
    """Gives NaN for the third batch: the first is the check at start, the second has four samples."""

    def __init__(self, device):
        self.spec = TeacherSpec(image_size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), dim=4)
        self.batches = 0

    def encode_images(self, images_BCHW):
        self.batches += 1
        return torch.full((len(images_BCHW), 4), float("nan") if self.batches == 3 else 1.0)

    def encode_texts(self, texts):
        return torch.ones(len(texts), 4)
'''

BREAKS = """
class Breaks(Poisoned):
    def encode_images(self, images_BCHW):
        if self.batches == 1:
            raise ValueError("60 tokens are too many")
        return super().encode_images(images_BCHW)
"""


def test_a_nan_stops_the_shard_with_teacher_and_keys(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "poisoned.py").write_text(NAN_TEACHER)
    overrides = ["teachers=[{use: 'poisoned:Poisoned'}]", f"plugin_dirs=[{tmp_path / 'plugins'}]"]
    _, report = run_first_shard(demo_job(scenes, tmp_path / "out", *overrides))
    assert report.status == "failed"
    assert "Poisoned" in report.error
    assert "NaN" in report.error
    assert "000000004 …" in report.error


def test_what_a_teacher_raises_fails_the_shard_with_its_name(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "breaking.py").write_text(f"{NAN_TEACHER}{BREAKS}")
    overrides = ["teachers=[{name: mine, use: 'breaking:Breaks'}]", f"plugin_dirs=[{tmp_path / 'plugins'}]"]
    _, report = run_first_shard(demo_job(scenes, tmp_path / "out", *overrides))
    assert report.error == "ValueError: 60 tokens are too many; teacher mine raised it"


def test_embeddings_larger_than_readers_take_are_refused_at_the_start(scenes: Path, tmp_path: Path) -> None:
    worker = Worker(make_plan(demo_job(scenes, tmp_path, "augmentation.num_views=300000")).job)
    with pytest.raises(ConfigError, match=r"augmentation.num_views: .* 300003 embeddings of 160 dims, 91 MiB"):
        worker.load()


def test_a_node_with_another_pillow_is_refused(scenes: Path, tmp_path: Path) -> None:
    job = make_plan(demo_job(scenes, tmp_path)).job
    (tmp_path / "config.json").write_text('{"dr_pipeline": {"pillow": "12.3.0"}}')
    with pytest.raises(ConfigError, match=r"those of Pillow 12.3.0, and here is"):
        Worker(job).load()


def test_a_missing_shard_is_named(scenes: Path, tmp_path: Path, reinforced) -> None:
    worker, _, _ = reinforced
    report = worker.run(ShardTask("gone.tar", str(scenes / "gone.tar"), None))
    assert report.status == "failed"
    assert "gone.tar" in report.error


def test_a_grey_image_and_a_palette_are_views_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in" / "a.tar", "w") as tar:
        for mode, ext in (("L", "PNG"), ("P", "png"), ("CMYK", "JPG"), ("RGBA", "webp"), ("RGB", "jpeg")):
            buffer = io.BytesIO()
            noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(noise).convert(mode).save(buffer, "JPEG" if ext.lower() in ("jpg", "jpeg") else ext.upper())
            for name, data in ((f"{mode}.{ext}", buffer.getvalue()), (f"{mode}.txt", b"noise")):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    _, report = run_first_shard(demo_job(tmp_path / "in", tmp_path / "out"))
    assert report.num_written == 5
    names = [
        ext
        for fields in read_output(tmp_path / "out" / "a.tar").values()
        for ext in fields
        if ext in ("png", "jpg", "webp", "jpeg")
    ]
    assert sorted(names) == ["jpeg", "jpg", "png", "png", "webp"]


def test_the_job_sets_the_number_of_threads(scenes: Path, tmp_path: Path) -> None:
    worker = Worker(make_plan(demo_job(scenes, tmp_path, "workers.cpus=2")).job)
    worker.load()
    assert torch.get_num_threads() == 2
