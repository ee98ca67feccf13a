"""Where the rows of an observation lie: in a tensor, or on a disk that is read as they are asked for."""

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from robot_rl.errors import InputError
from robot_rl.spec import ArraySpec
from robot_rl.types import Array


class RowSource(Protocol):
    """Rows of recorded images, such as a column of an episode store."""

    def gather(self, rows: Array) -> Array:
        """The rows of these numbers. Shapes: (B,) int64 -> (B, *)."""


@runtime_checkable
class StoredRows(Protocol):
    """An array of an episode whose rows lie in a `RowSource`."""

    @property
    def column(self) -> RowSource:
        """Where they lie."""

    @property
    def store_rows(self) -> Array:
        """Their numbers there. Shapes: (T + 1,), int64."""


class MappedColumn:
    """Stands where a tensor (capacity, *) stands: knows for each row where it lies, and reads it when it is selected.

    Args:
        spec: of the observation.
        capacity: rows.
        device: to which selected rows are copied, from pinned memory where it is an accelerator.
    """

    def __init__(self, spec: ArraySpec, capacity: int, device: torch.device) -> None:
        self.shape = (capacity, *spec.shape)
        self.dtype = torch.uint8
        self.device = device
        self._source: RowSource | None = None
        self._row = np.zeros(capacity, np.int64)

    def write(self, rows: Array, values: Array | StoredRows, key: str) -> None:
        """Note where the rows of an episode lie.

        Raises:
            InputError: they do not lie in a store, or in another one than the rows before.
        """
        if not isinstance(values, StoredRows) or (self._source is not None and values.column is not self._source):
            raise InputError(
                f"observation '{key}' does not come from the one episode store that its other rows are read from: keep "
                "its images in memory with datasets.NAME.images=memory"
            )
        self._source = values.column
        self._row[rows] = values.store_rows

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """As of a tensor; `dim` is 0. Shapes: (B,) -> (B, *), uint8."""
        if dim != 0 or self._source is None:
            raise RuntimeError("rows are selected along dimension 0, after some were written")
        values = torch.from_numpy(self._source.gather(self._row[index.cpu().numpy()]))
        if self.device.type == "cpu":
            return values
        return values.pin_memory().to(self.device, non_blocking=True)


Column = Tensor | MappedColumn
