"""Whether torch can compile C++ on this machine, and how vLLM does without.

vLLM lets torch compile its sampler on a CPU (``v1/sample/ops/topk_topp_sampler.py`` and ``logprobs.py``). Where that
fails the engine dies of the first request that is sampled, so it must be known before.
"""

import os
import shutil
import sysconfig
from pathlib import Path


def can_compile(compiler: str | None = None, headers: Path | None = None) -> bool:
    """Whether the compiler and the Python headers are where torch looks for them.

    ``compiler``: by default ``$CXX``, else ``g++`` (``torch/_inductor/config.py``, ``cpp.cxx``). ``headers``: the
    folder of ``Python.h``, by default this Python's (``torch/_inductor/cpp_builder.py``).
    """
    compiler = compiler or os.environ.get("CXX", "g++")
    headers = headers or Path(sysconfig.get_path("include"))
    return shutil.which(compiler) is not None and (headers / "Python.h").is_file()


def do_without() -> None:
    """Keep torch from compiling in this process and those it starts; vLLM then samples with torch's own operators."""
    os.environ["TORCH_COMPILE_DISABLE"] = "1"
