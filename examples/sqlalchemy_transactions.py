"""Invalidate when a database transaction has committed, and never when it was rolled back.

`deferred_invalidation()` around a transaction collects what is invalidated inside, applies it after the commit and
drops it when the transaction fails. Where the process may die between the commit and the invalidation, `invalidating()`
around the transaction holds what will change until both are done.

Run it with:  python examples/sqlalchemy_transactions.py
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import CheckConstraint, create_engine
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from novacron_cache import Cache, CacheModel, cached


class Base(DeclarativeBase):
    pass


class AccountRow(Base):
    __tablename__ = "accounts"
    __table_args__ = (CheckConstraint("cents >= 0", name="no_debt"),)
    account_id: Mapped[str] = mapped_column(primary_key=True)
    cents: Mapped[int]


class Account(CacheModel, key="account:<account_id>", ttl="10m", tags=["account:<account_id>"]):
    account_id: str
    cents: int


def main() -> None:
    with TemporaryDirectory() as directory:
        engine = create_engine(f"sqlite:///{Path(directory) / 'bank.db'}")
        Base.metadata.create_all(engine)
        sessions = sessionmaker(engine)
        try:
            with Cache() as cache:
                run(sessions, cache)
        finally:
            engine.dispose()


def run(sessions: sessionmaker[Session], cache: Cache) -> None:
    loads = 0

    @cached(Account, cache=cache)
    def account(account_id: str) -> Account:
        nonlocal loads
        loads += 1
        with sessions() as session:
            row = session.get_one(AccountRow, account_id)
            return Account(account_id=row.account_id, cents=row.cents)

    def pay(session: Session, source: str, target: str, cents: int) -> None:
        for account_id, change in ((target, cents), (source, -cents)):
            session.get_one(AccountRow, account_id).cents += change
            cache.invalidate_tags("account:<account_id>", account_id=account_id)
            session.flush()

    with sessions.begin() as session:
        session.add_all([AccountRow(account_id="ann", cents=100), AccountRow(account_id="bob", cents=0)])
    assert (account("ann").cents, account("bob").cents) == (100, 0)

    # The transaction stands inside: it commits first, then what it named is invalidated.
    with cache.deferred_invalidation(), sessions.begin() as session:
        pay(session, "ann", "bob", 30)
        # Nothing is committed yet, and nothing invalidated: who reads now gets the old state, from the cache.
        assert (account("ann").cents, account("bob").cents, loads) == (100, 0, 2)
    assert (account("ann").cents, account("bob").cents, loads) == (70, 30, 4)
    print("committed:   ann has 70, bob has 30; both were loaded anew")

    # A transaction that fails invalidates nothing: what is cached is still the truth.
    try:
        with cache.deferred_invalidation(), sessions.begin() as session:
            pay(session, "ann", "bob", 1000)
    except IntegrityError:
        pass
    assert (account("ann").cents, account("bob").cents, loads) == (70, 30, 4)
    print("rolled back: nothing was invalidated, nothing loaded")

    # Without the block, an invalidation before the commit comes too early: a reader brings the old state back.
    with sessions.begin() as session:
        pay(session, "ann", "bob", 10)
        assert account("ann").cents == 70
    assert account("ann").cents == 70, "stale, and until its ttl ends"
    print("too early:   a reader between the invalidation and the commit cached 70 for ann, who has 60")
    cache.invalidate("account:ann", "account:bob")

    # In two phases: from here on nobody serves or stores these accounts, whatever becomes of this process.
    with cache.invalidating(tags=["account:ann", "account:bob"]), sessions.begin() as session:
        session.get_one(AccountRow, "ann").cents -= 20
        session.get_one(AccountRow, "bob").cents += 20
        assert account("ann").cents == 60  # what is loaded now is invalid when the block ends
    assert (account("ann").cents, account("bob").cents) == (40, 60)
    print("two phases:  held before the commit, invalidated after it")


if __name__ == "__main__":
    main()
