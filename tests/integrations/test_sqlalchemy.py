"""What a session commits is invalidated, what it rolls back is not, and nobody is served the state of before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, ForeignKey, create_engine, delete, event, insert, select, text, update
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, scoped_session, sessionmaker
from sqlalchemy.pool import StaticPool

from novacron_cache import Cache, DeclarationError, TemplateError
from novacron_cache.integrations.sqlalchemy import CommitInvalidation


class Base(DeclarativeBase):
    pass


class Owner(Base):
    __tablename__ = "owners"
    name: Mapped[str] = mapped_column(primary_key=True)
    accounts: Mapped[list[Account]] = relationship(cascade="all, delete-orphan")


class Account(Base):
    __tablename__ = "accounts"
    account_id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column(ForeignKey("owners.name"))
    cents: Mapped[int] = mapped_column(default=0)
    kind: Mapped[str] = mapped_column(default="plain")
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "plain"}  # noqa: RUF012


class Savings(Account):
    __mapper_args__ = {"polymorphic_identity": "savings"}  # noqa: RUF012


TAGS = ["account:1", "account:2", "account:3", "owner:ann", "owner:bob", "accounts"]


class Watched:
    """A cache in which each tag has an entry, to see which were invalidated."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.refill()

    def refill(self) -> None:
        for tag in TAGS:
            self.cache.set(f"of {tag}", tag, tags=[tag])

    def gone(self) -> set[str]:
        """Return the tags that were invalidated since the last call."""
        found = {tag for tag in TAGS if not self.cache.exists(f"of {tag}")}
        self.refill()
        return found


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = create_engine(f"sqlite:///{tmp_path / 'bank.db'}")

    # As SQLAlchemy's documentation has it, so that SQLite's savepoints are real ones.
    @event.listens_for(made, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None

    @event.listens_for(made, "begin")
    def _begun(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")

    Base.metadata.create_all(made)
    with Session(made) as session, session.begin():
        session.add_all([Owner(name="ann"), Owner(name="bob")])
        session.flush()
        session.add_all([Account(account_id=1, owner="ann"), Savings(account_id=2, owner="bob")])
    yield made
    made.dispose()


@pytest.fixture
def watched() -> Iterator[Watched]:
    with Cache() as cache:
        yield Watched(cache)


@pytest.fixture(params=[False, True], ids=["after the commit", "two phases"])
def changes(request: pytest.FixtureRequest, watched: Watched) -> Iterator[CommitInvalidation]:
    made = CommitInvalidation(watched.cache, two_phase=request.param).on(
        Account, tags=["account:<account_id>", "owner:<owner>"], bulk_tags=["accounts"]
    )
    yield made
    made.close()


@pytest.fixture
def sessions(engine: Engine, changes: CommitInvalidation) -> sessionmaker[Session]:
    made = sessionmaker(engine)
    changes.listen(made)
    return made


class TestWhen:
    def test_nothing_is_invalidated_before_the_commit(self, sessions: sessionmaker[Session], watched: Watched) -> None:
        with sessions() as session:
            session.get_one(Account, 1).cents = 5
            session.flush()
            assert watched.gone() == set()
            session.commit()
            assert watched.gone() == {"account:1", "owner:ann"}

    def test_a_rollback_and_a_session_that_is_closed_invalidate_nothing(
        self, sessions: sessionmaker[Session], watched: Watched
    ) -> None:
        with sessions() as session:
            session.get_one(Account, 1).cents = 5
            session.flush()
            session.rollback()
            session.get_one(Account, 2).cents = 5
            session.flush()
        assert watched.gone() == set()
        with sessions.begin() as session:
            session.get_one(Account, 2).cents = 7
        assert watched.gone() == {"account:2", "owner:bob"}, "and not what was rolled back before"

    def test_a_commit_that_fails_invalidates_nothing_that_was_held_less(
        self, sessions: sessionmaker[Session], watched: Watched
    ) -> None:
        with pytest.raises(IntegrityError), sessions.begin() as session:
            session.add(Account(account_id=1, owner="ann"))
        assert watched.gone() == set(), "the flush failed, before anything could be committed"

    def test_a_savepoint_that_is_released_counts_with_the_transaction_around_it(
        self, sessions: sessionmaker[Session], watched: Watched
    ) -> None:
        with sessions() as session:
            with session.begin_nested():
                session.get_one(Account, 1).cents = 5
            assert watched.gone() == set()
            session.commit()
            assert watched.gone() == {"account:1", "owner:ann"}

    def test_a_savepoint_that_is_rolled_back_takes_its_own_with_it(
        self, sessions: sessionmaker[Session], watched: Watched
    ) -> None:
        with sessions.begin() as session:
            session.get_one(Account, 2).cents = 5
            with suppress(LookupError), session.begin_nested():
                session.get_one(Account, 1).cents = 5
                with session.begin_nested():
                    session.add(Account(account_id=3, owner="ann"))
                raise LookupError
        assert watched.gone() == {"account:2", "owner:bob"}

    def test_a_flush_that_fails_in_a_savepoint_does_too(
        self, sessions: sessionmaker[Session], watched: Watched
    ) -> None:
        with sessions.begin() as session:
            session.get_one(Account, 2).cents = 5
            with suppress(IntegrityError), session.begin_nested():
                session.add(Account(account_id=3, owner="ann"))
                session.flush()
                session.execute(text("INSERT INTO accounts SELECT * FROM accounts WHERE account_id = 1"))
        assert watched.gone() == {"account:2", "owner:bob"}

    def test_the_commit_of_a_whole_stack_of_savepoints_counts(
        self, sessions: sessionmaker[Session], watched: Watched
    ) -> None:
        with sessions() as session:
            session.begin_nested()
            session.get_one(Account, 1).cents = 5
            session.begin_nested()
            session.get_one(Account, 2).cents = 5
            session.commit()
        assert watched.gone() == {"account:1", "owner:ann", "account:2", "owner:bob"}

    def test_a_reader_in_between_brings_nothing_stale_back(
        self, sessions: sessionmaker[Session], watched: Watched
    ) -> None:
        cache = watched.cache

        def read() -> Any:
            def load() -> int:
                with sessions() as session:
                    return session.scalars(select(Account.cents).where(Account.account_id == 1)).one()

            return cache.get_or_load("balance", load, tags=["account:1"])

        assert read() == 0
        with sessions() as session:
            session.get_one(Account, 1).cents = 5
            session.flush()
            assert read() == 0
            session.commit()
            assert read() == 5

    def test_a_block_of_the_applications_own_may_enclose_it(
        self, sessions: sessionmaker[Session], watched: Watched
    ) -> None:
        with watched.cache.deferred_invalidation(), sessions.begin() as session:
            session.get_one(Account, 1).cents = 5
        assert watched.gone() == {"account:1", "owner:ann"}


class TestWhat:
    def test_an_insert_names_what_the_database_has_chosen(
        self, sessions: sessionmaker[Session], watched: Watched
    ) -> None:
        with sessions.begin() as session:
            session.add(Account(owner="bob"))
        assert watched.gone() == {"account:3", "owner:bob"}

    def test_a_change_names_the_state_of_before_and_of_after(
        self, sessions: sessionmaker[Session], watched: Watched
    ) -> None:
        with sessions() as session:
            account = session.get_one(Account, 1)
            session.commit()  # and so the account's attributes are unknown when one is set
            account.owner = "bob"
            session.commit()
        assert watched.gone() == {"account:1", "owner:ann", "owner:bob"}

    def test_several_flushes_name_every_state_that_readers_may_have_seen(
        self, sessions: sessionmaker[Session], watched: Watched
    ) -> None:
        with sessions.begin() as session:
            account = session.get_one(Account, 1)
            for owner in ("bob", "ann"):
                account.owner = owner
                session.flush()
        assert watched.gone() == {"account:1", "owner:ann", "owner:bob"}

    def test_a_delete_names_what_was_there(self, sessions: sessionmaker[Session], watched: Watched) -> None:
        with sessions() as session:
            account = session.get_one(Account, 1)
            session.commit()
            session.delete(account)
            session.commit()
        assert watched.gone() == {"account:1", "owner:ann"}

    def test_orphans_and_cascades_are_named(self, sessions: sessionmaker[Session], watched: Watched) -> None:
        with sessions.begin() as session:
            owner = session.get_one(Owner, "ann")
            owner.accounts.clear()
        assert watched.gone() == {"account:1", "owner:ann"}
        with sessions.begin() as session:
            session.delete(session.get_one(Owner, "bob"))
        assert watched.gone() == {"account:2", "owner:bob"}

    def test_what_is_read_or_set_to_what_it_was_invalidates_nothing(
        self, sessions: sessionmaker[Session], watched: Watched
    ) -> None:
        with sessions.begin() as session:
            account = session.get_one(Account, 1)
            account.owner = str(account.owner)
        assert watched.gone() == set()

    def test_an_inheriting_class_counts_as_the_one_it_inherits_from(
        self, sessions: sessionmaker[Session], watched: Watched
    ) -> None:
        with sessions.begin() as session:
            session.get_one(Savings, 2).cents = 1
        assert watched.gone() == {"account:2", "owner:bob"}

    def test_only_the_columns_that_matter_count_in_an_update(self, engine: Engine, watched: Watched) -> None:
        changes = CommitInvalidation(watched.cache).on(Account, tags=["owner:<owner>"], columns=["owner"])
        changes.listen(made := sessionmaker(engine))
        try:
            with made.begin() as session:
                session.get_one(Account, 1).cents = 9
            assert watched.gone() == set()
            with made.begin() as session:
                session.get_one(Account, 1).owner = "bob"
                session.add(Account(account_id=3, owner="bob"))
            assert watched.gone() == {"owner:ann", "owner:bob"}
        finally:
            changes.close()

    def test_keys_are_invalidated_too(self, engine: Engine, watched: Watched) -> None:
        changes = CommitInvalidation(watched.cache).on(Account, keys=["account:<account_id>"])
        changes.listen(made := sessionmaker(engine))
        try:
            watched.cache.set("account:1", "cached")
            with made.begin() as session:
                session.get_one(Account, 1).cents = 9
            assert watched.cache.get("account:1") is None
        finally:
            changes.close()

    @pytest.mark.parametrize(
        "statement",
        [
            lambda: update(Account).where(Account.cents >= 0).values(cents=1),
            lambda: update(Savings).values(cents=1),
            lambda: delete(Account).where(Account.account_id == 1),
            lambda: insert(Account).values(account_id=3, owner="ann"),
            lambda: update(Account.__table__).values(cents=1),
        ],
        ids=["update", "of a subclass", "delete", "insert", "of the table"],
    )
    def test_a_statement_invalidates_what_is_said_of_statements(
        self, sessions: sessionmaker[Session], watched: Watched, statement: Callable[[], Any]
    ) -> None:
        with sessions() as session:
            session.execute(statement())
            assert watched.gone() == set()
            session.commit()
        assert watched.gone() == {"accounts"}

    def test_a_statement_of_which_nothing_is_said_is_refused(self, engine: Engine, watched: Watched) -> None:
        changes = CommitInvalidation(watched.cache).on(Account, tags=["owner:<owner>"])
        changes.listen(made := sessionmaker(engine))
        try:
            with made() as session, pytest.raises(DeclarationError, match="bulk_tags"):
                session.execute(update(Account).values(cents=1))
            with made() as session:
                session.execute(update(Owner).values(name=Owner.name))
                session.execute(select(Account))
        finally:
            changes.close()


class TestWho:
    def test_sessions_that_nobody_listens_to_are_left_alone(
        self, engine: Engine, sessions: sessionmaker[Session], watched: Watched
    ) -> None:
        with Session(engine) as session, session.begin():
            session.get_one(Account, 1).cents = 5
            session.execute(update(Account).values(cents=6))
        assert watched.gone() == set()

    def test_a_session_a_class_and_a_scope_can_be_listened_to(
        self, engine: Engine, changes: CommitInvalidation, watched: Watched
    ) -> None:
        class Own(Session):
            pass

        scoped = scoped_session(sessionmaker(engine))
        for number, (target, make) in enumerate(
            [(one := Session(engine), lambda: one), (Own, lambda: Own(engine)), (scoped, lambda: scoped())]
        ):
            changes.listen(target)
            with make() as session, session.begin():
                session.get_one(Account, 1).cents = 50 + number
            assert watched.gone() == {"account:1", "owner:ann"}
        scoped.remove()

    def test_it_stops_when_it_is_closed(
        self, sessions: sessionmaker[Session], changes: CommitInvalidation, watched: Watched
    ) -> None:
        changes.close()
        with sessions.begin() as session:
            session.get_one(Account, 1).cents = 5
        assert watched.gone() == set()

    def test_without_a_cache_it_is_the_default_one(self, engine: Engine) -> None:
        from novacron_cache import configure

        cache = configure()
        changes = CommitInvalidation().on(Account, tags=["account:<account_id>"])
        changes.listen(made := sessionmaker(engine))
        try:
            cache.set("key", 1, tags=["account:1"])
            with made.begin() as session:
                session.get_one(Account, 1).cents = 5
            assert cache.get("key") is None
        finally:
            changes.close()
            configure()


class TestTwoPhases:
    def test_what_will_change_is_neither_served_nor_stored_around_the_commit(
        self, engine: Engine, watched: Watched
    ) -> None:
        changes = CommitInvalidation(watched.cache, two_phase=True).on(Account, tags=["account:<account_id>"])
        made, seen = sessionmaker(engine), []
        changes.listen(made)

        @event.listens_for(made, "after_commit")
        def _committed(_session: Session) -> None:
            # The moment in which a process might die: the database has the change, and nothing was invalidated yet.
            seen.append(watched.cache.get("of account:1"))
            watched.cache.set("late", "stale", tags=["account:1"])

        try:
            with made.begin() as session:
                session.get_one(Account, 1).cents = 5
                session.flush()
                assert watched.cache.get("of account:1") == "account:1"
            assert seen == [None]
            assert watched.cache.get("late") is None
            watched.refill()
            assert watched.cache.get("of account:1") == "account:1"
        finally:
            changes.close()


class AsynchronousSQLite(SQLiteDialect_pysqlite):
    """SQLite's blocking driver under the asynchronous session, which asks for a dialect that says it is one."""

    is_async = True
    supports_statement_cache = True

    @classmethod
    def get_pool_class(cls, url: Any) -> type[StaticPool]:
        return StaticPool


class TestAsynchronous:
    async def test_an_asynchronous_session_awaits_the_invalidation(
        self, engine: Engine, changes: CommitInvalidation, watched: Watched, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(registry.impls, "sqlite.blocking", lambda: AsynchronousSQLite)
        asynchronous = create_async_engine(str(engine.url).replace("sqlite:", "sqlite+blocking:"))
        made = async_sessionmaker(asynchronous)
        changes.listen(made)
        awaited: list[str] = []
        carry_out = watched.cache.acarry_out

        async def counted(*args: Any, **options: Any) -> Any:
            awaited.append("invalidated")
            return await carry_out(*args, **options)

        monkeypatch.setattr(watched.cache, "acarry_out", counted)
        async with made.begin() as session:
            (await session.get_one(Account, 1)).cents = 5
            await session.flush()
            assert watched.gone() == set()
        assert watched.gone() == {"account:1", "owner:ann"}
        assert awaited == ["invalidated"]
        async with made() as session:
            (await session.get_one(Account, 1)).cents = 6
            await session.flush()
        assert watched.gone() == set()
        async with AsyncSession(asynchronous) as other, other.begin():
            (await other.get_one(Account, 1)).cents = 7
        assert watched.gone() == set(), "a session of another maker"
        await asynchronous.dispose()

    async def test_a_blocking_session_on_a_loops_thread_blocks(
        self, sessions: sessionmaker[Session], watched: Watched
    ) -> None:
        with sessions.begin() as session:
            session.get_one(Account, 1).cents = 5
        assert watched.gone() == {"account:1", "owner:ann"}


class TestDeclaring:
    @pytest.mark.parametrize(
        ("arguments", "error", "said"),
        [
            ({"model": dict, "tags": ["a"]}, DeclarationError, "not a mapped class"),
            ({"model": Account}, DeclarationError, "name what its changes invalidate"),
            ({"model": Account, "tags": ["account:<id>"]}, TemplateError, "no column 'id'"),
            ({"model": Account, "tags": "account:<account_id>"}, DeclarationError, "expected a list"),
            ({"model": Account, "tags": ["a"], "columns": ["sents"]}, DeclarationError, "no attribute 'sents'"),
            ({"model": Owner, "tags": ["owner:<accounts>"]}, TemplateError, "no column 'accounts'"),
        ],
    )
    def test_a_mistake_is_told_at_once(self, arguments: dict[str, Any], error: type[Exception], said: str) -> None:
        with pytest.raises(error, match=said):
            CommitInvalidation().on(**arguments)
