"""The native library of cutaway.quant.kernels: plain C++ behind a C interface, loaded with ctypes.

Everything else about the package stands in pyproject.toml. Without a compiler the install still succeeds.
"""

from glob import glob

from setuptools import Extension, setup

FOLDER = "src/cutaway/quant/kernels/"

setup(
    ext_modules=[
        Extension(
            "cutaway.quant.kernels._native",
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
    ]
)
