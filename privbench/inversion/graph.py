"""A tensor function as a flat graph: recorded once, cleaned, constants computed once, products sent to fast kernels.

`torch.compile` refuses double backward through autograd; nested `torch.func` transforms record as plain tensor operations,
which can then be run without autograd, compiled, or replayed as a CUDA graph.
"""

import hashlib
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, fx

__all__ = ["Recorded", "compile_recorded", "is_compiled", "record"]

_SMALLEST_PRODUCT = 1_000_000
"""Multiply-adds from which a product is worth another kernel."""
_SMALLEST_OF_A_STACK = 4_000_000
"""The same of each product of a stack: the products of several victims with a weight are larger, those of attention smaller."""
_WIDE_FAMILY = 26
"""Of AMD's processors: the first with multipliers of 512 bits."""

_aten = torch.ops.aten

_ALONE = threading.Lock()
"""Neither the recorder nor the compiler is thread-safe, and groups on several GPUs have a thread each."""


class Recorded:
    """A function of tensors whose constant part has been computed.

    Args:
        module: The graph; its inputs are the hoisted constants, then the variables.
        constants: Values of the hoisted constants.
    """

    def __init__(self, module: fx.GraphModule, constants: list[Tensor]) -> None:
        self.module = module
        self.constants = constants

    def __call__(self, *variables: Tensor) -> tuple[Tensor, ...]:
        """Runs the graph operation by operation."""
        result: tuple[Tensor, ...] = self.module(*self.constants, *variables)
        return result

    @property
    def operations(self) -> int:
        """Number of operations that one run takes."""
        return sum(node.op == "call_function" for node in self.module.graph.nodes)

    @property
    def identity(self) -> str:
        """Hash of what the compiler would see: operations, shapes, versions, threads."""
        inputs = [
            (tuple(value.shape), value.stride(), str(value.dtype), str(value.device))
            for node in self.module.graph.nodes
            if node.op == "placeholder" and isinstance(value := node.meta.get("val"), Tensor)
        ]
        seen = f"{torch.__version__}|{torch.get_num_threads()}|{inputs}|{self.module.code}"
        return hashlib.sha256(seen.encode()).hexdigest()[:24]


def record(function: Callable[..., tuple[Tensor, ...]], constants: Sequence[Tensor], variables: Sequence[Tensor]) -> Recorded:
    """Runs a function once and keeps what it did to tensors.

    Args:
        function: Of `(*constants, *variables)`; no control flow that depends on values.
        constants: Arguments that stay the same at every call.
        variables: Arguments of the shapes of later calls.

    Returns:
        The same function of the variables.
    """
    from torch.fx.experimental.proxy_tensor import make_fx  # what it takes with it is a second

    with torch.no_grad(), _ALONE:
        module = make_fx(torch.func.functionalize(function))(*constants, *variables)
        module = _cleaned(module)
        if _slow_products(variables[0].device):
            _exchange_products(module.graph)
        return _hoisted(module, list(constants))


def _cleaned(module: fx.GraphModule) -> fx.GraphModule:
    """Without identities, repetitions and dead ends."""
    from torch.fx.passes.dialect.common.cse_pass import CSEPass

    for node in list(module.graph.nodes):
        if node.target in (_aten.alias.default, _aten.detach.default):
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    result = CSEPass()(module)
    cleaned: fx.GraphModule = module if result is None else result.graph_module
    cleaned.graph.eliminate_dead_code()
    cleaned.recompile()
    return cleaned


