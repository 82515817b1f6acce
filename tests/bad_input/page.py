"""docs/bad_input.md, from the corpus: `python -m tests.bad_input.page > docs/bad_input.md`."""

from collections.abc import Iterator

from tests.bad_input.corpus import CORPUS, KINDS
from tests.bad_input.corpus.kind import Kind

_HEAD = """# Bad input

What becomes of which bad sample and which bad shard. Each line is also a test, which puts it between two good samples
and runs the shard whole: the good ones come out as without it, every input sample is in the manifest exactly once,
every member of the tar is a sample's or counted with a reason, and nothing is written but the shard, its report and its
manifest. This page is made of `tests/bad_input/corpus/`: {count} kinds.

- *reinforced*: in the output, its image and its other members untouched.
- *skipped*: in the manifest with this reason and a detail, not in the output; the rest of the shard goes on.
- *shard fails*: nothing is published; the message names what it is and what to do, and the run goes on with the other
  shards (`errors.bad_shard`).
- *no sample*: in the report's `passed_over` with its reason, as nobody would take it for one.

A tar without any member is a shard without samples, as downloaders leave it where they got nothing: it is done, with 0
written, and the run and `verify` say so. One with members of which none is a sample's fails.

A JPEG that Pillow decodes, and that lost pixels all the same, is *corrupt*: its code is read once more by a decoder
that passes on libjpeg's warnings. Of JPEGs cut at any place and closed by an end mark all are found, of holes of 64
zeros or more nearly all; single flipped bits and short holes in part, for a JPEG has no checksum. Not one of 3,183
sound JPEGs of cameras, of the web and of decoders' own tests is. That takes a third to a half of the time of decoding,
which is 2 % of what 30 views take ([measured](../benchmarks/README.md#what-lost-pixels-damagepy)). `run` looks, and
`verify --deep`; the student, who decodes for every step, trusts the shards.

Under layout `v1` a sample that comes with captions of its own needs them under `syn_text`, the one key that readers of
that layout look for: under another it is skipped, *other synthetic key*, beside one of a captioner too, *too many
synthetic keys*. Of foreign datasets the student refuses views that it could only replay to other pixels than the
teachers saw: a transform in their `config.json` that is none of [these](jobs.md#augmentation), or another fill,
interpolation or padding in one of them.

The student and `verify` read foreign shards, so their readers have limits of their own, checked before memory is taken:
1 GiB of a member, 16 MiB of a JSON that is parsed, 64 MiB of a sample's unpacked embeddings, in gzip, zip or as the
arrays' headers claim them. Of a pickle nothing is loaded but tensors. A sample beyond them cannot be used, with shard
and key named."""


_FILES = """
## Files and folders

What becomes of what `input.shards` leads to. `data.shards`, `data.base.shards` and the data of evaluations are looked
up alike, and of these every shard must be there. `tests/dataset/test_plan.py` has the tests, docs/jobs.md the rules.

| what | how it ends | why |
| --- | --- | --- |
| entry, line or glob that names no shard that is there | refused, each named | A misspelt part would be missing. |
| some shards of a brace pattern that are not there | planned; each fails and is named | The others go on. |
| link to a folder | followed | As a glob follows it. |
| circle of links | walked once, told | It has no end. |
| link that leads nowhere | told; for `train` and `verify` a missing shard | What it stood for is not there. |
| empty folder | told | A download that was given up. |
| `.TAR`, `.tar.gz`, `.tgz` | read; `.tar` in the output | What other tools write. |
| `.tar.zst`, `.tar.bz2`, `.zip` and the like | told | Unpack them and write plain tars. |
| other names, hidden files and folders | told | Named exactly, any file is taken. |
| pattern that is also a file's or a folder's name | the file or folder | A name is more exact than a pattern. |
| two shards that would be one in the output | refused, both named | One would overwrite the other. |
| output where the input is looked for | refused before the first run | The second would take its shards for input. |
| class folder without an image, in an evaluation | refused, named | The figures would be those of fewer classes. |"""


def page() -> str:
    """The whole page."""
    return "\n".join([_HEAD.format(count=len(KINDS)), *_sections(), _FILES]) + "\n"


def _sections() -> Iterator[str]:
    for heading, kinds in CORPUS.items():
        yield f"\n## {heading}\n"
        yield "| what | how it ends | why |"
        yield "| --- | --- | --- |"
        yield from map(_row, kinds)


def _row(kind: Kind) -> str:
    ends = "; then ".join(kind.ends) or "no sample"
    return f"| {kind.name} | {ends} | {kind.why} |".replace("\n", " ")


if __name__ == "__main__":
    print(page(), end="")
