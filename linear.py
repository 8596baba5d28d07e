"""Products with a weight, x W^T + b: torch's own, but oneDNN's for float32 on a CPU where it is quicker.

Torch asks MKL. On an AMD processor with AVX-512 that has none, and reaches 0.45 of oneDNN's rate (EPYC of 2024): there
all products go to oneDNN. Elsewhere the two are alike in large products and MKL is quicker in small ones (Xeon of
2023); but of few rows by a large weight, as in decoding, MKL spends most of the time on a copy of the weight, which
oneDNN can keep (896 x 9728 by 32 rows: 6.8 ms instead of 17.2, EPYC of 2021). In bfloat16 torch asks oneDNN itself.
oneDNN compiles its code anew for each shape, in about 0.4 ms, so a caller lets shapes come again. The operators are
those that torch.compile uses for the CPU; they have no public names.
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


X86 = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
ONEDNN = X86 and torch.backends.cpu.get_cpu_capability() == "AVX512" and "AuthenticAMD" in vendor()
LARGE = 2**19  # numbers in a weight
FEW = 16  # rows; fewer by a smaller weight are quicker by MKL


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


def is_large(weight):
    return X86 and weight.is_cpu and weight.dtype == torch.float32 and weight.numel() >= LARGE


def linear(x, weight, bias=None):
    """F.linear."""
    return Product.apply(x, weight, bias) if fits(x) else F.linear(x, weight, bias)


def product(weight, bias=None):
    """The function x [n, in] -> F.linear(x, weight, bias), for many calls without gradients: oneDNN gets a copy of the
    weight in the order that it reads."""
    large = is_large(weight)
    if not large and not fits(weight):
        return partial(F.linear, weight=weight, bias=bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, 64)
    return lambda x: onednn(x, packed, bias) if large or len(x) >= FEW else F.linear(x, weight, bias)


def addition(weight):
    """The function (x [n, out], y [n, in]) that adds F.linear(y, weight) to x in place, for as many calls."""
    if is_large(weight):
        multiply = product(weight)
        return lambda x, y: x.add_(multiply(y))
    turned = weight.t()
    return lambda x, y: x.addmm_(y, turned)


class Linear(nn.Linear):
    def forward(self, x):
        return linear(x, self.weight, self.bias)
