"""The native library, loaded with ctypes if it was built, and the choice of its instruction set.

It does not know what its functions compute; their arguments are declared here.
"""

import ctypes
import struct
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch  # noqa: F401  first: it brings the OpenMP runtime that the library then shares

from cutaway.ground.errors import BadArgument
from cutaway.quant.native.fork import compute_alone_after_fork
from cutaway.quant.native.malloc import hold_freed_memory

pointer, i64, i32, f32 = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_float
WORDS = {"avx512-vnni": "AVX-512 VNNI", "avx2": "AVX2"}
SIGNATURES = {
    "cutaway_isa_name": ([i32], ctypes.c_char_p),
    "cutaway_isa": ([], ctypes.c_char_p),
    "cutaway_use_isa": ([ctypes.c_char_p], i32),
    "cutaway_linear": ([pointer, pointer, pointer, pointer, pointer, i64, i32, i32, i32, f32, f32, i32], None),
    "cutaway_shift": ([pointer, i64, i64, pointer, i32], None),
    "cutaway_span": ([pointer, i64], pointer),
    "cutaway_forget": ([pointer], None),
    "cutaway_openmp_threads": ([i32], i32),
    "cutaway_mean": ([pointer, i64, i64, pointer, i32], None),
    "cutaway_root_mean_square": ([pointer, i64, i64, f32, pointer, i32], None),
    "cutaway_norm": ([pointer, i64, i64, pointer, pointer, pointer, pointer, i32], None),
    "cutaway_softcap": ([pointer, i64, f32, pointer, i32], None),
    "cutaway_activate": ([i32, pointer, pointer, i64, i64, i64, i64, pointer, i32], None),
    "cutaway_copy": ([pointer, i64, i64, i64, pointer, i32], None),
    "cutaway_rotate": ([pointer, pointer, pointer, i64, i64, i64, i64, i64, i64, i32, pointer, i32], None),
    "cutaway_cos_sin": ([pointer, i64, pointer, pointer, i32], None),
    "cutaway_softmax": ([pointer, i64, i64, pointer, i64, i64, pointer, i32], None),
    "cutaway_float_product": ([pointer, pointer, pointer, i64, i64, i64, pointer, i32], None),
    "cutaway_route": ([pointer, i64, i64, i64, i32, pointer], None),
    "cutaway_attention": ([pointer, i32, i32], None),
    "cutaway_blocks": ([pointer, i64, pointer, pointer, pointer, i32], None),
}


def load_library(folder: Path = Path(__file__).parent) -> tuple[ctypes.CDLL | None, str]:
    """The library, or None and the reason why there is none."""
    built = [path for suffix in EXTENSION_SUFFIXES if (path := folder / f"_native{suffix}").is_file()]
    if not built:
        others = sorted(path.name for path in folder.glob("_native.*"))
        if others:
            return None, f"built for another Python ({others[0]}); install cutaway again with this one"
        return None, "not built: the install found no C++ compiler with OpenMP"
    try:
        _require_whole(built[0])
        library = ctypes.CDLL(str(built[0]))
        for name, (arguments, result) in SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, result
    except (OSError, AttributeError) as error:  # damaged, another machine's, or an older build's
        return None, f"not usable ({error}); install cutaway again"
    return library, ""


def _require_whole(path: Path) -> None:
    """Raises OSError for an ELF file that ends before its table of sections: to load it would end the process."""
    with path.open("rb") as file:
        head = file.read(64)
    if len(head) == 64 and head[:6] == b"\x7fELF\x02\x01":  # 64 bits, little-endian
        table, size, count = struct.unpack_from("<Q", head, 40)[0], *struct.unpack_from("<HH", head, 58)
        if table + size * count > path.stat().st_size:
            raise OSError(f"{path}: ends too early")


LIBRARY, MISSING = load_library()
compute_alone_after_fork()
hold_freed_memory()


def isas() -> list[str]:
    """Instruction sets that this machine can run, the fastest first; none without the library."""
    names = []
    while LIBRARY and (name := LIBRARY.cutaway_isa_name(len(names))) is not None:
        names.append(name.decode())
    return [name for name in names if name]


def isa() -> str:
    """The instruction set that runs; empty without the library."""
    return LIBRARY.cutaway_isa().decode() if LIBRARY else ""


def engine() -> str:
    """What computes 8-bit layers on a CPU, in words: "native C++ with AVX-512 VNNI", or torch, and why."""
    if LIBRARY is None:
        return f"torch, as the native library is {MISSING}"
    return f"native C++ with {WORDS.get(isa(), isa())}" if isa() != "portable" else "portable native C++"


def use_isa(name: str | None) -> None:
    """Run this instruction set from now on, in the whole process; None: the fastest again. Raises BadArgument."""
    done = LIBRARY.cutaway_use_isa(name and name.encode()) if LIBRARY else name is None
    if not done:
        expected = ", ".join(isas()) or f"none: the native library is {MISSING}"
        raise BadArgument(f"the instruction set {name!r}", expected, "choose one of native.isas()")
