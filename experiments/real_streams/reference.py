"""Beside the months that `frostline drift` names: when river's ADWIN raises an alarm, on the model's errors and on inputs."""

import json
import sys
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from frostline.app.building import build
from frostline.app.export import build_model, read_description
from frostline.records import results


def main(out: Path) -> None:
    from river import drift  # pyright: ignore[reportMissingImports]

    run = out / "frozen"
    content = results.read(run)
    node = OmegaConf.create(content["config"]["stream"])
    assert isinstance(node, DictConfig)
    stream, model = build(node, seed=0), build_model(run, read_description(run))
    detectors = {"errors": drift.ADWIN(), **{f"input {i}": drift.ADWIN() for i in range(stream.shape[0])}}
    alarms: dict[str, list[int]] = {name: [0] * len(stream) for name in detectors}
    for task in stream.tasks:
        (batch,) = task.test.batches(len(task.test))
        with torch.no_grad():
            wrong = (model(batch.x).argmax(1) != batch.y).float()
        seen = {"errors": wrong, **{f"input {i}": batch.x[:, i] for i in range(stream.shape[0])}}
        for name, values in seen.items():
            for value in values.tolist():
                detectors[name].update(value)
                alarms[name][task.index] += detectors[name].drift_detected
    ours = {task["task"]: task["differences"] for task in json.loads((run / "drift.json").read_text())["tasks"]}
    print("| month | inputs differ | loss differs | ADWIN's alarms on errors | on inputs |\n|---|---|---|---|---|")
    for task in stream.tasks[1:]:
        mine = ours[task.name]
        cells = [f"{mine[what]['statistic']:.2f}{' *' if mine[what]['moved'] else ''}" for what in ("inputs", "loss")]
        inputs = sum(alarms[name][task.index] for name in alarms if name != "errors")
        print(f"| {task.name} | {' | '.join(cells)} | {alarms['errors'][task.index]} | {inputs} |")


main(Path(sys.argv[1]))
