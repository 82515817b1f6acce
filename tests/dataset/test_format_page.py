"""docs/format.md lists what a dataset has: its columns, keys and fields are the code's."""

import re
from dataclasses import fields
from pathlib import Path

import pyarrow as pa
import pytest

from dr_pipeline.config.cards import Float8Error, TeacherCard
from dr_pipeline.dataset import checksum
from dr_pipeline.dataset.config_json import FORMAT, describe
from dr_pipeline.dataset.manifest import SAMPLE_SCHEMA, SHARD_SCHEMA
from dr_pipeline.dataset.reports import ShardReport
from dr_pipeline.views.mixing import MIXINGS
from dr_pipeline.views.rand_augment import NUM_OPS
from dr_pipeline.views.transforms import TRANSFORMS
from tests.conftest import make_job

PAGE = (Path(__file__).parents[2] / "docs/format.md").read_text(encoding="utf-8")


def rows(before: str) -> list[list[str]]:
    """The cells of the first table behind a heading or a line of the page, without its head."""
    table = re.search(r"^\|(?:.*\n\|)*.*", PAGE[PAGE.index(f"\n{before}\n") :], re.MULTILINE)
    assert table
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[0].splitlines()[2:]]


def names(before: str) -> list[str]:
    """What the first column of a table names."""
    return [name for row in rows(before) for name in re.findall(r"`([^`]+)`", row[0])]


def test_the_page_is_of_the_format_that_is_written() -> None:
    assert PAGE.startswith(f"# Dataset format {FORMAT}\n")


@pytest.mark.parametrize(
    ("heading", "schema"), [("## manifest/samples", SAMPLE_SCHEMA), ("## manifest/shards.parquet", SHARD_SCHEMA)]
)
def test_columns_are_those_of_the_tables(heading: str, schema: pa.Schema) -> None:
    listed = [(row[0].strip("`"), row[1], row[2]) for row in rows(heading)]
    assert listed == [(field.name, str(field.type), "yes" if field.nullable else "no") for field in schema]


def test_keys_are_those_of_reports_and_config_json() -> None:
    report = checksum.dump(ShardReport("a.tar", "b/a.tar", "done", "0").__dict__)
    assert names("## Reports") == [*(field.name for field in fields(ShardReport)), "checksum"]
    assert f'"{names("## Reports")[-1]}"' in report.decode()
    config = describe(make_job())
    assert names("## config.json") == [
        *(f"{key}.image_augmentation" if key == "reinforce" else key for key in config),
        "checksum",
    ]
    assert names("Keys of `dr_pipeline`:") == [*config["dr_pipeline"], "manifest_sha256"]


def test_a_teacher_is_described_whole() -> None:
    card = TeacherCard(
        name="t", use="a:B", encodes=("images",), output="scores", float8_error=Float8Error(mean=0, worst=0)
    )
    (teacher,) = describe(make_job(teachers=[card.model_dump()]))["dr_pipeline"]["teachers"]
    assert sorted(names("Of a teacher:")) == sorted(teacher)
    identity = describe(make_job())["dr_pipeline"]["identity"]
    paragraph = PAGE[PAGE.index("\n`identity` has") :].split("\n\n")[0]
    assert set(identity) <= set(re.findall(r"`(\w+)`", paragraph))


def test_views_have_an_entry_for_each_transform_in_the_codes_order() -> None:
    with_entries = [(row[0].strip("`"), row[1] != "none") for row in rows("## Views")]
    assert with_entries == [(kind.name, kind.leaves_entry) for kind in TRANSFORMS]
    assert all(f"`{kind.name}`" in PAGE for kind in MIXINGS)
    operations = [
        int(number)
        for row in rows("[[14, 347, 370, 427], [[0, 0.0], [6, 0.26999998092651367]]]")
        for number in row[0].split(", ")
    ]
    assert operations == [*range(NUM_OPS)]
