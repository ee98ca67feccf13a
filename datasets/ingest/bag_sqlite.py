"""Databases of rosbag2's sqlite3 storage, opened so that nothing is written beside them."""

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from robot_rl.datasets.ingest.bag_files import (
    PREFIX_BYTES,
    ZSTD_SIGNATURE,
    BagFile,
    Columns,
    Messages,
    Topic,
    clear_errors,
    unpack_message,
)
from robot_rl.datasets.schema import Finding
from robot_rl.errors import InputError

SIGNATURE = b"SQLite format 3\0"
LOGS = ("-wal", "-journal")
ROWS_AT_ONCE = 500  # below the number of parameters that SQLite takes
SMALLEST_ROW = 8  # bytes that a message takes in the file at least


def is_recording(path: Path) -> bool:
    """Whether a database has the tables of rosbag2."""
    query = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN ('topics', 'messages')"
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as database:
            return bool(database.execute(query).fetchone() == (2,))
    except (sqlite3.Error, UnicodeDecodeError):
        return path.suffix == ".db3"  # damaged: its reader says how


class SqliteFile(BagFile):
    """One database."""

    def __init__(self, path: Path, shown: Path) -> None:
        super().__init__(path, shown)
        self._copy: tempfile.TemporaryDirectory[str] | None = None

    def index(self) -> dict[Topic, Columns]:
        """See `BagFile.index`."""
        self._with_log()
        with self._open() as database:
            tables = dict(database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall())
            for name in ("topics", "messages"):
                if "CREATE TABLE" not in str(tables.get(name, "")).upper():
                    raise InputError(f"{self.shown}: there is no table '{name}': it is no recording of rosbag2")
            definitions = {}
            if "message_definitions" in tables:
                query = "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
                definitions = {str(kind): (str(form), str(text)) for kind, form, text in database.execute(query)}
            topics: dict[int, Topic] = {}
            for number, name, kind, encoding in database.execute(
                "SELECT id, name, type, serialization_format FROM topics ORDER BY id"
            ):
                form, text = definitions.get(str(kind), ("", ""))
                topics[number] = Topic(
                    name=str(name),
                    type=str(kind),
                    encoding=str(encoding),
                    definition=text,
                    definition_format=form,
                )
            return self._messages(database, topics)

    def _messages(self, database: sqlite3.Connection, topics: dict[int, Topic]) -> dict[Topic, Columns]:
        columns = {number: Columns() for number in topics}
        most = self.path.stat().st_size // SMALLEST_ROW
        query = f"SELECT id, topic_id, timestamp, length(data), substr(data, 1, {PREFIX_BYTES}) FROM messages"
        with clear_errors(f"{self.shown}: table messages"):
            for count, (row, topic, time_ns, size, prefix) in enumerate(database.execute(query)):
                if count > most or not isinstance(prefix, bytes) or topic not in columns:
                    raise InputError(f"{self.shown}: row {row} of the table messages is damaged")
                if prefix.startswith(ZSTD_SIGNATURE):
                    (data,) = database.execute("SELECT data FROM messages WHERE id = ?", (row,)).fetchone()
                    prefix = unpack_message(data, f"{self.shown}: message {row}", PREFIX_BYTES)
                columns[topic].add(time_ns, prefix, 0, row, size)
        out: dict[Topic, Columns] = {}
        for number, topic in topics.items():
            if topic in out:
                out[topic].extend(columns[number])
            else:
                out[topic] = columns[number]
        return out

    def payloads(self, messages: Messages) -> list[bytes]:
        """See `BagFile.payloads`."""
        rows = messages.offset.tolist()
        found: dict[int, bytes] = {}
        with self._open() as database:
            ordered = sorted(rows)
            for start in range(0, len(ordered), ROWS_AT_ONCE):
                part = ordered[start : start + ROWS_AT_ONCE]
                marks = ",".join("?" * len(part))
                found.update(database.execute(f"SELECT id, data FROM messages WHERE id IN ({marks})", part))
        try:
            out = [found[row] for row in rows]
        except KeyError as error:
            raise InputError(
                f"{self.shown}: message {error} is gone: the file has changed since it was opened"
            ) from None
        if out and out[0].startswith(ZSTD_SIGNATURE):
            return [unpack_message(data, str(self.shown)) for data in out]
        return out

    def close(self) -> None:
        """See `BagFile.close`."""
        if self._copy is not None:
            self._copy.cleanup()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_copy": None}

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """The database, read-only, as it is on disk."""
        place = self.path.resolve().as_uri()
        try:
            with closing(sqlite3.connect(f"{place}?mode=ro&immutable=1", uri=True)) as database:
                database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(1 << 20, self.path.stat().st_size))
                database.execute("PRAGMA trusted_schema = OFF")
                yield database
        except (sqlite3.Error, OSError, OverflowError, UnicodeDecodeError) as error:
            raise InputError(f"{self.shown} is damaged, or no recording of rosbag2: {error}") from error

    def _with_log(self) -> None:
        """A recorder that was killed leaves a log or journal beside the database: both are read from a copy."""
        beside = [self.path.with_name(self.path.name + suffix) for suffix in LOGS]
        logs = [log for log in beside if log.is_file() and log.stat().st_size]
        if not logs:
            return
        self._copy = tempfile.TemporaryDirectory(prefix="robot_rl_bag_")
        copy = Path(self._copy.name) / self.path.name
        try:
            for file in (self.path, *logs):
                shutil.copyfile(file, copy.with_name(file.name))
            with closing(sqlite3.connect(copy)) as database:
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                database.execute("SELECT count(*) FROM sqlite_master")  # rolls back what a journal says
        except (sqlite3.Error, UnicodeDecodeError, OSError) as error:
            raise InputError(f"{logs[0]} does not fit to its database: {error}") from error
        self.path = copy
        names = " and ".join(log.name for log in logs)
        text = f"the recorder was killed: what it left in {names} is read too"
        self.findings.append(Finding(severity="information", place=self.shown.name, text=text))
