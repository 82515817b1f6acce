"""A model in an ONNX file, run by onnxruntime on the device of its inputs.

Shapes: B rows of a batch, D columns of an output.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from dr_pipeline.errors import ModelError, nearest
from dr_pipeline.networks.files import first_line, resource

if TYPE_CHECKING:
    import onnxruntime

_DTYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(int64)": torch.int64,
    "tensor(int32)": torch.int32,
    "tensor(bool)": torch.bool,
}
_GPU_PROVIDERS = {"CUDAExecutionProvider", "TensorrtExecutionProvider"}


class OnnxSession:
    """One file's model, which gives rows [B, D] as one of its outputs."""

    def __init__(self, file: str, device: torch.device, output: str | None, providers: Sequence[str] | None):
        """`file`: a path, package://, a URL or hf-hub:org/repo/file. `output`: its name, default the one with rows.

        `providers`: onnxruntime's, default those of the device. Raises ModelError.
        """
        self._file = file
        self._device = device
        self._session = _open(file, device, providers)
        self._on_gpu = device.type == "cuda" and not _GPU_PROVIDERS.isdisjoint(self._session.get_providers())
        self.inputs = {one.name: list(one.shape) for one in self._session.get_inputs()}
        """Name → shape, with a text or None for a side that may have any length."""
        self._dtypes = {one.name: _DTYPES.get(one.type, torch.float32) for one in self._session.get_inputs()}
        outputs = self._session.get_outputs()
        names, rows = [one.name for one in outputs], [one.name for one in outputs if len(one.shape) == 2]
        if output is not None and output not in names:
            raise ModelError(f"{file} has no output {output}{nearest(output, names) or f'; it has {names}'}")
        if output is None and len(rows) != 1:
            raise ModelError(f"{file} has {len(rows)} outputs [B, D], of {names}: name the one that is meant")
        self._output = output or rows[0]
        sizes = {shape[0] for shape in self.inputs.values() if isinstance(shape[0], int)}
        self._batch_size = min(sizes) if sizes else None

    def only_input(self, rank: int) -> str:
        """The name of the one input with so many dimensions. Raises ModelError where there are more, or none."""
        found = [name for name, shape in self.inputs.items() if len(shape) == rank]
        if len(found) != 1:
            raise ModelError(f"{self._file} has {len(found)} inputs of {rank} dimensions, of which it needs one")
        return found[0]

    def run(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Inputs by name, each with B rows → the output, floats [B, D] on the device of the inputs.

        A model that takes batches of one size gets such, the last filled up with its last row.
        """
        (num_rows,) = {len(rows) for rows in inputs.values()}
        size = self._batch_size or num_rows
        parts = []
        for start in range(0, num_rows, size):
            batch = {name: rows[start : start + size] for name, rows in inputs.items()}
            missing = size - min(num_rows - start, size)
            filled = {
                name: torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])]) if missing else rows
                for name, rows in batch.items()
            }
            parts.append(self._run(filled)[: size - missing])
        return torch.cat(parts).float()

    def _run(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        given = {name: rows.to(self._dtypes[name]).contiguous() for name, rows in inputs.items()}
        if not self._on_gpu:  # which may be there, for other models
            (output_BD,) = self._session.run([self._output], {name: rows.cpu().numpy() for name, rows in given.items()})
            return torch.from_numpy(output_BD).to(self._device)
        torch.cuda.current_stream(self._device).synchronize()  # onnxruntime has a stream of its own
        binding, index = self._session.io_binding(), self._device.index or 0
        for name, rows in given.items():
            element = torch.empty(0, dtype=rows.dtype).numpy().dtype
            binding.bind_input(name, "cuda", index, element, tuple(rows.shape), rows.data_ptr())
        binding.bind_output(self._output, "cuda", index)
        self._session.run_with_iobinding(binding)  # and waits
        return torch.from_numpy(binding.copy_outputs_to_cpu()[0]).to(self._device)


def _open(file: str, device: torch.device, providers: Sequence[str] | None) -> "onnxruntime.InferenceSession":
    """The session of a file, on the device, with torch's number of threads. Raises ModelError."""
    import onnxruntime

    path = resource(file)
    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    wanted = list(providers) if providers else ["CPUExecutionProvider"]
    if providers is None and device.type == "cuda":
        wanted = ["CUDAExecutionProvider", *wanted]
    known = onnxruntime.get_available_providers()
    for name in wanted:
        if name not in known:
            raise ModelError(
                f"{file}: onnxruntime has no {name} here, but {', '.join(known)}: install onnxruntime-gpu in place of "
                "onnxruntime for a GPU, or set options.providers"
            )
    placed = [(name, {"device_id": device.index or 0}) if name.startswith("CUDA") else name for name in wanted]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=placed)
    except Exception as error:
        raise ModelError(f"{file} cannot be run by onnxruntime: {first_line(error)}") from error
    lost = [name for name in wanted if name not in session.get_providers()]
    if lost:  # onnxruntime goes on without one that it cannot load
        raise ModelError(
            f"{file}: onnxruntime cannot load its {lost[0]}, which it logs: install an onnxruntime-gpu for torch's "
            f"CUDA, {torch.version.cuda}, and its cuDNN, or set options.providers to [CPUExecutionProvider]"
        )
    return session
