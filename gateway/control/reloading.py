"""One configuration for all workers: prepared by all or refused, committed by all, whoever comes and goes meanwhile.

```
 settled ──prepare──► gathering ──all have prepared──► prepared ──commit──► settled, on the new one
    ▲                     │ one cannot                     │ forget
    └─────────────────────┴────────────────────────────────┘ on the old one
```

A worker that begins to serve while others prepare prepares as well.  One that is ready when all have prepared is held
back for that moment, and then serves by what was decided.  One that ends is waited for by nobody; one that does not
follow is ended (`slots.Duty`), and the next one is told to build what is committed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gateway.control.crew import Crew, Member
from gateway.control.messages import Commit, Forget, Package, Prepare
from gateway.control.slots import Duty, ProtocolError, State
from gateway.core.errors import ConfigError, PosternError
from gateway.core.ports import Redeclared


class Reloads:
    """See the module.  `committed` is what is in force."""

    def __init__(self, crew: Crew, package: Package, released: Callable[[Member], None]) -> None:
        """`released(member)` is called for each that was held back, when it no longer is."""
        self.committed = package
        self._crew = crew
        self._released = released
        self._pending: Package | None = None
        self._gathering = False
        self._number = 0
        self._problems: list[str] = []
        self._held: set[Member] = set()

    @property
    def settled(self) -> bool:
        """Is no reload under way?"""
        return self._pending is None

    # ── whoever comes and goes ───────────────────────────────────────────────────────────────

    def holds(self, member: Member) -> bool:
        """True for one that is ready just now, and has to wait for what is about to be decided."""
        if self._pending is None or self._gathering:
            return False
        self._held.add(member)
        return True

    def joined(self, member: Member) -> None:
        """One has begun to serve: it takes part in what is under way."""
        if self._pending is not None:
            member.life.preparing(self._number, self._crew.now)
            member.send(Prepare(self._number, self._pending))

    def left(self, member: Member) -> None:
        """One has ended."""
        self._held.discard(member)

    def answered(self, member: Member, number: int, problems: Sequence[str]) -> None:
        """One has prepared, or cannot."""
        member.life.has_prepared(number, not problems)
        if number == self._number and not self._problems:
            self._problems.extend(problems)

    # ── the two phases ───────────────────────────────────────────────────────────────────────

    async def prepare(self, package: Package) -> None:
        """Have a configuration built by all that serve.  Raises `PosternError`, and then all have forgotten it.

        One at a time: `commit` or `forget` comes before the next.
        """
        if self._pending is not None:
            raise ProtocolError("another configuration is being prepared")
        self._number += 1
        asked = self._crew.tell(self._crew.admitting, Prepare(self._number, package))
        self._pending, self._gathering = package, True
        self._problems.clear()
        for member in asked:
            member.life.preparing(self._number, self._crew.now)
        try:
            await self._crew.until(
                lambda: bool(self._problems) or not any(member.life.owes(Duty.PREPARE) for member in self._crew)
            )
        except BaseException:
            self.forget()
            raise
        self._gathering = False
        if self._problems:
            self.forget()
            raise ConfigError(list(self._problems))
        if asked and not self._able():
            self.forget()
            raise PosternError("no worker lived to prepare the configuration")

    def forget(self) -> None:
        """What was prepared will not be committed."""
        if self._pending is None:
            return
        self._pending, self._gathering = None, False
        for member in self._crew.tell(self._crew.admitting, Forget(self._number)):
            member.life.forgets()
        self._release()

    async def commit(self, redeclared: Redeclared) -> None:
        """Put in force what was prepared, in all workers: when this returns, each has, or has ended."""
        package = self._pending
        if package is None:
            raise ProtocolError("nothing was prepared")
        # From here on whoever comes up serves by it.
        self.committed, self._pending, self._gathering = package, None, False
        able = self._able()
        for member in self._crew.admitting:
            if member not in able:
                self._crew.dismiss(member, "silent")
        order = Commit(self._number, redeclared.usernames, redeclared.organizations, redeclared.everything)
        for member in self._crew.tell(able, order):
            member.life.committing(package.hash, self._crew.now)
        self._release()
        await self._crew.until(
            lambda: all(member.life.hash == package.hash for member in self._crew if member.life.admits)
        )

    def _able(self) -> list[Member]:
        """Those that have prepared what is pending."""
        return [member for member in self._crew.admitting if member.life.prepared == self._number]

    def _release(self) -> None:
        held, self._held = self._held, set()
        for member in held:
            if member.life.state is State.CONFIGURING:
                self._released(member)
