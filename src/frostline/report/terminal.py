"""The terminal: progress while a run goes on, then the accuracy matrix, the metrics and the bill."""

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from frostline.loop.run import Moment, Observer, Run
from frostline.report.console import program, wide_console
from frostline.report.outcome import as_sentence, sentence
from frostline.report.tables import (
    accuracy_table,
    against_full_lines,
    answer_tables,
    bill_table,
    harness_tables,
    metrics_table,
    perplexity_tables,
    saving_lines,
    si,
    token_lines,
)

SAY_WITHIN_EVERY_S = 30.0  # without a terminal, within a task
SAY_EVERY_S = 10.0  # without a terminal


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        rate = task.fields.get("rate")
        return Text("" if not rate else f"{si(rate)} images/s", style="dim")


class TerminalReport(Observer):
    """Show a run to a person: a bar on a terminal, tables and a sentence at the end; brief: of those the sentence only."""

    def __init__(
        self,
        strategy: str,
        seeds: Sequence[int] = (),
        *,
        whole: Path | None = None,
        bar: bool = True,
        brief: bool = False,
    ):
        self.strategy = strategy
        self.whole = whole  # the folder that a resume is given
        self.brief = brief
        self.seeds = list(seeds)  # more than one: this watches the first of runs that advance together
        self.console = wide_console()
        self._bar = bar and self.console.is_terminal
        self._progress: Progress | None = None
        self._said = time.monotonic()

    def started(self, run: Run) -> None:
        """Say what is about to happen and start the bar."""
        stream, progress = run.stream, run.progress
        size = sum(p.numel() for p in run.model.parameters())
        going_on = f", going on at task {progress.task}" if progress.accuracy else ""
        self.console.print(
            f"[bold]{escape(stream.name)}[/] ({stream.scenario}-incremental, {len(stream)} tasks)  "
            f"{escape(self.strategy)} with {escape(str(run.selector))}{self._which()}  "
            f"{si(size)} parameters on {run.device}{going_on}",
            soft_wrap=True,
        )
        if self.whole is not None:
            self.console.print(
                f"[dim]if it is killed: {escape(program())} {escape(shlex.quote(f'resume={self.whole}'))}[/]",
                soft_wrap=True,
                highlight=False,
            )
        if self._bar:
            self._progress = Progress(
                TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("loss {task.fields[loss]}"), _Rate(), TimeRemainingColumn(),
                console=self.console, transient=True,
            )  # fmt: skip
            self._progress.start()
            self._progress.add_task("task 0", total=len(stream), loss="-", rate=None, completed=progress.task)

    def _which(self) -> str:
        return f", seeds {', '.join(map(str, self.seeds))} at once" if len(self.seeds) > 1 else ""

    def progress(self, run: Run, moment: Moment) -> None:
        """Move the bar; where there is none, say a word in a long task."""
        if self._progress is None and not self.brief and time.monotonic() - self._said >= SAY_WITHIN_EVERY_S:
            self._said = time.monotonic()
            self.console.print(
                f"[dim]task {moment.task + 1}/{len(run.stream)}, {100 * moment.done:.0f} %, loss {moment.loss:.3f}[/]",
                soft_wrap=True, highlight=False,
            )  # fmt: skip
        if self._progress is not None:
            self._progress.update(
                self._progress.task_ids[0],
                completed=moment.task + moment.done,
                description=f"task {moment.task + 1}/{len(run.stream)}  epoch {moment.epoch + 1}",
                loss=f"{moment.loss:.3f}",
                rate=moment.samples_per_second,
            )

    def task_done(self, run: Run, index: int) -> None:
        """Say how the task went."""
        row, now = run.progress.accuracy[-1], time.monotonic()
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=index + 1)
        elif self.brief or now - self._said < SAY_EVERY_S:  # a log of many short tasks would be all lines
            return
        self._said = now
        if row[index] is not None:
            seen = [f"{a:.2f}" for a in row[: index + 1] if a is not None]
            shown = " ".join(seen if len(seen) <= 10 else [*seen[:4], "...", *seen[-4:]])
            console = self.console if self._progress is None else self._progress.console
            console.print(f"[dim]after {escape(run.stream[index].name):<12} accuracy {shown}[/]", soft_wrap=True)

    def close(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def finished(self, content: dict[str, Any], folder: Path) -> None:
        """Print the tables and where everything is."""
        self.close()
        if len(self.seeds) > 1:
            return  # the others are not done
        with self.console:  # written in one piece: other runs may write there too
            if not self.brief:
                bill = bill_table(content, self.console.width)
                for table in (
                    accuracy_table(content),
                    *perplexity_tables(content),
                    *answer_tables(content),
                    *harness_tables(content),
                    metrics_table(content),
                    bill,
                ):
                    self.console.print(table)
                for line in (*token_lines(content), *against_full_lines(content), *saving_lines(content)):
                    self.console.print(line, soft_wrap=True)
            self.console.print(f"Results, ledger and figures: [bold]{escape(str(folder))}[/]", soft_wrap=True)
            if text := as_sentence(sentence([content])):
                self.console.print(f"[bold]{text}[/]", soft_wrap=True, highlight=False)

    def summary(self, contents: list[dict[str, Any]], folder: Path) -> None:
        """Print a line a seed, their mean, and where everything is."""
        from frostline.report.seeds import seeds_table

        with self.console:
            self.console.print(seeds_table(contents))
            self.console.print(f"A run folder for each seed: [bold]{escape(str(folder))}[/]", soft_wrap=True)
            if text := as_sentence(sentence(contents)):
                self.console.print(f"[bold]{text}[/]", soft_wrap=True, highlight=False)
