"""Tensors and nested states as bytes: safetensors for the numbers, JSON for the rest, the same bytes every time.

The writing is our own few lines because the safetensors package writes metadata in a random order and refuses tensors that share memory;
the format is https://github.com/huggingface/safetensors#format. The reading is the package's, which checks every offset.
Torch is imported only where there is a tensor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import BadInput, DistillError
from ..text import safe

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL", "complex64": "C64",
}  # fmt: skip


def to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file in memory, the same bytes for the same input; `tensors` of any strides, shape and device."""
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    parts, at = [], 0
    # Widest first, so that every tensor begins at a multiple of its own width.
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):
        kind = str(tensor.dtype).removeprefix("torch.")
        if kind not in DTYPES or name == "__metadata__":
            raise TypeError(f"tensor {name!r} of type {kind} has no place in a safetensors file")
        raw = _raw(tensor)
        header[name] = {"dtype": DTYPES[kind], "shape": list(tensor.shape), "data_offsets": [at, at + raw.nbytes]}
        at += raw.nbytes
        parts.append(raw)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def _raw(tensor: Tensor):
    import torch

    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def from_bytes(data: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU; NaN and infinity are values like others. BadInput for anything malformed."""
    try:
        import safetensors.torch

        return safetensors.torch.load(bytes(data))
    except (MemoryError, DistillError):  # not the file's fault: no room, or a signal has come
        raise
    except Exception as error:  # the package's own error, and what torch says to impossible shapes and unknown types
        raise BadInput(f"damaged tensor file: {safe(error, 200)}", "a whole safetensors file", "get or make the file again") from error


def metadata_of(data: bytes) -> dict[str, str]:
    """The text a safetensors file carries beside its tensors; {} if none. BadInput where the header cannot be read."""
    try:
        length = int.from_bytes(data[:8], "little")
        if not 2 <= length <= min(len(data) - 8, 100_000_000):
            raise ValueError(f"a header of {length} bytes in a file of {len(data)}")
        return dict(json.loads(data[8 : 8 + length]).get("__metadata__", {}))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput(f"damaged tensor file: {safe(error, 200)}", "a whole safetensors file", "get or make the file again") from error


def flatten(state: Any) -> tuple[str, dict[str, Tensor]]:
    """A nested state (dicts with any plain keys, lists, tuples, tensors, numbers, strings, None) as JSON text and the tensors it names.

    Lossless but for a tensor's device, strides and aliasing; TypeError for anything else, since silence would be a wrong resume.
    """
    tensors: dict[str, Tensor] = {}
    return json.dumps(_encode(state, tensors)), tensors


def unflatten(text: str, tensors: Mapping[str, Tensor]) -> Any:
    """The state that `flatten` took apart."""
    return _decode(json.loads(text), tensors)


def _encode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, dict):
        if all(type(k) is str and not k.startswith("$") for k in value):
            return {k: _encode(v, tensors) for k, v in value.items()}
        return {"$dict": [[_encode(k, tensors), _encode(v, tensors)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"$tuple": [_encode(v, tensors) for v in value]}
    if isinstance(value, list):
        return [_encode(v, tensors) for v in value]
    import torch

    if isinstance(value, torch.Tensor):
        name = f"{len(tensors):06d}"
        tensors[name] = value
        return {"$tensor": name}
    raise TypeError(f"a snapshot cannot hold {type(value).__qualname__}: {value!r:.80}")


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"$tensor": name}:
            return tensors[name]
        case {"$tuple": items}:
            return tuple(_decode(v, tensors) for v in items)
        case {"$dict": pairs}:
            return {_decode(k, tensors): _decode(v, tensors) for k, v in pairs}
    return {k: _decode(v, tensors) for k, v in value.items()}
