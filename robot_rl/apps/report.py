"""`report.html`: one self-contained page that tells a person how a run went."""

import os
from pathlib import Path

from robot_rl.apps.report_details import data, diagnostics, films, reproduction, throughput
from robot_rl.apps.report_page import page
from robot_rl.apps.report_read import read_run
from robot_rl.apps.report_sections import (
    curves,
    environment_name,
    evaluation_table,
    headline,
    key_numbers,
    tiles,
    training_episodes,
)
from robot_rl.datasets.store_files import clear_disk_errors


def write_report(run: Path) -> Path:
    """Write `report.html` into a run folder, however far the run came. The page appears whole or not at all.

    Args:
        run: folder of a run: `metrics.jsonl`, and where there: `config.yaml`, `run.json`, `videos/*.mp4`.

    Returns:
        The path of the page, which needs no other file and no network.

    Raises:
        InputError: the folder is not a run, one of its files is broken, or the disk is full.
    """
    record = read_run(run)
    body = "".join(
        (
            headline(record),
            tiles(record),
            key_numbers(record),
            curves(record),
            films(record),
            training_episodes(record),
            diagnostics(record),
            throughput(record),
            evaluation_table(record),
            data(record),
            reproduction(record),
        )
    )
    path = run / "report.html"
    temporary = run / f".report.{os.getpid()}.tmp.html"
    try:
        with clear_disk_errors(path):
            temporary.write_text(page(f"{environment_name(record)}: {run.name}", body), "utf-8")
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
