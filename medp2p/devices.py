"""Where networks run, and in which precision."""

from __future__ import annotations

import ctypes
import platform
from typing import Literal

import torch

from medp2p.errors import MedP2PError
from medp2p.networks.inference import bf16_is_fast

Precision = Literal["auto", "fp32", "bf16"]

_FUNCTIONS_OF_MKL = (
    *(torch.acos, torch.asin, torch.atan, torch.cos, torch.sin, torch.tan, torch.tanh),
    *(torch.erf, torch.erfc, torch.erfinv, torch.exp, torch.log, torch.log10, torch.log2),
    *(torch.sqrt, torch.trunc),
)
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_MOST_KEPT_BYTES = 2**31 - 1


def choose_device(name: str) -> torch.device:
    """Return the named device, ready to compute; ``"auto"`` is the first GPU, or the CPU.

    Raises:
        MedP2PError: If there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps"):
            raise RuntimeError(f"{device.type} computes nothing")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise MedP2PError(
            f"device {name!r} is not available here; use --device cpu, or auto"
        ) from error
    _settle_functions_of_mkl()
    return device


def _settle_functions_of_mkl() -> None:
    """Call each function once, from one thread.

    At a function's first call MKL chooses its kernel. Threads that make that call together may
    compute their parts with a kernel of low accuracy, 9e-5 off for the tanh of a prediction
    (https://github.com/pytorch/pytorch/issues/188792).
    """
    for dtype in (torch.float32, torch.float64):
        for function in _FUNCTIONS_OF_MKL:
            function(torch.ones(1, dtype=dtype))


def resolve_precision(precision: Precision, device: torch.device) -> Literal["fp32", "bf16"]:
    """Choose bf16 for ``"auto"`` where the device multiplies in it natively, else fp32."""
    if precision != "auto":
        return precision
    return "bf16" if bf16_is_fast(device) else "fp32"


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, up to 2 GiB, for what comes next.

    For processes that compute networks on the CPU: a layer's activations are tens of megabytes,
    which glibc otherwise gets from the system, page by page, and gives back each time
    (``mallopt(3)``). Without effect where the C library is another one.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT_BYTES)
