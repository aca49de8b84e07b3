"""Progress is told after the first batch, and then every few seconds."""

from __future__ import annotations

from reflora_cli.serving.predict import Progress


class Heard:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_progress_tells_speed_and_time_left_of_what_is_done_now() -> None:
    times = iter([0.0, 1.0, 2.0, 4.0, 4.5, 9.0])
    heard = Heard()
    progress = Progress(1000, 500, heard, clock=lambda: next(times))  # type: ignore[arg-type]
    for done in (510, 520, 540, 545, 1000):
        progress.tell(done)
    assert heard.notes == [
        "510 of 1,000 rows, 10.0 rows/s, 49 s left",
        "540 of 1,000 rows, 10.0 rows/s, 46 s left",
    ]
