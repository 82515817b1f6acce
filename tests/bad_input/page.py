"""docs/bad_input.md, from the corpus: `python -m tests.bad_input.page > docs/bad_input.md`."""

from collections.abc import Iterator

from tests.bad_input.corpus import CORPUS, KINDS
from tests.bad_input.corpus.kind import Kind

_HEAD = """# Bad input

How each known kind of bad sample and bad shard ends. Each line is also a test, which puts the bad input between two
good samples and runs the whole shard: the good ones come out as without it, every input sample is in the manifest
exactly once, every member of the tar belongs to a sample or is counted with a reason, and only the shard, its report
and its manifest are written. This page is generated from `tests/bad_input/corpus/`: {count} kinds.

- *reinforced*: in the output, with its image and its other members unchanged.
- *skipped*: in the manifest with this reason and a detail, not in the output; the rest of the shard goes on.
- *shard fails*: nothing is published; the message says what is wrong and what to do, and the run goes on with the other
  shards (`errors.bad_shard`).
- *no sample*: in the report's `passed_over` with its reason, since no reader takes it for a sample.

A tar without members, which downloaders write if they got nothing, is a shard without samples: it is done, with 0
written, and the run and `verify` say so. A tar with members but without samples fails.

A JPEG that Pillow decodes although it lost pixels is *corrupt*: a second decoder, which passes on libjpeg's warnings,
reads it again. This finds all JPEGs that are cut anywhere and closed by an end mark, and nearly all holes of 64 zeros
or more, but only some flipped bits and short holes, since a JPEG has no checksum. It finds none of 3,183 sound JPEGs of
cameras, of the web and of decoders' own tests. It takes a third to a half of the time of decoding, which is 2 % of the
time of 30 views ([measured](../benchmarks/README.md#what-lost-pixels-damagepy)). `run` and `verify --deep` check this;
the student, which decodes in every step, does not.

What a failed request to an endpoint does is [its card's choice](endpoints.md#failures).

In layout `v1` a sample with synthetic captions of its own needs them under `syn_text`, the only key that readers of
that layout use: with another key it is skipped, *other synthetic key*; with a captioner in the job too, *too many
synthetic keys*. The student refuses foreign datasets whose views it would replay to other pixels than the teachers saw:
those with a transform in their `config.json` that is not [listed](jobs.md#augmentation), or with another fill,
interpolation or padding.

The student and `verify` read foreign shards, so their readers have limits of their own, checked before memory is
allocated: 1 GiB for a member, 16 MiB for a JSON member, 64 MiB for a sample's decompressed embeddings, in gzip, zip or
as the arrays' headers claim. Pickles are loaded for tensors only. A sample beyond these limits is not used, and the
message names shard and key."""


_FILES = """
## Files and folders

What becomes of what `input.shards` leads to. `data.shards`, `data.base.shards` and the data of evaluations are looked
up alike, and of these every shard must be there. `tests/dataset/test_plan.py` has the tests, and
[Input](input.md#which-tars) the rules.

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
