"""What a run came to, as somebody in a notebook wants it: data frames, figures, a sentence."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from frostline.core.checks import UsageError
from frostline.records import results
from frostline.records.curve import COLUMNS, NAME

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


@dataclass
class Result:
    """What a run came to. content: what a run folder's result.json holds; model: the trained model; rows: of the curve."""

    content: dict[str, Any]
    model: nn.Module
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def accuracy(self) -> "pandas.DataFrame":
        """Accuracy on each task (columns) after each task (rows, the first the untrained model); NaN where not evaluated."""
        return self._matrix("accuracy")

    @property
    def loss(self) -> "pandas.DataFrame":
        """The mean loss, likewise."""
        return self._matrix("loss")

    @property
    def metrics(self) -> "pandas.Series":
        """Every metric by its name; NaN where it is not defined."""
        import pandas

        return pandas.Series(self.content["metrics"], name="metric", dtype=float)

    @property
    def ledger(self) -> "pandas.DataFrame":
        """The bill, a row for each phase of each task."""
        import pandas

        return pandas.DataFrame(self.content["ledger"])

    @property
    def curve(self) -> "pandas.DataFrame":
        """The learning curve: loss, rate, gradient norm and costs so far, about twice a second and where a task ends."""
        import pandas

        return pandas.DataFrame(self.rows, columns=list(COLUMNS))

    @property
    def sentence(self) -> str:
        """What was learned, kept and paid, in words."""
        from frostline.report.outcome import as_sentence, sentence

        return as_sentence(sentence([self.content]))

    def plot(self) -> "Figure":
        """Return mean accuracy on the tasks so far against what learning had cost by then."""
        from frostline.report.figures import accuracy_against_cost

        return accuracy_against_cost(self.content)

    def plot_matrix(self) -> "Figure":
        """Return the accuracy matrix as a heat map."""
        from frostline.report.figures import accuracy_matrix

        return accuracy_matrix(self.content)

    def plot_curve(self) -> "Figure":
        """Return loss, rate and gradient norm by step."""
        from frostline.report.figures import learning_curve

        return learning_curve(self.content, self.rows)

    def save(self, folder: str | Path) -> None:
        """Write result.json and its spreadsheets, which `frostline compare` reads; UsageError where there is a file."""
        if Path(folder).is_file():
            raise UsageError(f"{folder} is a file. Expected a folder.")
        Path(folder).mkdir(parents=True, exist_ok=True)
        results.write(Path(folder), self.content)
        if self.rows:
            self.curve.to_csv(Path(folder) / NAME, index=False)

    def _matrix(self, name: str) -> "pandas.DataFrame":
        import pandas

        tasks = self.content["stream"]["tasks"]
        return pandas.DataFrame(self.content[name], index=["untrained", *tasks], columns=tasks, dtype=float)

    def __repr__(self) -> str:
        return f"<{self.content['stream']['name']}: {self.sentence}>"
