"""Progress where there is no terminal of our own: a notebook, somebody's script."""

from typing import Any

from frostline.loop.run import Moment, Observer, Run


class Bar(Observer):
    """A bar over the tasks: tqdm's, in a notebook its widget where there are widgets."""

    def __init__(self) -> None:
        self._bar: Any = None

    def started(self, run: Run) -> None:
        self._bar = _tqdm()(
            total=len(run.stream), unit="task", bar_format="{l_bar}{bar}| {elapsed}<{remaining}{postfix}"
        )

    def progress(self, run: Run, moment: Moment) -> None:
        self._bar.n = round(moment.task + moment.done, 2)
        self._bar.set_postfix_str(f"loss {moment.loss:.3f}")

    def task_done(self, run: Run, index: int) -> None:
        row = [value for value in run.progress.accuracy[-1][: index + 1] if value is not None]
        self._bar.n = index + 1
        if row:
            self._bar.set_postfix_str(f"accuracy so far {sum(row) / len(row):.3f}")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _tqdm() -> Any:
    from importlib.util import find_spec

    if find_spec("ipywidgets") is not None:
        from tqdm.auto import tqdm
    else:
        from tqdm import tqdm
    return tqdm
