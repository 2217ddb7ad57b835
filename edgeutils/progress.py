"""Say on stderr how far long work is: a live line on a terminal, a line now and then in a log."""

import time

from rich.console import Console


class Progress:
    """Progress of the stages; in a log it speaks at most every `every_s` seconds."""

    def __init__(self, every_s: float = 15.0):
        self.console = Console(stderr=True, highlight=False)
        self.every_s = every_s
        self._status = self.console.status("") if self.console.is_terminal else None
        self._start = self._said = time.monotonic()
        self._label = ""

    def say(self, text: str) -> None:
        """Print one line."""
        self.console.print(text, soft_wrap=True, markup=False)

    def start(self, name: str, number: int, total: int) -> None:
        """Announce a piece of work, the `number`-th of `total`."""
        self._start = self._said = time.monotonic()
        self._label = f"[{number}/{total}] {name}"
        self.say(f"{self._label} ...")
        if self._status:
            self._status.start()

    def step(self, cell: int, cells: int) -> None:
        """Tell which cell of the piece is running."""
        self.tell(f"cell {cell + 1} of {cells}, {time.monotonic() - self._start:.0f} s")

    def tell(self, how_far: str) -> None:
        """Tell how far the piece is, in words."""
        now, text = time.monotonic(), f"{self._label}: {how_far}"
        if self._status:
            self._status.update(text.replace("[", r"\["))
        elif now - self._said > self.every_s:
            self._said = now
            self.say(text)

    def stop(self, how: str) -> None:
        """Tell how the piece ended."""
        if self._status:
            self._status.stop()
        self.say(f"{self._label}: {how} after {time.monotonic() - self._start:.0f} s")
