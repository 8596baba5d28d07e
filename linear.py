"""Products with a weight, x W^T + b: torch's own, but oneDNN's for float32 on an AMD processor with AVX-512.

There torch asks MKL, which has AVX-512 for Intel's processors only: on an AMD EPYC of 2024 it reaches 0.45 of oneDNN's
rate. On an Intel Xeon of 2023 the two are alike in large products and MKL is quicker in small ones. In bfloat16 torch
asks oneDNN itself. oneDNN compiles its code anew for each shape, in about 0.4 ms, so a caller lets shapes come again.
The operator is the one that torch.compile uses for the CPU; it has no public name.
"""

import platform
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn


def vendor():
    """A line with the name of the CPU's maker."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next((line for line in lines if line.startswith("vendor_id")), "")
    except OSError:
        return platform.processor()


ONEDNN = (torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"
          and "AuthenticAMD" in vendor())
FEW = 16  # rows; fewer are quicker by MKL


def onednn(x, weight, bias=None):
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class Product(torch.autograd.Function):
    """x [..., in], weight [out, in], bias [out] or None -> [..., out], by oneDNN."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return onednn(x, weight, bias)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        x, flat = x.flatten(0, -2), grad.flatten(0, -2)
        # Of two transposed operands the first is copied: the narrower one.
        of_weight = onednn(flat.t(), x.t()) if len(weight) <= weight.shape[1] else onednn(x.t(), flat.t()).t()
        return onednn(grad, weight.t()), of_weight, flat.sum(0) if ctx.needs_input_grad[2] else None


def fits(x):
    return ONEDNN and x.is_cpu and x.dtype == torch.float32


def linear(x, weight, bias=None):
    """F.linear."""
    return Product.apply(x, weight, bias) if fits(x) else F.linear(x, weight, bias)


def product(weight, bias=None):
    """The function x [n, in] -> F.linear(x, weight, bias), for many calls without gradients: oneDNN gets a copy of the
    weight in the order that it reads."""
    if not fits(weight):
        return partial(F.linear, weight=weight, bias=bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, 64)
    return lambda x: onednn(x, packed, bias) if len(x) >= FEW else F.linear(x, weight, bias)


class Linear(nn.Linear):
    def forward(self, x):
        return linear(x, self.weight, self.bias)
