"""A network as the list of its calls: it is run once, and every function of torch that meets a value which depends
on the input is recorded, with the module call it happened in.

What runs is a shadow of the network, in evaluation mode. In-place operations are made pure, so that each recorded
value stays what it was. A value is kept unless it is cheap to compute again, as that of a ReLU.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from klrp.errors import KlrpError
from klrp.network import taken_apart, vocabulary
from klrp.network.builders import Traced
from klrp.network.calls import Call, Frame, Key, input_key, leaves, line_of_user, mapped, recomputable, tensors_of
from klrp.network.purity import made_pure, on_copies, written
from klrp.network.refusals import cannot_follow, cannot_pick, cannot_run, depends_on_data, shares_memory
from klrp.network.shadow import Entered, shadow_of, tensors_in
from klrp.network.unseen import changed, check_constant
from klrp.network.vocabulary import name_of


class Capture(NamedTuple):
    """One run of a network: its calls, what of the values was kept, what it returned, and which values an in-place
    operation has spoilt: (the call, the value, a message). ``frozen`` says that a value of the input was detached: it
    is a constant, but one that belongs to this input alone."""

    calls: list[Call]
    values: dict[Key, Tensor]
    returned: Any
    spoilt: list[tuple[int, Key, str]]
    frozen: bool


def capture(model: nn.Module, xs: Sequence[Tensor], output: Callable | None = None) -> Capture:
    """Run ``model`` on ``xs``, and ``output`` on what it returns, and record the calls; what is written to is copied before."""
    for share in (True, False):
        try:
            recorder = _Recorder(*shadow_of(model, share), [x.clone() for x in xs], model, output)
            captured = recorder.run()
            if recorder.unknown:
                other = _Recorder(*shadow_of(model, share), [changed(x) for x in xs], model, output)
                other.run()
                check_constant(recorder.unknown, other.unknown)
            return captured
        except _Writes as written:
            where = str(written)
    raise KlrpError.value(f"model: it changes a weight that klrp cannot copy, in {where}. Change a copy in forward.")


def _memory(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


class _Writes(Exception):
    """The network is about to write to the user's memory."""