def _shape(node: fx.Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else ()


# Matrix products


@cache
def _slow_products(device: torch.device) -> bool:
    """Whether torch's float32 matrix product has half of the processor's rate.

    MKL, which computes it, keeps to AVX2 on processors that are not Intel's; oneDNN does not. AMD's add 512 bits in one cycle
    from family 26 (Zen 5) on; before that AVX512 is no faster than AVX2 (docs/research/benchmarks.md).
    """
    onednn = cast(Any, torch.backends.mkldnn).is_available()
    if device.type != "cpu" or not onednn or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    described = Path("/proc/cpuinfo")
    return described.exists() and _is_wide_amd(described.read_text(encoding="utf-8", errors="replace"))


def _is_wide_amd(described: str) -> bool:
    """Whether the text of `/proc/cpuinfo` is of a processor of AMD's, family 26 or later."""
    family = re.search(r"^cpu family\s*:\s*(\d+)", described, re.MULTILINE)
    return "AuthenticAMD" in described and family is not None and int(family[1]) >= _WIDE_FAMILY


def _by_stride(matrix: Tensor) -> Tensor:
    """OneDNN falls back to a reference loop for strides that are neither those of a matrix nor of its transpose."""
    rows, columns = matrix.shape
    return matrix if matrix.stride() in ((columns, 1), (1, rows)) else matrix.contiguous()


def _product(left: Tensor, right: Tensor) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(_by_stride(left), _by_stride(right).t(), None, "none", [], "")
    return result


def _products(left: Tensor, right: Tensor) -> Tensor:
    result = left.new_empty(left.shape[0], left.shape[1], right.shape[2])
    for index in range(len(left)):
        result[index] = _product(left[index], right[index])
    return result


def _product_shape(left: Tensor, right: Tensor) -> Tensor:
    return left.new_empty(*left.shape[:-1], right.shape[-1])


# Operators of our own, so that neither the recorder nor the compiler looks inside.
_LIBRARY = cast(Any, torch.library).Library("privbench", "DEF")
for _name, _function in (("product", _product), ("products", _products)):
    _LIBRARY.define(f"{_name}(Tensor left, Tensor right) -> Tensor")
    _LIBRARY.impl(_name, _function, "CPU")
    _LIBRARY.impl(_name, _product_shape, "Meta")


def _exchange_products(graph: fx.Graph) -> None:
    """Sends float32 products of some size to oneDNN: the same numbers to rounding, in about half the time.

    Stacks of small products stay: one call of MKL takes all, where oneDNN takes them one by one.
    """
    kernels = {
        _aten.mm.default: (torch.ops.privbench.product.default, _SMALLEST_PRODUCT),
        _aten.addmm.default: (torch.ops.privbench.product.default, _SMALLEST_PRODUCT),
        _aten.bmm.default: (torch.ops.privbench.products.default, _SMALLEST_OF_A_STACK),
    }
    for node in list(graph.nodes):
        kernel, smallest = kernels.get(node.target, (None, 0))
        if kernel is None or node.kwargs or node.meta["val"].dtype != torch.float32:
            continue
        *bias, left, right = node.args
        rows, inner = _shape(left)[-2:]
        if rows * inner * _shape(right)[-1] < smallest:
            continue
        with graph.inserting_before(node):
            exchanged = graph.call_function(kernel, (left, right))
            exchanged.meta["val"] = node.meta["val"]
            if bias:
                exchanged = graph.call_function(_aten.add.Tensor, (exchanged, bias[0]))
                exchanged.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(exchanged)
        graph.erase_node(node)


# Constants


def _hoisted(module: fx.GraphModule, constants: list[Tensor]) -> Recorded:
    """Computes once what does not depend on the variables."""
    graph = module.graph
    constant: set[fx.Node] = set()
    inputs = 0
    for node in graph.nodes:
        if node.op == "placeholder":
            if inputs < len(constants):
                constant.add(node)
            inputs += 1
        elif node.op == "get_attr" or (
            node.op == "call_function"
            and torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ())
            and all(argument in constant for argument in node.all_input_nodes)
        ):
            constant.add(node)
    needed = [
        node
        for node in graph.nodes
        if node in constant
        and isinstance(node.meta.get("val"), Tensor | None)
        and any(user not in constant for user in node.users)
    ]
    values = _constant_values(module, constant, needed, constants)
    first = next(iter(graph.nodes))
    for node in needed:
        with graph.inserting_before(first):
            given = graph.placeholder(f"constant_{node.name}")
        given.meta = dict(node.meta)
        node.replace_all_uses_with(given, delete_user_cb=lambda user: user not in constant)
    for node in reversed(list(graph.nodes)):
        if node in constant and not node.users:
            graph.erase_node(node)
    graph.lint()
    return Recorded(fx.GraphModule(torch.nn.Module(), graph), values)


def _constant_values(
    module: fx.GraphModule, constant: set[fx.Node], needed: list[fx.Node], constants: list[Tensor]
) -> list[Tensor]:
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in module.graph.nodes:
        if node in constant:
            copies[node] = graph.node_copy(node, lambda old: copies[old])
    graph.output(tuple(copies[node] for node in needed))
    values: tuple[Tensor, ...] = fx.GraphModule(module, graph)(*constants)
    return list(values)


# Compilation

_COMPILED: dict[str, Callable[..., Sequence[Tensor]]] = {}
"""What this process has compiled, by identity: the next group of a case has other constants and the same graph."""


def is_compiled(recorded: Recorded) -> bool:
    """Whether this process has compiled the graph."""
    return recorded.identity in _COMPILED


def compile_recorded(recorded: Recorded, variables: Sequence[Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    """Compiles with inductor; what it makes is kept on disk and found again by later processes.

    Args:
        recorded: What to compile.
        variables: Arguments of the shapes of later calls.

    Returns:
        The same function of the variables.

    Raises:
        RuntimeError: The compiler failed, or there is none.
    """
    with _ALONE:
        compiled = _COMPILED.get(recorded.identity)
        if compiled is None:
            compiled = _COMPILED[recorded.identity] = _compiled(recorded, variables)

    def run(*arguments: Tensor) -> tuple[Tensor, ...]:
        return tuple(compiled(*recorded.constants, *arguments))

    return run


def _compiled(recorded: Recorded, variables: Sequence[Tensor]) -> Callable[..., Sequence[Tensor]]:
    import torch._inductor as inductor

    with torch.no_grad(), _kept_cache():
        try:
            compiled: Callable[..., Sequence[Tensor]] = inductor.compile(recorded.module, [*recorded.constants, *variables])
            compiled(*recorded.constants, *variables)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise RuntimeError(f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"[:300]) from error
    return compiled


def _cache_folder() -> Path:
    given = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(given) if given else base / "privbench" / "inductor"


@contextmanager
def _kept_cache() -> Iterator[None]:
    """Lets inductor keep its cache where it outlives a reboot, unless the user chose a place; keeps its logger quiet."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    logger = logging.getLogger("torch.utils.cpp_extension")  # says at every compilation that there is no CUDA
    level = logger.level
    logger.setLevel(logging.ERROR)
    before = os.environ.get(name)
    os.environ[name] = str(_cache_folder())
    try:
        yield
    finally:
        logger.setLevel(level)
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before
