"""bayes: how likely a message is spam, learned from what people sorted by hand with `relayproxy learn`.

For those who run no Rspamd. Notes a score and decides nothing. Must not know how words are found or chances combined.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field, model_validator

from relayproxy.api import App, Direction, Mail, Mistake, Plugin, Settings, Setup, hook
from relayproxy.builtin._bayes_score import spam_probability
from relayproxy.builtin._bayes_store import Store
from relayproxy.builtin._bayes_words import words_of


class BayesSettings(Settings):
    """Where the store is, and what a result is worth."""

    file: str = "bayes.db"
    """The store (SQLite), which `relayproxy learn` makes and fills."""
    min_messages: int = Field(100, ge=1)
    """Messages of each kind that have to be learned before there is a result."""
    spam_at: float = Field(0.95, gt=0.5, le=1)
    """The probability from which a message is taken for spam."""
    spam_score: float = 4.0
    """What that adds to the score."""
    ham_at: float = Field(0.05, ge=0, lt=0.5)
    """The probability up to which a message is taken for ham."""
    ham_score: float = Field(-2.0, le=0)
    """What that adds to the score, so zero or less."""

    @model_validator(mode="after")
    def _named(self) -> "BayesSettings":
        if not self.file:
            raise ValueError("the store needs a file")
        return self


class Bayes(Plugin[BayesSettings]):
    """Looks once the message is there."""

    name = "bayes"
    settings = BayesSettings
    after = ()
    directions = frozenset({Direction.INBOUND})

    def check(self, setup: Setup) -> Iterator[Mistake]:
        """A store that isn't there is no error: until there is one, there are no results."""
        path = setup.folder / self.options.file
        if not path.exists():
            yield Mistake(
                f"{path} is not there, so nothing was learned yet",
                ("file",),
                "make it with `relayproxy learn spam` and `relayproxy learn ham`",
                warning=True,
            )

    @hook
    def startup(self, app: App) -> None:
        """Open the store if it is there. Raises StoreFault for a file that is none."""
        self._path: Path = app.folder / self.options.file
        self._store: Store | None = None
        self._opened()

    @hook
    def shutdown(self) -> None:
        """Close the store."""
        if self._store is not None:
            self._store.close()

    @hook
    async def message(self, mail: Mail) -> None:
        """Note "bayes": hit for spam, pass for ham, neutral between them, none with too little learned."""
        store = self._opened()
        found = None if store is None else await asyncio.to_thread(self._judged, store, mail)
        if found is None:
            mail.note("bayes", "none", reason="too little was learned")
            return
        options = self.options
        probability = f"{found:.3f}"
        if found >= options.spam_at:
            mail.note("bayes", "hit", score=options.spam_score, probability=probability)
        elif found <= options.ham_at:
            mail.note("bayes", "pass", score=options.ham_score, probability=probability)
        else:
            mail.note("bayes", "neutral", probability=probability)

    def _opened(self) -> Store | None:
        """Return the store, which may have been made since it was last looked for."""
        if self._store is None and self._path.exists():
            self._store = Store(self._path)
        return self._store

    def _judged(self, store: Store, mail: Mail) -> float | None:
        spam, ham = store.totals()
        if min(spam, ham) < self.options.min_messages:
            return None
        return spam_probability(store.counts(words_of(mail.message)), spam, ham)
