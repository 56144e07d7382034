"""Instructions that Python has no word for, for use inside compiled code: single ones, and those on many voxels.

Vectors are written as such in LLVM's language, which every processor runs, those with wide registers at their width.
None of them looks whether its voxels lie inside the array.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
"""voxels that `stretch_statistics` reads"""

_BYTE, _WORD, _DOUBLE = ir.IntType(8), ir.IntType(32), ir.DoubleType()


@intrinsic
def prefetch(_context: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of array[index], to write to it soon; the index must lie inside."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        pointer = builder.bitcast(builder.gep(data, [arguments[1]]), _BYTE.as_pointer())
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [pointer.type, _WORD, _WORD, _WORD]),
            "llvm.prefetch.p0",
        )
        builder.call(function, [pointer, _WORD(1), _WORD(2), _WORD(1)])
        return context.get_dummy_value()

    return types.void(array, index), generate


@intrinsic
def trailing_zeros(_context: Any, value: Any) -> Any:
    """Number of zero bits below the lowest set bit of an unsigned 64-bit integer; 64 of 0."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), generate


@intrinsic
def count_ones(_context: Any, value: Any) -> Any:
    """Number of set bits of an unsigned 64-bit integer."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


@intrinsic
def above_64(_context: Any, array: Any, index: Any, limit: Any) -> Any:
    """64 bits: whether array[index + k] > limit, k from the lowest bit on. Unsigned integers or floats."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = _load(context, builder, signature.args[0], arguments[0], arguments[1], 64)
        limits = _spread(builder, arguments[2], 64)
        greater = builder.fcmp_ordered if isinstance(array.dtype, types.Float) else builder.icmp_unsigned
        return builder.bitcast(greater(">", values, limits), ir.IntType(64))

    return types.uint64(array, types.uint64, array.dtype), generate


@intrinsic
def unequal_64(_context: Any, array: Any, index: Any, other: Any) -> Any:
    """64 bits: whether array[index + k] and array[other + k] differ, k from the lowest bit on. Integers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        here = _load(context, builder, signature.args[0], arguments[0], arguments[1], 64)
        there = _load(context, builder, signature.args[0], arguments[0], arguments[2], 64)
        return builder.bitcast(builder.icmp_unsigned("!=", here, there), ir.IntType(64))

    return types.uint64(array, types.uint64, types.uint64), generate


@intrinsic
def stretch_statistics(_context: Any, array: Any, index: Any, begin: Any, end: Any) -> Any:
    """Sum, sum of squares, lowest and highest of array[index + k] for begin <= k < end, out of 0 <= k < LANES, float64.

    Unsigned integers or floats. All LANES voxels are read, and the time is that of all, without a branch.
    """
    doubles = ir.VectorType(_DOUBLE, LANES)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = _load(context, builder, signature.args[0], arguments[0], arguments[1], LANES)
        is_float = isinstance(array.dtype, types.Float)
        values = builder.fpext(values, doubles) if is_float else builder.uitofp(values, doubles)
        lanes = ir.Constant(ir.VectorType(_WORD, LANES), list(range(LANES)))
        from_lane, to_lane = (_spread(builder, builder.trunc(lane, _WORD), LANES) for lane in arguments[2:])
        inside = builder.and_(builder.icmp_signed(">=", lanes, from_lane), builder.icmp_signed("<", lanes, to_lane))

        def kept(otherwise: float) -> Any:
            return builder.select(inside, values, ir.Constant(doubles, [otherwise] * LANES))

        def lower(a: Any, b: Any) -> Any:
            return builder.select(builder.fcmp_ordered("<", a, b), a, b)

        def higher(a: Any, b: Any) -> Any:
            return builder.select(builder.fcmp_ordered(">", a, b), a, b)

        inner = kept(0.0)
        parts = [
            _folded(builder, inner, builder.fadd),
            _folded(builder, builder.fmul(inner, inner), builder.fadd),
            _folded(builder, kept(float("inf")), lower),
            _folded(builder, kept(float("-inf")), higher),
        ]
        return context.make_tuple(builder, signature.return_type, parts)

    return types.UniTuple(types.float64, 4)(array, types.uint64, types.int64, types.int64), generate


def _load(context: Any, builder: Any, kind: Any, array: Any, index: Any, count: int) -> Any:
    """`count` entries of a contiguous array, as a vector."""
    data = context.make_array(kind)(context, builder, array).data
    entry = context.get_data_type(kind.dtype)
    pointer = builder.bitcast(builder.gep(data, [index]), ir.VectorType(entry, count).as_pointer())
    return builder.load(pointer, align=kind.dtype.bitwidth // 8)


def _spread(builder: Any, value: Any, count: int) -> Any:
    """A vector of `count` times the value."""
    nothing = ir.Constant(ir.VectorType(value.type, count), ir.Undefined)
    first = builder.insert_element(nothing, value, _WORD(0))
    return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(_WORD, count), [0] * count))


def _folded(builder: Any, vector: Any, both: Callable[[Any, Any], Any]) -> Any:
    """A vector made one number: its halves are taken together until one is left."""
    count = vector.type.count
    while count > 1:
        count //= 2
        low, high = (ir.Constant(ir.VectorType(_WORD, count), list(range(at, at + count))) for at in (0, count))
        vector = both(*(builder.shuffle_vector(vector, vector, lanes) for lanes in (low, high)))
    return builder.extract_element(vector, _WORD(0))
