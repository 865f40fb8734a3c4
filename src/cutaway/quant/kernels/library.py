"""The native library, loaded with ctypes if it was built, and the choice of its instruction path.

It does not know what its functions compute; whoever calls them declares their arguments here.
"""

import ctypes
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch  # noqa: F401  first: it brings the OpenMP runtime that the library then shares

from cutaway.ground.errors import BadArgument
from cutaway.quant.kernels.fork import compute_alone_after_fork

pointer, i64, i32, f32 = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_float
BODY = ctypes.CFUNCTYPE(None)
SIGNATURES = {
    "cutaway_path_name": ([i32], ctypes.c_char_p),
    "cutaway_path": ([], ctypes.c_char_p),
    "cutaway_force": ([ctypes.c_char_p], i32),
    "cutaway_linear": ([pointer, pointer, pointer, i64, pointer, i32, i32, pointer, pointer, f32, pointer, i32], None),
    "cutaway_shift": ([pointer, i64, i64, pointer, i32], None),
    "cutaway_norm": ([pointer, pointer, pointer, f32, i64, i64, pointer, pointer, pointer, i32], None),
    "cutaway_rotate": ([pointer, pointer, pointer, i64, i64, i64, i64, i64, i64, pointer, i32], None),
    "cutaway_silu_mul": ([pointer, pointer, i64, i64, i64, i64, pointer, i32], None),
    "cutaway_attend_one": ([pointer, i32], None),
    "cutaway_attend_open": ([pointer, i32], None),
    "cutaway_attention_step": ([pointer] * 7 + [i64, pointer, pointer, i32], None),
    "cutaway_blocks": ([pointer, i64] + [pointer] * 4 + [i64, pointer, pointer, i32], None),
    "cutaway_stretch": ([pointer, i64], pointer),
    "cutaway_forget": ([pointer], None),
    "cutaway_together": ([BODY, i32], None),
}


def load_library() -> tuple[ctypes.CDLL | None, str]:
    """The library, or None and the reason why there is none."""
    built = [p for s in EXTENSION_SUFFIXES if (p := Path(__file__).with_name("_native" + s)).is_file()]
    if not built:
        return None, "not built: the install found no C++ compiler with OpenMP"
    try:
        library = ctypes.CDLL(str(built[0]))
        for name, (arguments, result) in SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, result
    except (OSError, AttributeError) as error:  # another machine's, or an older build's
        return None, f"not usable: {error}"
    return library, ""


LIBRARY, MISSING = load_library()
compute_alone_after_fork()


def paths() -> list[str]:
    """Instruction paths that this machine can run, the fastest first; none without the library."""
    names = []
    while LIBRARY and (name := LIBRARY.cutaway_path_name(len(names))) is not None:
        names.append(name.decode())
    return [name for name in names if name]


def path() -> str:
    """The path that runs; empty without the library."""
    return LIBRARY.cutaway_path().decode() if LIBRARY else ""


def force(name: str | None) -> None:
    """Run this path from now on, in the whole process; None: the fastest again. Raises BadArgument for another."""
    done = LIBRARY.cutaway_force(name and name.encode()) if LIBRARY else name is None
    if not done:
        expected = ", ".join(paths()) or f"none: the native library is {MISSING}"
        raise BadArgument(f"the instruction path {name!r}", expected, "force one of kernels.paths()")
