"""Python and the packages: whether they are those that the package's own metadata asks for."""

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement

from dr_pipeline.config.extras import EXTRAS, is_installed
from dr_pipeline.config.job import Job
from dr_pipeline.doctor.examination import Diagnosis

_NAME = "dr-pipeline"


def python(job: Job | None) -> Iterator[Diagnosis]:
    """Whether the interpreter is of a version that the package supports."""
    wanted, found = metadata(_NAME)["Requires-Python"], platform.python_version()
    is_wanted = Requirement(f"python{wanted}").specifier.contains(found, prereleases=True)
    yield Diagnosis(
        "ok" if is_wanted else "fails", found, "" if is_wanted else f"make an environment of Python {wanted}"
    )


def packages(job: Job | None) -> Iterator[Diagnosis]:
    """Which required packages are missing, or of a version that is not supported."""
    declared = [Requirement(line) for line in requires(_NAME) or ()]
    needed = [one for one in declared if one.marker is None or one.marker.evaluate({"extra": ""})]
    are_all_right = True
    for one in needed:
        try:
            found = version(one.name)
            fact = f"{one.name} {found} is not {one.specifier}"
            is_right = one.specifier.contains(found, prereleases=True)
        except PackageNotFoundError:
            fact, is_right = f"{one.name} is not installed", False
        if not is_right:
            yield Diagnosis("fails", fact, f"pip install '{one.name}{one.specifier}'")
        are_all_right &= is_right
    if are_all_right:
        yield Diagnosis("ok", f"{_NAME} {version(_NAME)} and the {len(needed)} that it requires")


def extras(job: Job | None) -> Iterator[Diagnosis]:
    """Which optional packages are not there. Those that a job's models need are found missing with these models."""
    absent = sorted({extra for package, extra in EXTRAS.items() if not is_installed(package)})
    if not absent:
        yield Diagnosis("ok", "all installed")
        return
    names = ",".join(absent)
    yield Diagnosis(
        "ok", f"not installed: {names} (pip install '{_NAME}[{names}]')", lacks=f"no {', no '.join(absent)}"
    )


def native_parts(job: Job | None) -> Iterator[Diagnosis]:
    """Whether the compiled parts load and work: those that inflate members and decode images."""
    import simplejpeg
    from isal import igzip
    from PIL import features

    if igzip.decompress(igzip.compress(b"a member")) != b"a member":
        yield Diagnosis("fails", "isal deflates wrongly", "pip install --force-reinstall isal")
    missing = [name for name in ("jpg", "zlib", "webp") if not features.check(name)]
    if missing:
        advice = "pip install --force-reinstall --only-binary=:all: pillow"
        yield Diagnosis("warning", f"Pillow was built without {', '.join(missing)}", advice, "such images are skipped")
    yield Diagnosis("ok", f"isal, simplejpeg {simplejpeg.__version__}, Pillow {version('pillow')}")
