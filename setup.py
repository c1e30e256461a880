"""Build the Cython tiling kernels in ``ext/`` into ``triplex_deploy.tiles``; the rest is in pyproject.toml."""

from Cython.Build import cythonize
from setuptools import Extension, setup

KERNELS = Extension(
    name="triplex_deploy.tiles._kernels",
    sources=["ext/_kernels.pyx"],
    extra_compile_args=["-O3"],
)

setup(
    ext_modules=cythonize(
        [KERNELS],
        build_dir="build",
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
        },
    ),
)
