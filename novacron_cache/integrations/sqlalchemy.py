"""SQLAlchemy's sessions say what they have changed, and the cache forgets it once the change is committed.

An invalidation before the commit comes too early: a reader brings the old state back. One after a rollback is for
nothing. So what a flush has written is noted with the transaction that it belongs to; a savepoint hands its notes to
the transaction around it, or loses them when it is rolled back; the outermost commit is followed by the invalidation.

Tags are rendered from the columns of the objects, those of before the change and those of after it: an account that
moves from one owner to another is in the lists of both. The value of before is loaded where the session does not have
it.

A statement such as `update(Account).where(...)` names no objects. It is refused unless the mapping says what it
invalidates. What never passes through a session, such as a statement on a bare connection, is not seen.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from novacron_cache import Cache, DeclarationError, Duration, KeyTemplate, TemplateError, default_cache

try:
    import sqlalchemy.util
    from sqlalchemy import event, inspect
    from sqlalchemy.exc import MissingGreenlet, NoInspectionAvailable
    from sqlalchemy.orm import Mapper, ORMExecuteState, Session, SessionTransaction, object_session, sessionmaker
except ImportError as missing:
    raise ImportError(
        "novacron_cache.integrations.sqlalchemy needs SQLAlchemy: pip install 'novacron-cache[sqlalchemy]'"
    ) from missing

__all__ = ["CommitInvalidation"]

_await: Any = getattr(sqlalchemy.util, "await_", None) or sqlalchemy.util.await_only


@dataclass
class _Named:
    """What is to be invalidated, each name once and in the order in which it was noted."""

    tags: dict[str, None] = field(default_factory=dict)
    keys: dict[str, None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.tags or self.keys)

    def add(self, other: _Named) -> None:
        self.tags |= other.tags
        self.keys |= other.keys


@dataclass(frozen=True)
class _Rule:
    """What changes of one mapped class invalidate."""

    mapper: Mapper[Any]
    tags: tuple[KeyTemplate, ...]
    keys: tuple[KeyTemplate, ...]
    columns: frozenset[str] | None
    bulk_tags: tuple[str, ...] | None

    def note(self, values: dict[str, Any], into: _Named) -> None:
        into.tags.update((template.build(values), None) for template in self.tags)
        into.keys.update((template.build(values), None) for template in self.keys)


@dataclass
class _Pending:
    """What one session has changed and not yet committed."""

    of: dict[SessionTransaction, _Named] = field(default_factory=dict)
    committed: set[SessionTransaction] = field(default_factory=set)
    early: _Named = field(default_factory=_Named)
    block: Any = None
    held: _Named = field(default_factory=_Named)


class CommitInvalidation:
    """Invalidates what sessions have changed, after they have committed it.

    Args:
        cache: the cache; None takes the default one at each commit.
        two_phase: whether what will be invalidated is held from before the commit until after it, so that not even a
            process that dies between the two leaves anything stale. It costs one more trip to the shared tier.
        hold: with `two_phase`, how long the hold outlives a process that dies.
    """

    def __init__(self, cache: Cache | None = None, *, two_phase: bool = False, hold: Duration = "10s") -> None:
        self._cache, self._two_phase, self._hold = cache, two_phase, hold
        self._rules: list[_Rule] = []
        self._pending: weakref.WeakKeyDictionary[Session, _Pending] = weakref.WeakKeyDictionary()
        self._listening: list[tuple[Any, str, Callable[..., Any]]] = []

    # -- declaring --------------------------------------------------------------------------------------------------

    def on(
        self,
        model: type[Any],
        *,
        tags: Iterable[str] = (),
        keys: Iterable[str] = (),
        columns: Iterable[str] | None = None,
        bulk_tags: Iterable[str] | None = None,
    ) -> CommitInvalidation:
        """Say what changes of a mapped class, and of those that inherit from it, invalidate; return this object.

        Args:
            model: the mapped class.
            tags: templates of tags; their placeholders are columns of the class, as its attributes are called.
            keys: templates of logical keys.
            columns: attributes whose update matters here; None is any. Inserts and deletes always do.
            bulk_tags: what a statement invalidates that changes the class's table without naming objects; plain tags.
                An empty list says nothing; without any, such a statement is refused.

        Raises:
            DeclarationError: the class is not mapped, or an argument names what it has not.
            TemplateError: a placeholder is no column of it.
        """
        try:
            mapper = inspect(model)
        except NoInspectionAvailable:
            mapper = None
        if not isinstance(mapper, Mapper):
            raise DeclarationError(f"{model!r} is not a mapped class")
        for what, given in (("tags", tags), ("keys", keys), ("columns", columns), ("bulk_tags", bulk_tags)):
            if isinstance(given, str):
                raise DeclarationError(f"{model.__name__}: {what}={given!r}: expected a list")
        known = [attribute.key for attribute in mapper.column_attrs]
        tag_templates = tuple(KeyTemplate.parse(text) for text in tags)
        key_templates = tuple(KeyTemplate.parse(text) for text in keys)
        if not (tag_templates or key_templates):
            raise DeclarationError(f"{model.__name__}: name what its changes invalidate: tags=[...] or keys=[...]")
        for template in (*tag_templates, *key_templates):
            template.refuse_braces(known, owner=model.__name__, kind="column")
            for root in template.roots:
                if root not in known:
                    raise TemplateError(
                        f"{template.text!r}: {model.__name__} has no column {root!r}; it has {', '.join(known)}",
                        template=template.text,
                    )
                # The value of before is needed, also where the attribute is set without having been read.
                event.listen(getattr(model, root), "set", _nothing, active_history=True, propagate=True)
        chosen = None if columns is None else frozenset(columns)
        for name in chosen or ():
            if name not in mapper.attrs:
                raise DeclarationError(f"{model.__name__}: columns: it has no attribute {name!r}")
        bulk = None if bulk_tags is None else tuple(bulk_tags)
        rule = _Rule(mapper, tag_templates, key_templates, chosen, bulk)
        self._rules.append(rule)
        # Those of the unit of work, which also deletes what nobody has named, such as orphans.
        for name, whole in (("after_insert", True), ("after_update", False), ("before_delete", True)):
            self._begin_listening(model, name, self._writing(rule, whole=whole), propagate=True)
        return self

    def _begin_listening(self, target: Any, name: str, listener: Callable[..., Any], **options: Any) -> None:
        event.listen(target, name, listener, **options)
        self._listening.append((target, name, listener))

    def listen(self, target: Any) -> None:
        """Begin to listen to sessions.

        Args:
            target: a `sessionmaker`, `async_sessionmaker`, `scoped_session`, a session, or a class of sessions. An
                `async_sessionmaker` is given a class of synchronous sessions of its own, where it has none.
        """
        target = _synchronous(target)
        for name, listener in (
            ("after_transaction_create", self._begun),
            ("do_orm_execute", self._executing),
            ("before_commit", self._committing),
            ("after_commit", self._committed),
            ("after_soft_rollback", self._rolled_back),
            ("after_transaction_end", self._ended),
        ):
            self._begin_listening(target, name, listener)

    def close(self) -> None:
        """Stop listening; what is not committed yet will not be invalidated."""
        while self._listening:
            target, name, listener = self._listening.pop()
            event.remove(target, name, listener)
        self._pending.clear()

    # -- noting -----------------------------------------------------------------------------------------------------

    def _of(self, session: Session) -> _Pending:
        return self._pending.setdefault(session, _Pending())

    def _noted(self, session: Session) -> _Named:
        """Return where to note what the session changes right now."""
        pending = self._of(session)
        transaction = session.get_nested_transaction() or session.get_transaction()
        return pending.early if transaction is None else pending.of.setdefault(transaction, _Named())

    def _begun(self, session: Session, transaction: SessionTransaction) -> None:
        # What a statement is about to change is known before it begins the transaction.
        pending = self._of(session)
        if transaction.parent is None and pending.early:
            pending.of.setdefault(transaction, _Named()).add(pending.early)
            pending.early = _Named()

    def _writing(self, rule: _Rule, *, whole: bool) -> Callable[[Any, Any, Any], None]:
        def note(_mapper: Any, _connection: Any, target: Any) -> None:
            session = object_session(target)
            if session is not None and session in self._pending:
                _note(rule, inspect(target), self._noted(session), whole=whole)

        return note

    def _executing(self, execution: ORMExecuteState) -> None:
        if not (execution.is_update or execution.is_delete or execution.is_insert):
            return
        table = getattr(execution.statement, "table", None)
        for rule in self._rules:
            if table not in {
                *rule.mapper.tables,
                *(one for sub in rule.mapper.self_and_descendants for one in sub.tables),
            }:
                continue
            if rule.bulk_tags is None:
                raise DeclarationError(
                    f"a statement changes {rule.mapper.class_.__name__} without naming objects, and nothing says what "
                    f"that invalidates: declare it with on({rule.mapper.class_.__name__}, ..., bulk_tags=[...])"
                )
            self._noted(execution.session).tags.update(dict.fromkeys(rule.bulk_tags))

    # -- transactions -----------------------------------------------------------------------------------------------

    def _committing(self, session: Session) -> None:
        if not self._two_phase or session.in_nested_transaction():
            return
        session.flush()
        pending = self._of(session)
        named = _Named()
        for one in pending.of.values():
            named.add(one)
        if named and pending.block is None:
            block = self._used().invalidating(keys=list(named.keys), tags=list(named.tags), hold=self._hold)
            _run(block.__enter__, block.__aenter__)
            pending.block, pending.held = block, named

    def _committed(self, session: Session) -> None:
        transaction = session.get_nested_transaction() or session.get_transaction()
        if transaction is not None:
            self._of(session).committed.add(transaction)

    def _rolled_back(self, session: Session, transaction: SessionTransaction) -> None:
        pending = self._of(session)
        pending.of.pop(transaction, None)
        pending.committed.discard(transaction)

    def _ended(self, session: Session, transaction: SessionTransaction) -> None:
        pending = self._of(session)
        named = pending.of.pop(transaction, _Named())
        good = transaction in pending.committed
        pending.committed.discard(transaction)
        parent = transaction.parent
        if parent is not None:
            if named and (good or not transaction.nested):
                while parent.parent is not None and not parent.nested:
                    parent = parent.parent
                pending.of.setdefault(parent, _Named()).add(named)
            return
        del self._pending[session]
        block = pending.block
        if block is not None:
            # Also after a rollback: how far the commit has come nobody knows.
            _run(lambda: block.__exit__(None, None, None), lambda: block.__aexit__(None, None, None))
            named = _without(named, pending.held)
        if good and named:
            self._invalidate(named)

    def _used(self) -> Cache:
        return self._cache if self._cache is not None else default_cache()

    def _invalidate(self, named: _Named) -> None:
        cache = self._used()

        def invalidate() -> None:
            with cache.deferred_invalidation():
                if named.tags:
                    cache.invalidate_tags(*named.tags)
                if named.keys:
                    cache.invalidate(*named.keys)

        async def ainvalidate() -> None:
            async with cache.deferred_invalidation():
                if named.tags:
                    await cache.ainvalidate_tags(*named.tags)
                if named.keys:
                    await cache.ainvalidate(*named.keys)

        _run(invalidate, ainvalidate)


def _without(named: _Named, done: _Named) -> _Named:
    return _Named(
        {tag: None for tag in named.tags if tag not in done.tags},
        {key: None for key in named.keys if key not in done.keys},
    )


def _nothing(_target: Any, _value: Any, _old: Any, _initiator: Any) -> None:
    """Listen for the sake of `active_history` alone."""


def _note(rule: _Rule, state: Any, into: _Named, *, whole: bool) -> None:
    """Note what a rule says of one object, in the state of before its change and in that of after it."""
    if not whole:
        names = [one.key for one in rule.mapper.attrs] if rule.columns is None else rule.columns
        if not any(state.attrs[name].history.has_changes() for name in names):
            return
    after, before = {}, {}
    for root in {root for template in (*rule.tags, *rule.keys) for root in template.roots}:
        history = state.attrs[root].history
        after[root] = before[root] = state.attrs[root].value
        if history.deleted:
            before[root] = history.deleted[0]
    rule.note(after, into)
    if before != after:
        rule.note(before, into)


def _run(blocking: Callable[[], Any], asynchronous: Callable[[], Any]) -> None:
    """Call the one of two forms that suits the session: an asynchronous session's listeners may await."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        blocking()
        return
    coroutine = asynchronous()
    try:
        _await(coroutine)
    except (MissingGreenlet, ImportError):
        coroutine.close()  # a blocking session, used on a loop's thread
        blocking()


def _synchronous(target: Any) -> Any:
    """Return what SQLAlchemy takes listeners on."""
    if isinstance(target, sessionmaker):
        return target
    if hasattr(target, "kw") and hasattr(target, "configure"):  # an async_sessionmaker
        if "sync_session_class" not in target.kw:
            target.configure(sync_session_class=type("CommitSession", (Session,), {}))
        return target.kw["sync_session_class"]
    if isinstance(target, type):
        return getattr(target, "sync_session_class", target)
    return getattr(target, "sync_session", target)