class _Recorder(TorchFunctionMode):
    def __init__(
        self, shadow: nn.Module, held: list[Tensor], xs: list[Tensor], model: nn.Module, output: Callable | None
    ):
        super().__init__()
        self.shadow, self.xs, self.output = shadow, xs, output
        self.calls: list[Call] = []
        self.values: dict[Key, Tensor] = {input_key(i): x.detach() for i, x in enumerate(xs)}
        # id -> (weak reference, Traced); a tensor that is known not to depend on the input has None for it.
        self.seen: dict[int, tuple[weakref.ref, Traced | None]] = {}
        self.frame = Frame("", type(shadow), None)
        self.failed: Frame | None = None
        self.readers: Counter[Key] = Counter()
        self.folding: list[tuple[weakref.ref, Key]] = []
        self.spoilt: list[tuple[int, Key, str]] = []
        self.unknown: list[tuple[Tensor, str]] = []
        self.frozen = False
        # What shared memory with a tensor that was written to in place: it is not what it would be in the network.
        self.stale: dict[int, tuple[weakref.ref, str]] = {}
        # Constants as they were when they were read, and kept values, by their memory: copied before it is written to.
        self.kept: dict[int, list[weakref.ref]] = {}
        users = list(tensors_in(model))
        self.users = {id(tensor) for tensor in users}
        self.protected = {_memory(tensor) for tensor in users} - {0}
        for tensor in held:
            self._see(tensor, None)
        for i, x in enumerate(xs):
            self._see(x, Traced(*input_key(i), x.shape, x.dtype, x.device))

    def run(self) -> Capture:
        self._enter_modules()
        with torch.no_grad(), self:
            self.shadow.eval()
            whole: Any = None
            try:
                whole = returned = self.shadow(*self.xs)
                returned = whole if self.output is None else self.output(whole)
            except (KlrpError, _Writes):
                raise
            except Exception as error:
                if whole is not None:
                    raise cannot_pick(whole, error) from error
                raise cannot_run(self.shadow, self.xs, self.failed or self.frame, error) from error
        returned = mapped(lambda t: (self._traced(t) or t) if isinstance(t, Tensor) else t, returned)
        # The recorder and the shadow hold each other until Python's collector comes; the values go when they are read.
        values, self.values = self.values, {}
        return Capture(self.calls, values, returned, self.spoilt, self.frozen)

    def _enter_modules(self) -> None:
        registered = vocabulary.MODULES
        for path, module in self.shadow.named_modules():
            whole = next((registered[kind] for kind in type(module).__mro__ if kind in registered), None)
            run = self._whole if whole is not None else self._entered
            forward = taken_apart.forward_of(module)
            vars(module)["forward"] = Entered(run(path, module, forward), module)

    def _entered(self, path: str, module: nn.Module, forward: Callable) -> Callable:
        kind = type(module)

        def run(*args: Any, **kwargs: Any) -> Any:
            above, self.frame = self.frame, Frame(path, kind, self.frame)
            try:
                return forward(*args, **kwargs)
            except Exception:
                self.failed = self.failed or self.frame
                raise
            finally:
                self.frame = above

        return run

    def _whole(self, path: str, module: nn.Module, forward: Callable) -> Callable:
        """A registered module is one call, whatever its forward does."""

        def run(*args: Any, **kwargs: Any) -> Any:
            with torch._C.DisableTorchFunction():
                return self._record(type(module).__name__, on_copies(forward), args, kwargs, module)

        return self._entered(path, module, run)

    # --- functions ---------------------------------------------------------------------------------------

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        name, live = name_of(func), self._meets_live(args, kwargs)
        if not live:
            return self._constant(func, name, args, kwargs)
        if name in vocabulary.SHAPES:
            return func(*args, **kwargs)
        # A graph is replayed without the autocast of the forward.
        self.frozen = self.frozen or torch.is_autocast_enabled(self.xs[0].device.type)
        plain = getattr(func, "__name__", "")
        if plain in vocabulary.VALUES:
            raise depends_on_data(plain)
        self.frozen = self.frozen or name in ("detach", "data", "new_tensor")
        if plain != "__set__" and (
            name in vocabulary.CONSTANTS or self._only_lent(name, args) or self._masks(name, args)
        ):
            self._check_stale(args, kwargs)
            return self._known(func(*args, **kwargs))
        apart = taken_apart.rewritten(func, name, args, kwargs)
        if apart is not None:
            with self:
                return apart()
        if name == "embedding" and (written(func, name, args, kwargs) is not None):
            self._protect(written(func, name, args, kwargs))
        if name == "batch_norm" and kwargs.get("training", args[5] if len(args) > 5 else False):
            for statistic in args[1:3]:
                if statistic is not None:
                    self._protect(statistic)
        pure, args, kwargs, changed = made_pure(func, name, args, kwargs)
        if pure is None:
            raise cannot_follow(name)
        return self._record(name, pure, args, kwargs, changed=changed)

    def _meets_live(self, args: tuple, kwargs: dict) -> bool:
        """Whether an argument depends on the input; tensors that come from nowhere are noted."""
        live = False
        for leaf in leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                found = self.seen.get(id(leaf))
                if found is None or found[0]() is not leaf:
                    self.unknown.append((leaf.detach(), line_of_user()))
                    self._see(leaf, None)
                else:
                    live = live or found[1] is not None
        return live

    def _constant(self, func: Callable, name: str, args: tuple, kwargs: dict) -> Any:
        """A call that meets nothing that depends on the input; what it may not write to is protected."""
        target = written(func, name, args, kwargs)
        if name not in vocabulary.SHAPES:
            self._check_stale(args, kwargs)
        for one in tensors_of(target) if target is not None else ():
            self._protect(one)
            memory = _memory(one)
            if any(_memory(t) == memory for t, traced in self._alive() if traced is not None):
                raise shares_memory(name)
            self._copy_kept(memory)
        return self._known(func(*args, **kwargs))

    def _protect(self, target: Tensor) -> None:
        if _memory(target) in self.protected:
            raise _Writes(line_of_user())

    def _only_lent(self, name: str, args: tuple) -> bool:
        """Whether a constant takes but its shape or its type from a value that depends on the input."""
        return name in vocabulary.LENDS_SHAPE and isinstance(args[0], Tensor) and self._traced(args[0]) is None

    def _masks(self, name: str, args: tuple) -> bool:
        """Whether it compares tokens, which are no amounts: a constant that belongs to this input alone."""
        live = [t for x in args if isinstance(x, Tensor) and (t := self._traced(x))]
        tokens = not any(x.is_floating_point() for x in self.xs)
        found = name in vocabulary.COMPARISONS and all(t.call < 0 or tokens for t in live)
        found = found and not any(t.dtype.is_floating_point for t in live)
        self.frozen = self.frozen or found
        return found

    def _check_stale(self, args: tuple, kwargs: dict) -> None:
        for leaf in leaves((args, kwargs)):
            reference, message = self.stale.get(id(leaf), (None, ""))
            if reference is not None and reference() is leaf:
                raise KlrpError.value(
                    f"model: {message}. Write it without changing its argument: y = f(x) in place of f_(x)."
                )

    def _keep(self, tensor: Tensor) -> Tensor:
        """The tensor as it is now, over the same memory until that is written to."""
        plain = tensor.detach()
        self.kept.setdefault(_memory(plain), []).append(weakref.ref(plain))
        return plain

    def _copy_kept(self, memory: int) -> None:
        for reference in self.kept.pop(memory, ()):
            if (tensor := reference()) is not None:
                tensor.data = tensor.clone()

    def _record(
        self, name: str, pure: Callable, args: tuple, kwargs: dict, module: nn.Module | None = None,
        changed: Tensor | None = None,
    ) -> Any:  # fmt: skip
        self._let_go()
        number, traced_args, traced_kwargs = len(self.calls), self._replaced(args), self._replaced(kwargs)
        out = pure(*args, **kwargs)
        tensors = tensors_of(out)
        if not any(isinstance(t, Tensor) for t in tensors):
            return out  # sizes and the like carry no relevance
        outputs = tuple(
            Traced(number, item, t.shape, t.dtype, t.device) for item, t in enumerate(tensors) if isinstance(t, Tensor)
        )
        call = Call(name, pure, traced_args, traced_kwargs, outputs, self.frame, line_of_user(), module)
        self.calls.append(call)
        for source in call.sources:
            self.readers[source.key] += 1
        if name == "batch_norm":
            self._may_fold(args[0] if args else kwargs["input"])
        if not recomputable(call):
            self.values.update({traced.key: self._keep(tensors[traced.item]) for traced in outputs})
        if changed is not None:
            out = self._changed(changed, out, number)
            tensors = (out,)
        for traced in outputs:
            self._see(tensors[traced.item], traced)
        return out

    def _replaced(self, tree: Any) -> Any:
        def put(leaf: Any) -> Any:
            if isinstance(leaf, slice):
                return slice(*(put(end) for end in (leaf.start, leaf.stop, leaf.step)))
            if not isinstance(leaf, Tensor):
                return leaf
            traced = self._traced(leaf)
            if traced is None:
                self._check_stale((leaf,), {})
            return traced or self._keep(leaf)

        return mapped(put, tree)

    def _changed(self, target: Tensor, out: Tensor, number: int) -> Tensor:
        """After an in-place operation: the target holds the result, and what shared its memory is spoilt."""
        if out is not target:
            if id(target) in self.users:
                raise _Writes(line_of_user())
            memory = _memory(target)
            message = f"{self.calls[-1].name} works in place on a view of a tensor that is read again later, at {line_of_user()}"
            for other, traced in self._alive():
                if other is not target and _memory(other) == memory:
                    self.stale[id(other)] = weakref.ref(other), message
                    if traced is not None:
                        self.spoilt.append((number, traced.key, message))
            target.data = out  # the recorded values have the old memory
        return target

    # --- what is known of tensors ------------------------------------------------------------------------

    def _see(self, tensor: Tensor, traced: Traced | None) -> None:
        self.seen[id(tensor)] = weakref.ref(tensor), traced

    def _known(self, out: Any) -> Any:
        for leaf in tensors_of(out):
            if isinstance(leaf, Tensor):
                self._see(leaf, None)
        return out

    def _traced(self, tensor: Tensor) -> Traced | None:
        found = self.seen.get(id(tensor))
        return found[1] if found is not None and found[0]() is tensor else None

    def _alive(self) -> Iterator[tuple[Tensor, Traced | None]]:
        for reference, traced in list(self.seen.values()):
            if (tensor := reference()) is not None:
                yield tensor, traced

    def _may_fold(self, tensor: Tensor) -> None:
        if (traced := self._traced(tensor)) is not None:
            self.folding.append((weakref.ref(tensor), traced.key))

    def _let_go(self) -> None:
        """The output of a layer that a BatchNorm alone has read is not needed where it cannot be read again."""
        for reference, key in self.folding:
            if reference() is None and self.readers[key] == 1:
                self.values.pop(key, None)
        self.folding = [(reference, key) for reference, key in self.folding if reference() is not None]
