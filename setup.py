"""The native library of cutaway.quant.native: plain C++ behind a C interface, loaded with ctypes.

Everything else about the package stands in pyproject.toml. Without a compiler the install still succeeds, and says so.
"""

import sys
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FOLDER = "src/cutaway/quant/native/cpp/"


class BuildAndSay(build_ext):
    """Builds the library where it can, and says which path cutaway will run (pip shows it with -v)."""

    def run(self):
        super().run()
        for name in (extension.name for extension in self.extensions):
            built = (
                Path(self.get_ext_fullpath(name)).is_file()
                or (Path(self.build_lib) / self.get_ext_filename(name)).is_file()
            )
            path = "native C++" if built else "torch, several times slower: no C++ compiler with OpenMP was found"
            sys.stderr.write(f"cutaway: 8-bit layers will run on {path}\n")


setup(
    cmdclass={"build_ext": BuildAndSay},
    ext_modules=[
        Extension(
            "cutaway.quant.native._native",
            sources=sorted(glob(FOLDER + "*.cpp")),
            depends=sorted(glob(FOLDER + "*.h")),
            # No -march: each path names its own instructions. No contraction: the same float order on every path.
            extra_compile_args=[
                "-O3",
                "-std=c++17",
                "-fopenmp",
                "-fvisibility=hidden",
                "-ffp-contract=off",
                "-fno-math-errno",
                "-fno-trapping-math",
                "-Wno-psabi",  # vectors by value stay inside one file
                "-Wno-uninitialized",  # false alarms from the compiler's own intrinsics
                "-Wno-maybe-uninitialized",
            ],
            extra_link_args=["-fopenmp"],
            language="c++",
            optional=True,
        )
    ],
)
