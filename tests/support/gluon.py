"""Runs the source of Gluon kernels on a CPU: values in torch, partitions as threads under an adversarial, seeded scheduler.

Triton has no interpreter for Gluon. This one knows what the Hopper kernels use and is as unkind as the hardware may be:
- one partition runs at a time and any ready one may be next; copies by TMA land at any later time and in any order;
- a tile is NaN from the moment a copy into it is issued until it lands, and so is all shared memory at the start;
- an asynchronous product reads its operands when it is issued or only when it is waited for;
- barriers count arrivals and bytes and know nothing but the parity of their phase.

So a wait on the wrong phase, a buffer released too early, a missing wait or fence and a deadlock become NaN or an error. What
it cannot see: warps of one partition apart from each other (tests/kernels/test_compile.py looks for their barriers in the
machine code), layouts, swizzles and the encoding of descriptors.
"""

from __future__ import annotations
import __future__

import random
import threading
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from support.gluon_memory import NAN, Barrier, Barriers, Flying, KernelFault, Pointer, Shared


class _Typed(Tensor):
    """A tensor whose `.type.layout` can be asked for."""

    type = types.SimpleNamespace(layout=None)


class Device:
    """One program at a time: its partitions, its copies in flight."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.copies: list[Callable[[], None]] = []
        self.stores: dict[int, list[Callable[[], None]]] = {}
        self.flying: dict[int, list[Flying]] = {}
        self.allocations: list[Shared] = []
        self.program = self.grid = (0, 0)

    def begin(self, program: tuple[int, int], grid: tuple[int, int]) -> None:
        """The next program, with shared memory of its own."""
        self.program, self.grid = program, grid
        self.flying.clear()
        self.allocations.clear()

    def specialize(self, functions: list[tuple[Callable[..., None], tuple[Any, ...]]], *_: Any) -> None:
        """Run the partitions, one at a time: each until it waits for a barrier, then any that may go on, or a copy lands."""
        partitions = [_Partition(self, function, arguments) for function, arguments in functions]
        self.partitions = {partition.thread: partition for partition in partitions}
        while any(not p.done for p in partitions):
            ready: list[Any] = [p for p in partitions if not p.done and p.condition()]
            choices = ready + self.copies
            if not choices:
                self._stop(partitions)
                raise KernelFault(f"deadlock: {[p.waiting for p in partitions if not p.done]}")
            chosen = self.random.choice(choices)
            if isinstance(chosen, _Partition):
                chosen.step()
                if chosen.error is not None:
                    self._stop(partitions)
                    raise chosen.error
            else:
                self.copies.remove(chosen)
                chosen()
        if self.copies:
            raise KernelFault("the program ended with copies in flight")

    def _stop(self, partitions: list[_Partition]) -> None:
        for partition in partitions:
            partition.abandon()

    def wait(self, barrier: Barrier, parity: int) -> None:
        partition = self.partitions[threading.current_thread()]
        partition.pause(lambda: barrier.passed(int(parity)), f"parity {parity}, {barrier.__dict__}")

    def issue_load(self, descriptor: Any, coordinates: list[int], barrier: Barrier, target: Shared) -> None:
        target.data.fill_(NAN)
        nbytes = target.data.numel() * target.data.element_size()

        def land() -> None:
            target.data.copy_(_box(descriptor, coordinates))
            barrier.change(0, -nbytes)

        self.copies.append(land)

    def issue_store(self, descriptor: Any, coordinates: list[int], source: Shared) -> None:
        data = source.for_async_proxy()

        def land() -> None:
            rows = min(data.size(0), descriptor.shape[0] - coordinates[0])
            if rows > 0:
                place = descriptor.base[coordinates[0] : coordinates[0] + rows]
                place[:, coordinates[1] : coordinates[1] + data.size(1)] = data[:rows]

        self.stores.setdefault(threading.get_ident(), []).append(land)

    def store_wait(self, pending: int) -> None:
        waiting = self.stores.pop(threading.get_ident(), [])
        for land in waiting:
            land()

    def multiply(self, a: Any, b: Shared, acc: Any, use_acc: bool = True, is_async: bool = False) -> Flying:
        assert is_async
        b.for_async_proxy()
        if isinstance(a, Shared):
            a.for_async_proxy()

        def compute() -> Tensor:
            left = (a.data if isinstance(a, Shared) else a).float()
            product = left @ b.data.float()
            return product + (acc.value if isinstance(acc, Flying) else acc) if use_acc else product

        flying = Flying(compute, self.random.random() < 0.5)
        self.flying.setdefault(threading.get_ident(), []).append(flying)
        return flying

    def multiply_wait(self, outstanding: int, deps: list[Any]) -> Any:
        queue = self.flying.get(threading.get_ident(), [])
        while len(queue) > outstanding:
            queue.pop(0).land()
        results = []
        for dep in deps:
            if isinstance(dep, Flying) and dep in queue:
                raise KernelFault("the result of an unfinished product was read")
            results.append(dep.value if isinstance(dep, Flying) else dep)
        return results[0] if len(results) == 1 else tuple(results)

    def fence(self) -> None:
        for allocation in self.allocations:
            allocation.unfenced.discard(threading.get_ident())


class _Partition:
    """A thread that runs between `step` and the next `pause`."""

    def __init__(self, device: Device, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self.device = device
        self.done = False
        self.waiting = "start"
        self.error: BaseException | None = None
        self.go = threading.Event()
        self.back = threading.Event()
        self.abandoned = False
        self.condition: Callable[[], bool] = lambda: True
        self.thread = threading.Thread(target=self._run, args=(function, arguments), daemon=True)
        self.thread.start()

    def _run(self, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self.go.wait()
        self.go.clear()
        try:
            if not self.abandoned:
                with torch.no_grad():
                    function(*arguments)
                if self.device.stores.get(threading.get_ident()):
                    raise KernelFault("a partition ended before its stores had read shared memory")
        except _Abandoned:
            pass
        except BaseException as error:  # it is raised again where the kernel was launched
            self.error = error
        self.done = True
        self.back.set()

    def step(self) -> None:
        self.go.set()
        self.back.wait()
        self.back.clear()

    def pause(self, condition: Callable[[], bool], waiting: str) -> None:
        self.condition, self.waiting = condition, waiting
        self.back.set()
        self.go.wait()
        self.go.clear()
        if self.abandoned:
            raise _Abandoned

    def abandon(self) -> None:
        if not self.done:
            self.abandoned = True
            self.step()


class _Abandoned(Exception):
    pass


def _box(descriptor: Any, coordinates: list[int]) -> Tensor:
    """A box of a tensor, zeros outside."""
    out = torch.zeros(descriptor.block_shape, dtype=descriptor.base.dtype)
    sizes = [max(0, min(b, n - c)) for b, n, c in zip(descriptor.block_shape, descriptor.shape, coordinates)]
    source, target = descriptor.base, out
    for dim, (size, begin) in enumerate(zip(sizes, coordinates)):
        source, target = source.narrow(dim, min(begin, source.size(dim)), size), target.narrow(dim, 0, size)
    target.copy_(source)
    return out


class Descriptor:
    """What a kernel sees of a host's TensorDescriptor."""

    def __init__(self, host: Any) -> None:
        self.base = host.base
        self.shape = host.shape
        self.block_shape = host.block_shape
        self.layout = host.layout
        self.dtype = host.base.dtype
        elements = torch.Size(host.block_shape).numel()
        self.block_type = types.SimpleNamespace(nbytes=elements * host.base.itemsize)


