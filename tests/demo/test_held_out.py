"""The demo's evaluation sets: true labels, captions that tell scenes apart, the same bytes every time."""

from pathlib import Path

from dr_pipeline.demo.held_out import CLASSES, write_held_out
from tests.tars import group, read_members


def test_the_sets_are_in_clip_benchmark_s_layout(tmp_path: Path) -> None:
    write_held_out(tmp_path / "a", 201)
    write_held_out(tmp_path / "b", 201)
    files = {str(path.relative_to(tmp_path / "a")) for path in (tmp_path / "a").rglob("*") if path.is_file()}
    tars = {
        f"{kind}/test/{name}" for kind in ("classification", "retrieval") for name in ("0.tar", "1.tar", "nshards.txt")
    }
    lists = {"classification/classnames.txt", "classification/zeroshot_classification_templates.txt"}
    assert files == tars | lists | {"retrieval/dataset_type.txt"}
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (tmp_path / "a/classification/test/nshards.txt").read_text() == "2"
    assert (tmp_path / "a/classification/zeroshot_classification_templates.txt").read_text().startswith("a {c}\n")

    samples = {}
    for kind, ext in (("classification", "cls"), ("retrieval", "txt")):
        found = []
        for number in range(2):
            with (tmp_path / f"a/{kind}/test/{number}.tar").open("rb") as stream:
                found += [(fields["jpg"], fields[ext].decode()) for _, fields in group(read_members(stream))]
        samples[kind] = found
    names = (tmp_path / "a/classification/classnames.txt").read_text().splitlines()
    assert tuple(names) == CLASSES
    captions = [caption for _, caption in samples["retrieval"]]
    assert len(set(captions)) == 201
    for (image, label), (same_image, caption) in zip(samples["classification"], samples["retrieval"], strict=True):
        assert image == same_image
        colour, shape = names[int(label)].split()
        assert f" {colour} {shape} " in caption
