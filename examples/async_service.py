"""A small asynchronous service: many requests at once, one load for each key, and a change that is seen at once.

Run it with `python examples/async_service.py`.
"""

import asyncio
import time

from novacron_cache import Cache, CacheModel


class Quote(CacheModel, key="quote:<market>:<symbol>", ttl="2s", tags=["market:<market>"]):
    market: str
    symbol: str
    price: float


class Exchange:
    """Where quotes come from: slow, and asked as little as can be."""

    def __init__(self) -> None:
        self.prices = {"AAA": 10.0, "BBB": 20.0, "CCC": 30.0}
        self.asked = 0

    async def price(self, symbol: str) -> float:
        self.asked += 1
        await asyncio.sleep(0.02)
        return self.prices[symbol]


class Service:
    """What an application is made of; the cache is given to it, as everything else is."""

    def __init__(self, cache: Cache, exchange: Exchange) -> None:
        self.cache = cache
        self.exchange = exchange

        @cache.cached(Quote)
        async def quote(market: str, symbol: str) -> Quote:
            return Quote(market=market, symbol=symbol, price=await exchange.price(symbol))

        self.quote = quote

    async def handle(self, number: int) -> float:
        """Answer one request."""
        symbol = ("AAA", "BBB", "CCC")[number % 3]
        quote: Quote = await self.quote("north", symbol)
        return quote.price

    async def change(self, symbol: str, price: float) -> None:
        """Set a price, and have everybody who asks from now on see it."""
        self.exchange.prices[symbol] = price
        await self.cache.ainvalidate_tags("market:<market>", market="north")


async def main() -> None:
    exchange = Exchange()
    async with Cache() as cache:
        service = Service(cache, exchange)

        started = time.perf_counter()
        answers = await asyncio.gather(*(service.handle(number) for number in range(300)))
        print(f"300 requests at once: {len(answers)} answers, the exchange was asked {exchange.asked} times, "
              f"{1000 * (time.perf_counter() - started):.0f} ms")  # fmt: skip
        assert exchange.asked == 3

        started = time.perf_counter()
        await asyncio.gather(*(service.handle(number) for number in range(300)))
        print(f"300 more: {1000 * (time.perf_counter() - started):.0f} ms, all from memory")
        assert exchange.asked == 3

        await service.change("AAA", 11.0)
        assert await service.handle(0) == 11.0
        print("a new price is seen by the next request")

        stats = cache.stats()
        print(f"{stats.calls} calls: hits {stats.hits}, joined {stats.joined}, loads {stats.loads}")


if __name__ == "__main__":
    asyncio.run(main())