class Emulated:
    """A Gluon kernel that runs here: `Emulated(kernel)[grid](arguments)`; `edit` changes its source first (seeded bugs)."""

    def __init__(self, kernel: Any, seed: int = 0, edit: tuple[str, str] | None = None) -> None:
        self.kernel = kernel
        self.seed = seed
        self.edit = edit
        self.edits = 0

    def __getitem__(self, grid: tuple[int, int]) -> Callable[..., None]:
        def launch(*arguments: Any, num_warps: int = 4) -> None:
            device = Device(self.seed)
            run = self._bind(self.kernel, _names(device), {})
            seen = [Descriptor(a) if hasattr(a, "block_shape") else a for a in arguments]
            seen = [Pointer(a) if isinstance(a, Tensor) else a for a in seen]
            for x in range(grid[0]):
                for y in range(grid[1]):
                    device.begin((x, y), grid)
                    run(*seen)

        return launch

    def _bind(self, function: Any, names: dict[str, Any], done: dict[int, Any]) -> Any:
        """The Python function of a jit function, with everything it calls replaced by ours."""
        if id(function) in done:
            return done[id(function)]
        source, space = function.src, dict(function.fn.__globals__)
        if self.edit is not None:
            self.edits += source.count(self.edit[0])
            source = source.replace(*self.edit)
        for name in function.fn.__code__.co_names:
            value = space.get(name)
            if name in names:
                space[name] = names[name]
            elif type(value).__name__ == "GluonJITFunction":
                space[name] = self._bind(value, names, done)
            elif type(value).__name__ == "constexpr":
                space[name] = value.value
        flags = __future__.annotations.compiler_flag
        exec(compile(source, function.fn.__code__.co_filename, "exec", flags), space)
        done[id(function)] = space[function.fn.__name__]
        return done[id(function)]


