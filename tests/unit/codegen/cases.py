"""Every operator on shapes that its kernel may treat differently."""

from __future__ import annotations

from knetc.ir.types import N
from knetc.values import Array, Bernoulli, Constant, Gaussian, GlorotUniform, Symbol, Uniform, Xavier

from .support import Case

FLIP, PLAIN = Symbol("CUDNN_CONVOLUTION"), Symbol("CUDNN_CROSS_CORRELATION")
POOLS = [
    Symbol("CUDNN_POOLING_MAX"),
    Symbol("CUDNN_POOLING_AVERAGE_COUNT_INCLUDE_PADDING"),
    Symbol("CUDNN_POOLING_AVERAGE_COUNT_EXCLUDE_PADDING"),
]

ELEMENTWISE = [
    *(Case(op, (d,)) for op in ("copy", "relu", "sigm", "tanh") for d in ((7, N), (3, 5, 2, N))),
    *(Case(op, ((6, N), (6, N))) for op in ("relu_back", "sigm_back", "tanh_back")),
    *(
        Case("axpb", ((7, N),), {"a": a, "p": p, "b": b})
        for a, p, b in [(1, 1, 0), (2, 1, -1), (-0.5, 2, 3), (1, -1, 0), (1, 0.5, 1e-3), (3, 1.7, 0), (2, 0, 1)]
    ),
    *(Case("axpb_back", ((7, N), (7, N)), {"a": a, "p": p}) for a, p in [(2, 2), (1, -1), (1.5, 0.5), (1, 3.2)]),
    Case("zeros", out=(3, N)),
]

BROADCAST = [
    Case(op, (a, b))
    for op in ("add", "mul")
    for a, b in [
        ((7, N), (7, N)),
        ((7, N), (7,)),
        ((7, 1), (7, N)),
        ((7, N), (1, N)),
        ((7, N), (1, 1)),
        ((4, 5, 3, N), (1, 1, 3, 1)),
        ((4, 5, 3, N), (4, 1, 3, 1)),
        ((1, 5, 1, N), (4, 1, 3, 1)),
        ((2, 3, 2, 3, N), (1, 1, 1, 3, 1)),
        ((3, 4), (3, 1)),
    ]
]

SUMS = [
    Case("sumto", (a,), out=b)
    for a, b in [
        ((7, N), (7,)),
        ((7, N), (7, 1)),
        ((7, N), (1, N)),
        ((7, N), (1, 1)),
        ((2000, N), (2000,)),
        ((4, 5, 3, N), (1, 1, 3, 1)),
        ((4, 5, 3, N), (4, 1, 3, 1)),
        ((4, 5, 3, N), (1, 5, 1, N)),
        ((2, 3, 2, 3, N), (1, 1, 1, 3, 1)),
    ]
]

DOT = [
    Case("dot", ((5, 7), (7, N))),
    Case("dot", ((5, 12), (2, 3, 2, N))),
    Case("dot", ((7, 5), (7, N)), {"ta": True}),
    Case("dot", ((5, N), (7, N)), {"tb": True}),
    Case("dot", ((7, 5), (9, 7)), {"ta": True, "tb": True}),
    Case("dot", ((12, 5), (12, N)), {"ta": True}, out=(5, N)),
    Case("dot", ((3, 4), (4,)), out=(3, 1)),  # a vector is a column
    Case("dot", ((5,), (N,)), out=(5, N)),  # or a row, where it is the batch
    Case("dot", ((5, N), (N,)), {"tb": True}, out=(5, 1)),
]

SOFT = [
    *(Case("soft", (d,)) for d in ((10, N), (1, N), (33, N), (700, N), (3, 4, 2, N))),
    *(Case("soft_back", (d, d)) for d in ((10, N), (300, N), (3, 4, 2, N))),
]

_CONVS = [
    ((3, 3, 2, 4), (8, 7, 2, N), {}),
    ((3, 2, 1, 3), (8, 7, 1, N), {"padding": (1, 0), "stride": (2, 1), "mode": PLAIN}),
    ((2, 3, 2, 2), (9, 9, 2, N), {"upscale": (2, 3), "stride": 2, "padding": 2}),
    ((2, 3, 2, 2, 3), (5, 6, 4, 2, N), {"stride": (1, 2, 1), "padding": (0, 1, 1)}),
]
CONV = []
for _w, _x, _attrs in _CONVS:
    _y = Case("conv", (_w, _x), _attrs)
    CONV.append(_y)

POOL = [
    Case("pool", (d,), {"window": w, "padding": p, "stride": s, "mode": mode})
    for mode in POOLS
    for d, w, p, s in [
        ((6, 8, 2, N), 2, 0, None),
        ((7, 6, 2, N), 2, 0, None),  # a last partial window
        ((7, 7, 1, N), 3, 1, 2),  # overlapping, padded
        ((8, 5, 2, N), (3, 2), (1, 0), (2, 2)),
        ((5, 5, 1, N), 2, 2, 3),  # windows of padding alone
        ((4, 5, 3, 2, N), 2, 0, None),
        ((4, 4, 4, 1, N), (2, 3, 2), (0, 1, 1), (2, 1, 3)),
    ]
]

RANDOM = [
    Case("rnd", attrs={"init": init, "dims": None}, out=out)
    for init in (Uniform(-1, 3), Gaussian(0.5, 2), Bernoulli(0.3, 2.5), Constant(1.25), Xavier())
    for out in ((5, N), (3, 2, 2, N))
] + [
    Case("rnd", attrs={"init": GlorotUniform(), "dims": None}, out=(4, 6)),
    Case("rnd", attrs={"init": Array.of((2, 2), [1.0, -2.5, 0.1, 4.0]), "dims": None}, out=(2, 2)),
]

BLOCKS = [
    Case("stack", ((3, N), (5, N), (3, N))),
    Case("stack", ((2, 4), (1, 4))),
    Case("stack", ((2, 3, 2, N), (4, 3, 2, N))),
    Case("rows", ((7, N),), {"first": 2, "count": 4}),
    Case("rows", ((7, 4),), {"first": 0, "count": 1}),
    Case("rows", ((5, 3, 2, N),), {"first": 3, "count": 2}),
]


def gradients() -> list[Case]:
    """The gradients of every convolution and pooling above."""
    from .support import result_dims

    found = []
    for case in CONV:
        w, x = case.dims
        y = result_dims(case)
        found.append(Case("conv_back_w", (x, y), case.attrs, out=w))
        found.append(Case("conv_back_x", (w, y), case.attrs, out=x))
    for case in POOL:
        (x,) = case.dims
        y = result_dims(case)
        found.append(Case("pool_back", (y, x, y), case.attrs, out=x))
        if case.attrs["mode"] == POOLS[0]:
            window = {key: value for key, value in case.attrs.items() if key != "mode"}
            found += [Case("winner", (x,), window), Case("unpool", (y, y), window, out=x)]
    return found


ALL = [*ELEMENTWISE, *BROADCAST, *SUMS, *DOT, *SOFT, *CONV, *POOL, *RANDOM, *BLOCKS, *gradients()]
