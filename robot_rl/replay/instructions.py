"""The texts of a run: what each episode was asked to do, as numbers that fit into a batch."""


class Instructions:
    """A table of texts that grows; sources that share it agree on the numbers."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._number: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.texts)

    def number(self, text: str) -> int:
        """The number of a text; a new one gets the next."""
        if text not in self._number:
            self._number[text] = len(self.texts)
            self.texts.append(text)
        return self._number[text]
