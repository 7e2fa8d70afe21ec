"""What denoisers of arrays have in common: they do not change, and are pytrees."""

import copy
from typing import Any, ClassVar, Self

import jax


class Frozen:
    """Does not change, and is a pytree; every subclass is registered as one.

    A subclass names in `_leaves` the attributes that hold arrays, or other pytrees. All others are
    static, and hashable. Its `__init__` sets them by `vars(self).update(...)`.
    """

    _leaves: ClassVar[tuple[str, ...]]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        jax.tree_util.register_pytree_node_class(cls)

    def _replaced(self, **changes: Any) -> Self:
        """A copy with other attributes."""
        other = copy.copy(self)
        vars(other).update(changes)
        return other

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{name!r} cannot be set: a denoiser does not change")

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[tuple[str, Any], ...]]:
        """The leaves, and what is static by name."""
        static = {name: value for name, value in vars(self).items() if name not in self._leaves}
        return tuple(vars(self)[name] for name in self._leaves), tuple(static.items())

    @classmethod
    def tree_unflatten(cls, static: tuple[tuple[str, Any], ...], leaves: tuple[Any, ...]) -> Self:
        """Inverse of `tree_flatten`."""
        made = object.__new__(cls)
        vars(made).update(static)
        vars(made).update(zip(cls._leaves, leaves, strict=True))
        return made
