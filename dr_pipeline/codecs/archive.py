"""The tensors of a `torch.save` archive, as views on its bytes and without unpickling every archive anew.

The samples of a dataset differ in their numbers, but hardly in the form of their archives: all that lies between the
numbers, which is the pickle, and the names and sizes of the records. `torch.load` is asked once a form: from marked
records it tells which tensor lies where. benchmarks/student_cost.py compares this with `torch.load` on every archive.
"""

import io
import pickletools
from typing import TYPE_CHECKING, NamedTuple
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from dr_pipeline.codecs.codec import LARGEST_BYTES, check_sizes

if TYPE_CHECKING:
    import torch

_MOST_FORMS = 64
_LOCAL_HEADER_BYTES = 30


class _Record(NamedTuple):
    """A record, and where it lies: its header, its content, and the checksum that may follow."""

    info: ZipInfo
    start: int
    """Of the content."""
    following: int
    """Where the next record begins, or the directory."""

    @property
    def name(self) -> str:
        return self.info.filename

    @property
    def end(self) -> int:
        return self.start + self.info.compress_size

    @property
    def is_storage(self) -> bool:
        """Whether it holds the numbers of tensors."""
        return self.name.partition("/")[2].startswith("data/")

    @property
    def varies(self) -> bool:
        """Whether it differs in archives of one form; the serialization id is a hash of the numbers."""
        return self.is_storage or self.name.endswith("/serialization_id")


class _Place(NamedTuple):
    """Where a tensor lies: its storage's first byte and number of items, and how it lies there."""

    start: int
    num_items: int
    dtype: "torch.dtype"
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


class _Form(NamedTuple):
    """What archives of one form have in common."""

    num_bytes: int
    frame: tuple[tuple[int, bytes], ...]
    """Offset → the bytes there, up to the directory, which says the same once more."""
    places: dict[str, _Place] | None
    """By the tensor's name; None where the tensors cannot be views."""

    def fits(self, data: bytes) -> bool:
        """Whether an archive has this form."""
        return len(data) == self.num_bytes and all(data.startswith(part, offset) for offset, part in self.frame)


_forms: list[_Form] = []


def read_tensors(data: bytes) -> dict[str, "torch.Tensor"]:
    """The dictionary of tensors that the archive holds, on the CPU.

    Raises ValueError when it holds anything else, and what `zipfile` and `torch.load` raise when it is damaged.
    """
    form = next((form for form in _forms if form.fits(data)), None)
    if form is None:
        form = _learn(data)
        if len(_forms) < _MOST_FORMS:
            _forms.append(form)
    if form.places is None:
        return _load(io.BytesIO(data))
    buffer = bytearray(data)
    return {name: _view(buffer, place) for name, place in form.places.items()}


def _learn(data: bytes) -> _Form:
    records = _read_records(data)
    frame, offset = [], 0
    for record in records:
        if record.varies:
            frame.append((offset, data[offset : record.start]))
            offset = record.following
    frame.append((offset, data[offset : records[-1].following]))
    return _Form(len(data), tuple(frame), _find_places(data, records))


def _read_records(data: bytes) -> list[_Record]:
    """At least one, in the order in which they lie."""
    with ZipFile(io.BytesIO(data)) as archive:
        infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
        following = [*(info.header_offset for info in infos[1:]), archive.start_dir]
        check_sizes(infos)
        for info in infos:
            if info.filename.endswith("/data.pkl"):
                _check_pickle(archive.read(info))
    if not infos:
        raise ValueError("the archive is empty")
    return [_locate(data, *pair) for pair in zip(infos, following, strict=True)]


def _locate(data: bytes, info: ZipInfo, following: int) -> _Record:
    """The local header tells where its name and padding end."""
    header = data[info.header_offset : info.header_offset + _LOCAL_HEADER_BYTES]
    name_and_padding = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    record = _Record(info, info.header_offset + _LOCAL_HEADER_BYTES + name_and_padding, following)
    if record.end > following:
        raise ValueError(f"the archive ends within {info.filename}")
    return record


def _check_pickle(pickled: bytes) -> None:
    """Refuse what `weights_only` would let pass and tensors do not need, such as `bytearray(10**11)`.

    Other opcodes than GLOBAL import nothing, but for those of protocol 4, which `torch.save` does not write.
    """
    for opcode, argument, _ in pickletools.genops(pickled):
        makes_tensors = opcode.name == "GLOBAL" and _makes_tensors(str(argument))
        if opcode.name in ("GLOBAL", "STACK_GLOBAL", "INST") and not makes_tensors:
            raise ValueError(f"holds more than tensors: {argument or opcode.name}")


def _makes_tensors(imported: str) -> bool:
    in_torch = imported.startswith("torch ") and imported.endswith("Storage")
    return in_torch or imported in ("torch._utils _rebuild_tensor_v2", "collections OrderedDict")


def _find_places(data: bytes, records: list[_Record]) -> dict[str, _Place] | None:
    """Load an archive of the same form whose storages are filled with their number."""
    storages = [record for record in records if record.is_storage]
    stored = all(record.info.compress_type == ZIP_STORED for record in records)
    endings = {data[record.start : record.end] for record in records if record.name.endswith("/byteorder")}
    if not stored or not 0 < len(storages) < 256 or endings > {b"little"}:
        return None
    marked = io.BytesIO()
    with ZipFile(marked, "w") as archive:
        for record in records:
            content = data[record.start : record.end]
            archive.writestr(
                record.name, bytes([storages.index(record)]) * len(content) if record.is_storage else content
            )
    marked.seek(0)
    tensors = _load(marked)
    if not all(len(tensor.untyped_storage()) for tensor in tensors.values()):
        return None
    return {name: _place(tensor, storages) for name, tensor in tensors.items()}


def _place(marked: "torch.Tensor", storages: list[_Record]) -> _Place:
    storage = storages[marked.untyped_storage()[0]]
    return _Place(
        storage.start,
        storage.info.file_size // marked.element_size(),
        marked.dtype,
        tuple(marked.shape),
        marked.stride(),
        int(marked.storage_offset()),
    )


def _load(archive: io.BytesIO) -> dict[str, "torch.Tensor"]:
    import pickle

    import torch

    try:
        tensors = torch.load(archive, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError("holds more than tensors") from error
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise ValueError("a dictionary of tensors is expected")
    if any(tensor.nbytes > LARGEST_BYTES for tensor in tensors.values()):  # one number, repeated by a stride of 0
        raise ValueError(f"a tensor is larger than {LARGEST_BYTES} bytes")
    return tensors


def _view(buffer: bytearray, place: _Place) -> "torch.Tensor":
    import torch

    flat = torch.frombuffer(buffer, dtype=place.dtype, count=place.num_items, offset=place.start)
    return flat.as_strided(place.shape, place.stride, place.offset)
