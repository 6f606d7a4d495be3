"""This module is the innermost step of the blend, eight pixels of one splat at once, as vector instructions.

Numba does not make vectors of a loop that stores to four rows which might overlap, so the step is written in LLVM's
language. It has no branch: what is hidden, finished, beyond the Gaussian's reach or outside the image gets a weight
of 0. LLVM makes of it what the processor has (AVX, SSE, NEON).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

from twin.render import interface

LANES = 8
_PLANES = 5
_INT = ir.IntType(32)
_MASK = ir.IntType(LANES)
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_FAST = ("fast",)
_EXP = (1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0)
"""Coefficients of the exponential's series, highest power first."""


@intrinsic
def composite(
    typing: Any,
    canvas: Any,
    y: Any,
    x: Any,
    offset: Any,
    square: Any,
    slope: Any,
    level: Any,
    opacity: Any,
    depth: Any,
    red: Any,
    green: Any,
    blue: Any,
    stop: Any,
) -> tuple[Signature, Callable[..., ir.Value]]:
    """Adds one splat to pixels `x` to `x + 7` of row `y` of a canvas (H, 5, W + 8): r g b transmittance limit.

    With d = `offset`, `offset` + 1, … the splat's opacity in a pixel is `opacity` exp(`square` d^2 + `slope` d +
    `level`), to 1e-5. It shows where that is at least 1/255, `depth` nearer than the limit and the transmittance above
    `stop`.

    Returns bits as int32: 0 to 7 tell which pixels are finished now, 8 to 15 where the transmittance crossed one half.
    """
    signature = types.int32(canvas, y, x, *[types.float32] * 10)
    return signature, _generate


def _generate(context: Any, builder: ir.IRBuilder, signature: Signature, arguments: Sequence[ir.Value]) -> ir.Value:
    canvas, y, x, *numbers = arguments
    rows = [_pixels(context, builder, signature.args[0], canvas, (y, plane, x)) for plane in range(_PLANES)]
    offset, square, slope, level, opacity, depth, red, green, blue, stop = (_spread(builder, n) for n in numbers)

    def add(a: ir.Value, b: ir.Value) -> ir.Value:
        return builder.fadd(a, b, flags=_FAST)

    def times(a: ir.Value, b: ir.Value) -> ir.Value:
        return builder.fmul(a, b, flags=_FAST)

    def is_(a: ir.Value, relation: str, b: ir.Value) -> ir.Value:
        return builder.fcmp_ordered(relation, a, b)

    through, limit = builder.load(rows[3], align=4), builder.load(rows[4], align=4)
    d = add(offset, ir.Constant(_VECTOR, [float(lane) for lane in range(LANES)]))
    exponent = add(times(add(times(square, d), slope), d), level)
    exponent = builder.select(is_(exponent, ">", _constant(-20)), exponent, _constant(-20))
    # the series at a sixteenth of the exponent, squared four times
    sixteenth = times(exponent, _constant(1 / 16))
    power = _constant(_EXP[0])
    for coefficient in _EXP[1:]:
        power = add(times(power, sixteenth), _constant(coefficient))
    for _ in range(4):
        power = times(power, power)
    alpha = times(opacity, power)
    alpha = builder.select(is_(alpha, "<", _constant(interface.DENSEST)), alpha, _constant(interface.DENSEST))
    seen = builder.and_(is_(alpha, ">=", _constant(1 / 255)), is_(through, ">", stop))
    seen = builder.and_(seen, is_(depth, "<", limit))
    weight = builder.select(seen, times(alpha, through), _constant(0))
    left = builder.fsub(through, weight, flags=_FAST)
    for row, colour in zip(rows, (red, green, blue), strict=False):
        builder.store(add(builder.load(row, align=4), times(weight, colour)), row, align=4)
    builder.store(left, rows[3], align=4)
    half = _constant(0.5)
    finished = builder.and_(seen, is_(left, "<=", stop))
    halved = builder.and_(is_(through, ">", half), is_(left, "<=", half))
    return builder.or_(_bits(builder, finished), builder.shl(_bits(builder, halved), _INT(LANES)))


def _pixels(
    context: Any, builder: ir.IRBuilder, kind: types.Array, canvas: ir.Value, index: tuple[ir.Value, int, ir.Value]
) -> ir.Value:
    """Returns the address of eight pixels of one plane."""
    y, plane, x = index
    array = context.make_array(kind)(context, builder, canvas)
    places = [y, context.get_constant(types.uint64, plane), x]
    return builder.bitcast(cgutils.get_item_pointer(context, builder, kind, array, places), _VECTOR.as_pointer())


def _constant(number: float) -> ir.Value:
    return ir.Constant(_VECTOR, [float(np.float32(number))] * LANES)


def _spread(builder: ir.IRBuilder, number: ir.Value) -> ir.Value:
    """Repeats a number in every lane."""
    empty = ir.Constant(_VECTOR, ir.Undefined)
    return builder.shuffle_vector(
        builder.insert_element(empty, number, _INT(0)), empty, ir.Constant(ir.VectorType(_INT, LANES), [0] * LANES)
    )


def _bits(builder: ir.IRBuilder, lanes: ir.Value) -> ir.Value:
    """Packs one bit a lane, the lowest first."""
    return builder.zext(builder.bitcast(lanes, _MASK), _INT)
