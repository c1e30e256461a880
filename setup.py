"""Build the Cython kernels in ``ext/`` into the package; the rest is in pyproject.toml."""

from Cython.Build import cythonize
from setuptools import Extension, setup

MODULES = {
    "triplex_deploy.tiles._kernels": "ext/_kernels.pyx",
    "triplex_deploy.slides._pixels": "ext/_pixels.pyx",
}
KERNELS = [
    Extension(
        name=name,
        sources=[source],
        include_dirs=["ext"],
        depends=["ext/copy_rows.h", "ext/rgb_rows.h"],
        extra_compile_args=["-O3"],
    )
    for name, source in MODULES.items()
]

setup(
    ext_modules=cythonize(
        KERNELS,
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