def _scalar(x: Any) -> Any:
    return x.item() if isinstance(x, Tensor) and x.dim() == 0 else x


def _pairwise(of_numbers: Callable[..., Any], of_tensors: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    def call(a: Any, b: Any) -> Any:
        if not isinstance(a, Tensor) and not isinstance(b, Tensor):
            return of_numbers(a, b)
        return of_tensors(*(x if isinstance(x, Tensor) else torch.tensor(x) for x in (a, b)))

    return call


def _load(pointer: Pointer, mask: Any = None, other: float = 0.0) -> Tensor:
    flat, where, mask = pointer.place(mask)
    values = flat[where]
    return values if mask is None else torch.where(mask, values, other).to(values.dtype)


def _store(pointer: Pointer, value: Tensor, mask: Any = None) -> None:
    flat, where, mask = pointer.place(mask)
    where, value = torch.broadcast_tensors(where, value)
    keep = torch.ones_like(where, dtype=torch.bool) if mask is None else mask.expand_as(where)
    flat[where[keep]] = value[keep].to(flat.dtype)


def _names(device: Device) -> dict[str, Any]:
    """What the kernels' modules import, by the names they use."""

    def allocate(dtype: torch.dtype, shape: list[int], layout: Any) -> Any:
        if layout == "barriers":
            return Barriers(shape[0])
        device.allocations.append(Shared(torch.full(shape, NAN, dtype=dtype)))
        return device.allocations[-1]

    def init(barrier: Barrier, count: int) -> None:
        barrier.count = barrier.pending = count

    def split(x: Tensor) -> tuple[Tensor, Tensor]:
        return x[..., 0].as_subclass(_Typed), x[..., 1].as_subclass(_Typed)

    language = types.SimpleNamespace(
        float32=torch.float32, int64=torch.int64,
        program_id=lambda axis: device.program[axis], num_programs=lambda axis: device.grid[axis],
        load=_load, store=_store, allocate_shared_memory=allocate, warp_specialize=device.specialize,
        static_range=range, convert_layout=lambda x, layout: x,
        arange=lambda a, b, layout=None: torch.arange(a, b),
        zeros=lambda shape, dtype, layout: torch.zeros(shape, dtype=dtype),
        minimum=_pairwise(min, torch.minimum), maximum=_pairwise(max, torch.maximum), where=torch.where,
        max=lambda x, axis: _scalar(x.amax(axis)), min=lambda x, axis: _scalar(x.amin(axis)),
        sum=lambda x, axis: x.sum(axis), exp2=torch.exp2, log2=torch.log2,
        permute=lambda x, order: x.permute(order), reshape=lambda x, shape: x.reshape(shape),
        join=lambda a, b: torch.stack((a, b), -1), split=split,
        SliceLayout=lambda *_: None, BlockedLayout=lambda *_: None, DotOperandLayout=lambda *_: None,
        constexpr=int,
    )  # fmt: skip
    barrier = types.SimpleNamespace(
        init=init, MBarrierLayout=lambda: "barriers", wait=device.wait,
        expect=lambda b, nbytes: b.change(0, nbytes) or b.change(1, 0),
        arrive=lambda b, count: b.change(count, 0),
    )  # fmt: skip
    copies = types.SimpleNamespace(
        async_copy_global_to_shared=device.issue_load, async_copy_shared_to_global=device.issue_store,
        store_wait=device.store_wait,
    )  # fmt: skip
    return {
        "gl": language, "mbarrier": barrier, "tma": copies, "warpgroup_mma": device.multiply,
        "warpgroup_mma_wait": device.multiply_wait, "fence_async_shared": device.fence,
        "product_layout": lambda columns: None, "thread_barrier": lambda: None,
    }  # fmt: skip
