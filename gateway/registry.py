"""The registry of policies: the entry-point group `postern.policies`, ours and anybody's alike (law 6).

Names are known at once; a policy's module is imported when it is first asked for.  What cannot be used, because
it does not import, is no policy, or is claimed by two packages, is a `PolicyLoadError` that names the package.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points

from gateway.core.errors import PosternError
from gateway.core.policy import Policy

GROUP = "postern.policies"


class PolicyLoadError(PosternError):
    """A registered policy that cannot be used; the text names it, its package and the cause."""


def _origin(entry: EntryPoint) -> str:
    if entry.dist is None:
        return f"an unknown package ({entry.value})"
    return f"{entry.dist.name} {entry.dist.version} ({entry.value})"


class Registry(Mapping[str, type[Policy]]):
    """Policy classes by name.  Looking one up imports it; raises PolicyLoadError where it cannot be used."""

    def __init__(self, entries: list[EntryPoint]) -> None:
        self._entries: dict[str, list[EntryPoint]] = {}
        for entry in entries:
            claims = self._entries.setdefault(entry.name, [])
            if all(entry.value != other.value for other in claims):
                claims.append(entry)
        self._loaded: dict[str, type[Policy]] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> type[Policy]:
        found = self._loaded.get(name)
        if found is None:
            found = self._loaded[name] = self._load(name, self._entries[name])
        return found

    def _load(self, name: str, claims: list[EntryPoint]) -> type[Policy]:
        if len(claims) > 1:
            packages = " and ".join(_origin(entry) for entry in claims)
            raise PolicyLoadError(f"the policy {name} is claimed by {packages}; uninstall one of them")
        entry = claims[0]
        try:
            loaded = entry.load()
        except Exception as error:  # importing a third party's module may raise anything
            cause = f"{type(error).__name__}: {error}"
            raise PolicyLoadError(f"the policy {name} of {_origin(entry)} cannot be loaded: {cause}") from error
        fault = _fault(name, loaded)
        if fault:
            raise PolicyLoadError(f"the policy {name} of {_origin(entry)} cannot be used: {fault}")
        policy: type[Policy] = loaded
        return policy


def _fault(name: str, loaded: object) -> str:
    """Why something is not a usable policy, or nothing."""
    if not (isinstance(loaded, type) and issubclass(loaded, Policy)):
        return "it is not a subclass of gateway.core.policy.Policy"
    if getattr(loaded, "name", None) != name:
        return f"its name is {getattr(loaded, 'name', None)!r}"
    if not isinstance(getattr(loaded, "phase", None), int | property):
        return "it has no phase"
    if not hasattr(loaded, "Config"):
        return "it has no Config"
    return ""


@lru_cache(maxsize=1)
def policies() -> Mapping[str, type[Policy]]:
    """Every policy that is installed, by the name that stands in YAML."""
    return Registry(list(entry_points(group=GROUP)))
