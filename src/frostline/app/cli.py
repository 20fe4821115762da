"""The `frostline` command."""

from pathlib import Path
from typing import Annotated

import typer

from frostline.core.checks import UsageError, one_of
from frostline.report.console import plainly

app = typer.Typer(
    help="Continual learning with the bill attached.", no_args_is_help=True, add_completion=False, rich_markup_mode=None
)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def run(context: typer.Context) -> None:
    """Run one experiment or a sweep: the same as `python run.py` (see `frostline run --help`)."""
    from frostline.app.launch import main as launch

    launch(context.args)


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(help="Folders of runs or sweeps; searched for result.json.")],
    out: Annotated[
        Path, typer.Option("--to", "--out", help="Folder to write the figure and the table as CSV to.")
    ] = Path("comparison"),
    html: Annotated[bool, typer.Option("--html", help="Write comparison.html: one page, figures that answer.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write comparison.json.")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="Write comparison.tex (booktabs).")] = False,
    figures: Annotated[
        bool, typer.Option("--figures", help="The page's figures as PNG, PDF and SVG, for a paper.")
    ] = False,
    paired: Annotated[
        bool, typer.Option("--paired", help="Say which is better, by how much, how surely: runs of one seed in pairs.")
    ] = False,
    by: Annotated[str, typer.Option(help="What pairs are compared by.")] = "accuracy",
    margin: Annotated[
        float | None, typer.Option(help="Say whether the cheaper of each pair is shown to be within this of the other.")
    ] = None,
    reprice: Annotated[
        str | None, typer.Option(help="Price the runs by another price book (conf/cost/NAME.yaml), such as aws_h100.")
    ] = None,
) -> None:
    """Compare runs: mean and 95 % confidence interval over seeds for each configuration, and accuracy against cost."""
    from frostline.app.config import conf_dir
    from frostline.report.compare import compare_folders

    books = conf_dir() / "cost"
    compare_folders(
        folders, out, page=html, as_json=as_json, latex=latex, figures=figures, paired=paired, by=by, margin=margin,
        book=reprice, books=books,
    )  # fmt: skip


@app.command()
def recommend(
    folders: Annotated[list[Path], typer.Argument(help="Folders of runs or sweeps; searched for result.json.")],
    max_cost: Annotated[float | None, typer.Option(help="The most it may cost, in --cost.")] = None,
    max_forgetting: Annotated[float | None, typer.Option(help="The most it may forget.")] = None,
    min_accuracy: Annotated[float | None, typer.Option(help="The least accuracy at the end.")] = None,
    prefer: Annotated[str, typer.Option(help="What to be best in.")] = "accuracy",
    cost: Annotated[
        str, typer.Option(help="of_full: share of full fine-tuning's operations; flops, seconds, usd ...")
    ] = "of_full",
) -> None:
    """Say which configuration to take within bounds, how surely, and what a cheaper and a better one would change."""
    from frostline.report.recommend import recommend as advise

    advise(
        folders,
        max_cost=max_cost,
        max_forgetting=max_forgetting,
        min_accuracy=min_accuracy,
        prefer=prefer,
        cost=cost,
    )


@app.command()
def reproduce(
    name: Annotated[
        str | None, typer.Argument(help="A paper, or a folder with a paper.yaml; none: all papers, and what came out.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Argument(help="SETTING=VALUE for every run, such as trainer.device=cuda.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="How many; default the protocol's.")] = None,
    jobs: Annotated[int, typer.Option("-j", "--jobs", help="Runs side by side; the cores are shared out.")] = 1,
    to: Annotated[Path | None, typer.Option(help="Folder for the runs; default outputs/reproduce/NAME.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="A run of the protocol; may be repeated.")] = None,
    record: Annotated[bool, typer.Option("--record", help="Keep the figures beside the paper's, for others.")] = False,
) -> None:
    """Run a paper's protocol and say whether its figures are reproduced; without a name, list them with their state."""
    from frostline.app.reproduce import reproduce as run_paper
    from frostline.app.reproduce import show_papers

    if name is None:
        show_papers()
        return
    run_paper(name, settings or (), seeds=seeds, jobs=jobs, out=to, only=only or (), record=record)


@app.command()
def upload(
    folders: Annotated[list[Path], typer.Argument(help="Folders of runs or sweeps that W&B recorded offline.")],
    project: Annotated[str | None, typer.Option(help="Another project than the runs name.")] = None,
    entity: Annotated[str | None, typer.Option(help="Another user or team than the runs name.")] = None,
) -> None:
    """Send what Weights & Biases recorded offline, and a sweep's comparison; nothing is sent twice."""
    from frostline.app.upload import upload as send

    send(folders, project, entity)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a complete run.")],
    to: Annotated[Path, typer.Option(help="Folder to write to.")],
    program: Annotated[str, typer.Option("--format", help="torch (model.pt2), onnx, or none: weights only.")] = "torch",
    allow: Annotated[
        list[str] | None, typer.Option(help="A class of your own that the run names; may be repeated.")
    ] = None,
) -> None:
    """Write a run's model for use without frostline, under its original names, and check it against the run's own logits."""
    from frostline.app.export import export as write

    for name, distance in write(run, to, program, allow or ()).items():
        typer.echo(f"{name}: within {distance:.1e} of the run's logits")
    typer.echo(f"Written to {to}")


@app.command()
def drift(
    run: Annotated[Path, typer.Argument(help="Folder of a complete run.")],
    data: Annotated[
        list[str] | None,
        typer.Argument(
            help="A file or folder, or stream.KEY=VALUE; none: later tasks of the run's stream (--learned)."
        ),
    ] = None,
    learned: Annotated[
        int | None, typer.Option(help="How many tasks of the run's stream are known; default all.")
    ] = None,
    against: Annotated[
        str, typer.Option(help="'learned': all that is known; 'previous': the task before each.")
    ] = "learned",
    samples: Annotated[int, typer.Option(help="Looked at of each task.")] = 1000,
    alpha: Annotated[float, typer.Option(help="The chance of a false alarm, over everything looked at.")] = 0.01,
    at_least: Annotated[float, typer.Option(help="How large a difference counts, from 0 to 1.")] = 0.15,
    allow: Annotated[
        list[str] | None, typer.Option(help="A class of your own that the run names; may be repeated.")
    ] = None,
) -> None:
    """Say whether new data differ from what a run learned from: labels, inputs, each block; and what to retrain."""
    from frostline.app.drift import drift as look

    look(run, data or (), learned, against, samples, alpha, at_least, allow or ())


@app.command(name="list")
def list_options(
    what: Annotated[
        str | None, typer.Argument(help="'strategies': their table, with papers and what they store.")
    ] = None,
    markdown: Annotated[bool, typer.Option(help="The table as docs/strategies.md has it.")] = False,
) -> None:
    """List what can be chosen: streams, models, strategies, selectors, experiments."""
    from frostline.app.listing import show_options, show_strategies

    if what is None:
        show_options()
        return
    one_of("frostline list", what, ("strategies",))
    show_strategies(markdown)


@app.command()
def doctor(
    data_root: Annotated[str | None, typer.Option(help="Where data sets are; default $FROSTLINE_DATA or data.")] = None,
) -> None:
    """Show versions, the devices and the data sets that are found here."""
    from frostline.app.listing import show_doctor

    show_doctor(data_root)


def main() -> None:
    """Run the command; a bad value is one message, not a traceback."""
    plainly()
    try:
        app()
    except UsageError as error:
        typer.echo(f"frostline: {error}", err=True)
        raise SystemExit(1) from error
