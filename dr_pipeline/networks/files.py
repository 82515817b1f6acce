"""Local files of models, by address: a path, a file in a package, any fsspec URL, or a repository of the hub."""

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import constants, hf_hub_download, list_repo_files, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from huggingface_hub.file_download import repo_folder_name

from dr_pipeline.config.extras import how_to_install
from dr_pipeline.config.recipes import PACKAGE_SCHEME
from dr_pipeline.errors import HubError, ModelError, PipelineError, nearest
from dr_pipeline.storage import Storage

HUB = "hf-hub:"
RANDOM = "random"
HUB_NAMES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",  # timm's
)
CONFIG_NAMES = ("open_clip_config.json",)
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
"""The endings of files of weights."""


def resource(uri: str) -> Path:
    """The local file of a path, package://pkg.module/file, hf-hub:org/repo/file or any fsspec URL (s3://, https://, …).

    A remote file is downloaded once to $DR_PIPELINE_CACHE (default ~/.cache/dr_pipeline), and again when it changes
    there. Raises ModelError when there is no such file.
    """
    if uri.startswith(HUB):
        return hub_file(uri.removeprefix(HUB), ())
    if uri.startswith(PACKAGE_SCHEME):
        path = packaged(uri)
        if path.is_file():
            return path
        raise ModelError(f"{uri} is a folder, and a file is needed")
    if "://" in uri:
        try:
            return Storage().download(uri)
        except PipelineError as error:
            raise ModelError(
                f"{error}. Check the address and that this worker's environment has the credentials and the endpoint "
                "(AWS_PROFILE, AWS_ENDPOINT_URL, …)"
            ) from error
    path = Path(uri).expanduser()
    if not path.is_file():
        names = [sibling.name for sibling in path.parent.glob("*")] if path.parent.is_dir() else []
        raise ModelError(
            f"no file at {uri} (looked in {path.parent.absolute()}, and beside the card){nearest(path.name, names)}"
        )
    return path


def hub_file(repo_and_file: str, names: tuple[str, ...], suffixes: tuple[str, ...] = ()) -> Path:
    """The local file of `org/repo/file`; of `org/repo` the first of `names`, else its only file with one of `suffixes`.

    It is downloaded where the hub's cache lacks it; where the hub cannot be reached, its cache counts. Raises HubError
    where that lacks it too, and ModelError where the repository has no such file.
    """
    repo, file = repo_and_file_of(repo_and_file)
    names, suffixes = ((file,), ()) if file else (names, suffixes or names)
    try:
        for candidate in hub_candidates(repo, names, suffixes):
            try:
                return Path(hf_hub_download(**hub_place(repo), filename=candidate))
            except LocalEntryNotFoundError:
                raise
            except EntryNotFoundError:
                continue
        held = list_repo_files(**hub_place(repo))
    except Exception as error:
        if cached := cached_hub_file(repo, names, suffixes):
            return cached
        raise HubError(
            f"{HUB}{repo} cannot be downloaded ({first_line(error)}). Check the name and the connection, `hf auth "
            "login` for a gated repository, or download it elsewhere and give a path or an s3:// URL instead"
        ) from error
    held = [name for name in held if name.endswith(suffixes or SUFFIXES)]
    wanted = " or ".join(names)
    raise ModelError(f"{HUB}{repo} has no {wanted}; name one of its files: {HUB}{repo}/FILE with FILE of {held}")


def repo_and_file_of(address: str) -> tuple[str, str]:
    """`org/repo[@revision]` and the file, "" where there is none, of `org/repo[@revision][/file]`."""
    org, _, rest = address.partition("/")
    name, _, file = rest.partition("/")
    return f"{org}/{name}", file


def hub_place(repo: str) -> dict[str, Any]:
    """`org/repo[@revision]` as arguments of the hub's client; the revision is a branch, tag or commit."""
    name, _, revision = repo.partition("@")
    return {"repo_id": name, "revision": revision or None}


def hub_candidates(repo: str, names: tuple[str, ...], suffixes: tuple[str, ...]) -> Iterator[str]:
    """What a wanted file of a repository may be called: each of `names`, then the only file with one of `suffixes`.

    Only for the last the hub is asked what there is; raises what its client raises.
    """
    yield from names
    held = [name for name in list_repo_files(**hub_place(repo)) if name.endswith(suffixes)] if suffixes else []
    if len(held) == 1:
        yield held[0]


def cached_hub_file(repo: str, names: tuple[str, ...], suffixes: tuple[str, ...]) -> Path | None:
    """The wanted file of a repository, as for `hub_candidates`, in the hub's cache; None where that lacks it."""
    try:
        folder = Path(snapshot_download(**hub_place(repo), local_files_only=True))
    except (OSError, ValueError):  # no such repository there; no name of one
        return None
    named = [folder / name for name in names if (folder / name).is_file()]
    others = [path for path in folder.iterdir() if suffixes and path.name.endswith(suffixes)]
    return named[0] if named else others[0] if len(others) == 1 else None


def how_to_get(repo: str, loader: str, error: Exception) -> str:
    """Help for a part of a model that could not be read from the hub: what is missing, and how to get it.

    `repo`: org/name on the hub, or a folder. `loader`: the class of transformers that downloads and reads the part.
    """
    if isinstance(error, ModuleNotFoundError):
        return f"it needs {how_to_install(error.name or str(error))}"
    if Path(repo).is_dir():
        return f"the folder {repo} does not hold it: {first_line(error)}"
    said = first_line(error).rstrip(".")
    fetch = f"from transformers import {loader}; {loader}.from_pretrained('{repo}')"
    folder = repo_folder_name(repo_id=repo, repo_type="model")
    return (
        f"{repo} of the Hugging Face hub cannot be had ({said}). Where the hub is reached, run "
        f'python -c "{fetch}", and copy the folder {folder} of the hub cache there to {constants.HF_HUB_CACHE} here'
    )


def first_line(error: Exception) -> str:
    """The first line of an error's message, and the next where it ends with a colon; the rest is advice to users of
    another program.
    """
    first, *others = str(error).strip().splitlines() or [type(error).__name__]
    return f"{first} {others[0].strip()}" if first.endswith(":") and others else first


def packaged(uri: str) -> Path:
    """The file or folder at `package://pkg.module/name`. Raises ModelError where there is none."""
    package, _, name = uri.removeprefix(PACKAGE_SCHEME).partition("/")
    try:
        folder = Path(str(files(package)))
    except (ModuleNotFoundError, TypeError, ValueError):
        raise ModelError(f"{uri}: no package {package!r} is installed") from None
    path = folder / name
    if not path.exists():
        raise ModelError(f"{uri}: no such file{nearest(name, (sibling.name for sibling in folder.glob('*')))}")
    return path
