"""Triton's interpreter for the kernel tests on machines without a GPU.

Shims (Triton 3.6 and 3.7): the interpreter keeps bf16 as uint16 and multiplies bit patterns in tl.dot (triton-lang/triton
#11584, closed as not supported); 3.6 breaks with numpy >= 2.4 (#9171). Two more halve its time: no overflow sanitizer, and the
language patched once a launch instead of once a call of a device function.
"""

from __future__ import annotations

from typing import Any


def enable() -> None:
    """Apply the shims. TRITON_INTERPRET=1 must have been set before the first import of triton (tests/conftest.py)."""
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    dot = interpreter.InterpreterBuilder.create_dot

    def widened(x: Any) -> Any:
        if x.dtype.scalar != tl.bfloat16:
            return x
        return interpreter.TensorHandle((x.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    interpreter.InterpreterBuilder.create_dot = lambda self, a, b, *rest: dot(self, widened(a), widened(b), *rest)
    interpreter.interpreter_builder.options = interpreter.InterpreterOptions(sanitize_overflow=False)
    _patch_language_once(interpreter)
    _index_of_one_element(interpreter)


def _patch_language_once(interpreter: Any) -> None:
    seen: set[int] = set()
    patch, run = interpreter._patch_lang, interpreter.GridExecutor.__call__

    def once(function: Any) -> Any:
        if id(function.__globals__) in seen:
            return interpreter._LangPatchScope()
        seen.add(id(function.__globals__))
        return patch(function)

    def launch(self: Any, *arguments: Any, **options: Any) -> Any:
        seen.clear()
        return run(self, *arguments, **options)

    interpreter._patch_lang, interpreter.GridExecutor.__call__ = once, launch


def _index_of_one_element(interpreter: Any) -> None:
    patch = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patched
