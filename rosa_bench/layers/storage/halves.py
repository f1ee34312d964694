"""A float32 tensor in two parts of 16 bits: the nearest bfloat16, which a forward pass reads, and what that lacks.

A method that draws again writes into the frozen weight: at each draw it adds what was trained and takes away what will
be trained next. In bfloat16 most of that would be rounded away. So a weight in bfloat16 keeps the other half of its
bits too. They are read and written at a draw alone, so they lie in the CPU's memory.

Memory of a weight of n = out x in elements: 2 n bytes on the device and 2 n in the CPU's memory, however often it is
drawn. Two other ways are worse. A bfloat16 remainder takes as much, and gives 16 of 24 significant bits. To keep the
weight as it was loaded, with all earlier factors beside it, takes 8 r (out + in) bytes more after each draw: 0.5 MB for
r = 8 and 4096 x 4096, so it is smaller for up to 64 draws. But these factors must lie on the device, each step must
multiply by them, and their growing shapes would end captured graphs and compiled code.

Source: Kalamkar et al., "Optimizing Deep Learning Recommender Systems' Training on CPU Cluster Architectures", arXiv
2005.04680 (Split-SGD-BF16). There the upper half is cut off. Here it is rounded, because a step reads it alone.
"""

from typing import NamedTuple

import torch
from jaxtyping import BFloat16, Float32, Int16
from torch import Tensor

BITS = 16


class Halves(NamedTuple):
    """A float32 tensor as the nearest bfloat16, and the bits that this lacks."""

    high: BFloat16[Tensor, "*n"]
    low: Int16[Tensor, "*n"]


def halves(wide: Float32[Tensor, "*n"]) -> Halves:
    """Split a float32 tensor without loss. A value halfway between two bfloat16 goes to the one farther from zero.

    Neighbouring floats of one sign are neighbouring integers, so the remainder is a difference of integers.
    """
    bits = wide.view(torch.int32)
    high = (bits + (1 << (BITS - 1))) >> BITS
    return Halves(high.to(torch.int16).view(torch.bfloat16), (bits - (high << BITS)).to(torch.int16))


def whole(high: BFloat16[Tensor, "*n"], low: Int16[Tensor, "*n"]) -> Float32[Tensor, "*n"]:
    """Return the float32 tensor that `halves` has split."""
    return ((high.view(torch.int16).to(torch.int32) << BITS) + low).view(torch.float32)
