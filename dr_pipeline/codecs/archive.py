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
    """A record, and where it lies: a header, its content from `start` to `end`, and the checksum that may follow."""

    info: ZipInfo
    start: int
    end: int
    following: int
    """Where the next record begins, or the directory."""

    @property
    def is_storage(self) -> bool:
        """Whether it holds the numbers of tensors."""
        return self.info.filename.partition("/")[2].startswith("data/")


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
    import torch

    buffer, views = bytearray(data), {}
    for name, place in form.places.items():
        flat = torch.frombuffer(buffer, dtype=place.dtype, count=place.num_items, offset=place.start)
        views[name] = flat.as_strided(place.shape, place.stride, place.offset)
    return views


def _learn(data: bytes) -> _Form:
    """The form of an archive: its frame is all but the storages, and the serialization id, a hash of their numbers."""
    records = _read_records(data)
    frame, offset = [], 0
    for record in records:
        if record.is_storage or record.info.filename.endswith("/serialization_id"):
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
    records = []
    for info, next_offset in zip(infos, following, strict=True):
        # The local header tells where its name and padding end.
        header = data[info.header_offset : info.header_offset + _LOCAL_HEADER_BYTES]
        name_and_padding = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        start = info.header_offset + _LOCAL_HEADER_BYTES + name_and_padding
        end = start + info.compress_size
        if end > next_offset:
            raise ValueError(f"the archive ends within {info.filename}")
        records.append(_Record(info, start, end, next_offset))
    return records


def _check_pickle(pickled: bytes) -> None:
    """Refuse what `weights_only` would let pass and tensors do not need, such as `bytearray(10**11)`.

    Other opcodes than GLOBAL import nothing, but for those of protocol 4, which `torch.save` does not write.
    """
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name in ("GLOBAL", "STACK_GLOBAL", "INST"):
            imported = str(argument)
            makes_tensors = imported in ("torch._utils _rebuild_tensor_v2", "collections OrderedDict") or (
                imported.startswith("torch ") and imported.endswith("Storage")
            )
            if opcode.name != "GLOBAL" or not makes_tensors:
                raise ValueError(f"holds more than tensors: {argument or opcode.name}")


def _find_places(data: bytes, records: list[_Record]) -> dict[str, _Place] | None:
    """Load an archive of the same form whose storages are filled with their number."""
    storages = [record for record in records if record.is_storage]
    stored = all(record.info.compress_type == ZIP_STORED for record in records)
    endings = {data[record.start : record.end] for record in records if record.info.filename.endswith("/byteorder")}
    if not stored or not 0 < len(storages) < 256 or endings > {b"little"}:
        return None
    marked = io.BytesIO()
    with ZipFile(marked, "w") as archive:
        for record in records:
            content = data[record.start : record.end]
            if record.is_storage:
                content = bytes([storages.index(record)]) * len(content)
            archive.writestr(record.info.filename, content)
    marked.seek(0)
    places = {}
    for name, tensor in _load(marked).items():
        if not len(tensor.untyped_storage()):
            return None
        storage = storages[tensor.untyped_storage()[0]]
        num_items = storage.info.file_size // tensor.element_size()
        shape, offset = tuple(tensor.shape), int(tensor.storage_offset())
        places[name] = _Place(storage.start, num_items, tensor.dtype, shape, tensor.stride(), offset)
    return places


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
