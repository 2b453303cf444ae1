"""hax from Python: argument structs read from the C headers, torch tensors as arguments.

    call = hax.Call("causal_conv1d_forward", x=x, weight=weight, y=y, activation=1)
    call()          # enqueues on torch's current stream
"""

import ctypes
import os
import re
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = os.environ.get("HAX_LIBRARY", ROOT / "build/release/libhax.so")
HEADERS = Path(os.environ.get("HAX_INCLUDE", ROOT / "include")) / "hax"

SILU = 1
FULL, SLIDING_WINDOW, SINK, DILATED, LSH, KEY_SELECTION = 1, 2, 4, 8, 16, 32
STATISTICS_NONE, STATISTICS_SEQUENCE, STATISTICS_CAUSAL = 0, 1, 2
NORM_FEATURE, NORM_SEQUENCE = 0, 1


class Error(RuntimeError):
    pass


class _Tensor(ctypes.Structure):  # DLPack's DLTensor
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_index", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


_TYPES = {
    torch.float32: (2, 32),
    torch.float16: (2, 16),
    torch.bfloat16: (4, 16),
    torch.int32: (0, 32),
    torch.int64: (0, 64),
}
_FIELDS = {
    "size_t": ctypes.c_size_t,
    "int32_t": ctypes.c_int32,
    "uint32_t": ctypes.c_uint32,
    "int64_t": ctypes.c_int64,
    "float": ctypes.c_float,
}


def _read_structs():
    structs = {}
    for header in sorted(HEADERS.glob("*.h")):
        text = re.sub(r"/\*.*?\*/", "", header.read_text(), flags=re.S)
        for body, name in re.findall(r"typedef struct \w+ \{(.*?)\} (hax_\w+);", text, re.S):
            fields = []
            for kind, pointer, field in re.findall(r"(?:const )?(\w+)\s*(\*?)\s+(\w+);", body):
                fields.append((field, ctypes.c_void_p if pointer else _FIELDS.get(kind)))
            if fields[0][0] == "struct_size":
                structs[name] = type(name, (ctypes.Structure,), {"_fields_": fields})
    return structs


_structs = _read_structs()
_library = ctypes.CDLL(str(LIBRARY))
_library.hax_last_error.restype = ctypes.c_char_p
_library.hax_version_string.restype = ctypes.c_char_p
_context = ctypes.c_void_p()


def _check(status):
    if status:
        raise Error(_library.hax_last_error().decode())


_check(_library.hax_context_create(None, ctypes.byref(_context)))


def version():
    return _library.hax_version_string().decode()


def has(operation):
    return hasattr(_library, f"hax_{operation}")


def _describe(tensor):
    shape = (ctypes.c_int64 * tensor.dim())(*tensor.shape)
    strides = (ctypes.c_int64 * tensor.dim())(*tensor.stride())
    cuda = tensor.device.type == "cuda"
    code, bits = _TYPES[tensor.dtype]
    return _Tensor(
        tensor.data_ptr(), 2 if cuda else 1, tensor.device.index or 0 if cuda else 0, tensor.dim(), code, bits, 1,
        shape, strides, 0,
    )  # fmt: skip


class Arguments:
    """An argument struct whose tensors stay alive with it."""

    def __init__(self, struct, **values):
        self.struct = _structs[f"hax_{struct}"]()
        self.struct.struct_size = ctypes.sizeof(self.struct)
        self.tensors = {}
        self._kept = []
        known = dict(self.struct._fields_)
        for name, value in values.items():
            if name not in known:
                raise TypeError(f"hax_{struct} has no field '{name}'")
            if isinstance(value, torch.Tensor):
                self.tensors[name] = value
                value = _describe(value)
            elif isinstance(value, Arguments):
                self._kept.append(value)
                value = value.struct
            if isinstance(value, ctypes.Structure):
                self._kept.append(value)
                value = ctypes.addressof(value)
            setattr(self.struct, name, value)


class Call:
    """One operator call, its workspace allocated; made as often as one likes."""

    def __init__(self, operation, **values):
        self.arguments = Arguments(f"{operation}_args", **values)
        self._function = getattr(_library, f"hax_{operation}")
        size = ctypes.c_size_t()
        query = getattr(_library, f"hax_{operation}_workspace")
        _check(query(_context, ctypes.byref(self.arguments.struct), ctypes.byref(size)))
        device = next(iter(self.arguments.tensors.values())).device
        self.cuda = device.type == "cuda"
        self.workspace_bytes = size.value
        self._workspace = torch.empty(size.value + 256, dtype=torch.uint8, device=device)
        address = (self._workspace.data_ptr() + 255) // 256 * 256
        self._args = (
            _context, ctypes.byref(self.arguments.struct), ctypes.c_void_p(address if size.value else None), size,
        )  # fmt: skip

    def __getitem__(self, name):
        return self.arguments.tensors[name]

    def __call__(self):
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream if self.cuda else None)
        _check(self._function(*self._args, stream))
