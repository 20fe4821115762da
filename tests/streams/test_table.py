"""Tables and texts as people have them."""

import json

import numpy as np
import pandas
import pytest
import torch
from safetensors.numpy import save_file

from frostline.core.checks import UsageError
from frostline.streams import from_table
from frostline.streams.text_table import text_table


def frame(rows=60):
    rng = np.random.default_rng(0)
    return pandas.DataFrame(
        {
            "size": rng.normal(5, 2, rows),
            "colour": rng.choice(["red", "blue"], rows),
            "month": [f"month {1 + i % 12}" for i in range(rows)],
            "kind": [["a", "b", "c"][i % 3] for i in range(rows)],
        }
    )


def everything(source):
    return next(iter(source.batches(10_000)))


@pytest.mark.parametrize("ending", ["csv", "tsv", "npz", "safetensors"])
def test_the_same_table_in_any_file(ending, tmp_path):
    path = tmp_path / f"data.{ending}"
    data = frame()[["size"]].assign(kind=[i % 3 for i in range(60)])
    if ending in ("csv", "tsv"):
        data.to_csv(path, sep="," if ending == "csv" else "\t", index=False)
    else:
        arrays = {"x": data[["size"]].to_numpy(), "y": data["kind"].to_numpy()}
        np.savez(path, **arrays) if ending == "npz" else save_file(arrays, path)
    stream = from_table(str(path), "kind", tasks=3)
    assert [task.classes for task in stream.tasks] == [(0,), (1,), (2,)]
    assert stream.shape == (1,)
    both = torch.cat([everything(t.train).x for t in stream.tasks])
    assert abs(float(both.mean())) < 1e-5  # standardised by the training rows
    assert float(both.std()) == pytest.approx(1, abs=1e-4)
    assert sum(len(t.train) + len(t.test) for t in stream.tasks) == 60


def test_words_become_columns_and_classes_are_named_in_their_order():
    stream = from_table(frame().drop(columns="month"), "kind", tasks=3, standardise=False)
    x = everything(stream[0].train).x
    assert x.shape[1] == 3  # size, blue, red
    assert set(x[:, 1:].sum(1).tolist()) == {1.0}
    assert [task.name for task in stream.tasks] == ["0: a", "1: b", "2: c"]


def test_a_column_in_its_order_is_drift():
    stream = from_table(frame(), "kind", task_column="month", features=["size"])
    assert stream.scenario == "domain"
    assert [task.name for task in stream.tasks] == [f"month {i}" for i in range(1, 13)]  # 2 before 10
    assert all(task.visible is None for task in stream.tasks)
    cut = from_table(frame(), "kind", task_column="month", tasks=4, features=["size"])
    assert [len(t.train) + len(t.test) for t in cut.tasks] == [15] * 4
    rows = from_table(frame(), "kind", task_column="row", tasks=6, features=["size"], standardise=False)
    first = torch.cat([everything(rows[0].train).x, everything(rows[0].test).x]).sort(0).values
    torch.testing.assert_close(first[:, 0], torch.tensor(np.sort(frame()["size"][:10]), dtype=torch.float32))


def test_training_and_test_rows_never_meet_and_stay_the_same():
    a, b = (from_table(frame(), "kind", task_column="month", features=["size"], seed=s) for s in (0, 1))
    for one, other in zip(a.tasks, b.tasks, strict=True):
        assert torch.equal(everything(one.train).x, everything(other.train).x)
        train, test = everything(one.train).x[:, 0].tolist(), everything(one.test).x[:, 0].tolist()
        assert not set(train) & set(test)


def test_other_rows_to_test_on():
    train, test = frame(60), frame(30)
    stream = from_table(train, "kind", test_path=test, tasks=3, features=["size", "colour"])
    assert [len(t.test) for t in stream.tasks] == [10] * 3
    assert [len(t.train) for t in stream.tasks] == [20] * 3
    lonely = test.assign(colour="red")
    assert from_table(train, "kind", test_path=lonely, tasks=3, features=["size", "colour"]).shape == (3,)


def test_regression(make_run):
    data = frame().assign(target=lambda d: d["size"] * 2)
    stream = from_table(data, "target", ["size"], task_column="kind", objective="regression")
    assert stream.objective.unit == "squared error"
    assert everything(stream[0].train).y.is_floating_point()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"label": "kidn"}, "Did you mean 'kind'"),
        ({"task_column": "mont"}, "Did you mean 'month'"),
        ({"features": ["sice"]}, "Did you mean 'size'"),
        ({"objective": "regresion"}, "Did you mean 'regression'"),
        ({"objective": "regression", "label": "size"}, r"Expected stream\.task_column"),
        ({"scenario": "clas"}, "Did you mean 'class'"),
        ({"test_share": 0.0}, "nearest valid value is 0.01"),
        ({"task_column": "one"}, "has one value"),
        ({"features": ["empty"]}, "'empty' has no value in 60 rows"),
        ({"features": ["names"], "label": "colour"}, "at most 64 categories"),
        ({"task_column": "month", "tasks": 100}, "nearest valid value"),
        ({"features": ["size", "kind"]}, "names the label 'kind' itself"),
        ({"features": []}, "at least one feature"),
        ({"features": ["asked"]}, "holds numbers, but '\\?' in 1 rows"),
        ({"features": ["comma"]}, "decimal commas \\('0,5'\\)"),
        ({"features": ["holes"]}, "'holes' has no value in 1 rows"),
        ({"features": ["infinite"]}, "an infinite value"),
        ({"objective": "regression", "task_column": "month"}, "'kind' holds no numbers"),
        ({"task_column": "unclear"}, "may be day and month or month and day"),
        ({"task_column": "no_date"}, "is no date"),
        ({"label": "share", "task_column": "month"}, r"with a fraction, such as 0\.5"),
        ({"tolerance": -1.0}, r"stream\.tolerance=-1"),
    ],
)
def test_what_cannot_be_is_refused(changed, message):
    data = frame(90 if "names" in str(changed) else 60)
    n = len(data)
    data["share"] = 0.5
    data = data.assign(one=1, empty=np.nan, names=[f"name {i}" for i in range(n)], infinite=np.inf)
    data = data.assign(asked=["?"] + ["1"] * (n - 1), comma=["0,5", "1,25"] * (n // 2), holes=[None] + ["a"] * (n - 1))
    data = data.assign(unclear=["01/02/2024", "02/01/2024"] * (n // 2), no_date=["41/42/2024", "42/41/2024"] * (n // 2))
    with pytest.raises(UsageError, match=message):
        from_table(data, **{"label": "kind", "features": ["size"], **changed})


def test_files_that_are_none(tmp_path):
    with pytest.raises(UsageError, match="there is no such file"):
        from_table(str(tmp_path / "nowhere.csv"))
    (tmp_path / "data.xls").write_text("")
    with pytest.raises(UsageError, match=r"not '\.xls'"):
        from_table(str(tmp_path / "data.xls"))
    (tmp_path / "data.npz").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="could not be read"):
        from_table(str(tmp_path / "data.npz"))
    np.savez(tmp_path / "pickled.npz", x=np.array([{}, {}], dtype=object), y=np.zeros(2))
    with pytest.raises(UsageError, match="could not be read"):  # a pickle may hold code
        from_table(str(tmp_path / "pickled.npz"))


TEXTS = [(f"please pay the bill number {i}", "pay") for i in range(6)] + [
    (f"turn the light {i} on", "light") for i in range(6)
]


@pytest.mark.parametrize("ending", ["csv", "json", "jsonl", "pairs.json", "split.json"])
def test_texts_in_any_file(ending, tmp_path):
    path = tmp_path / f"data.{ending}"
    records = [{"text": t, "label": n} for t, n in TEXTS]
    if ending == "csv":
        pandas.DataFrame(records).to_csv(path, index=False)
    elif ending == "jsonl":
        path.write_text("\n".join(map(json.dumps, records)))
    else:
        pairs = [list(pair) for pair in TEXTS]
        content = {
            "json": records,
            "pairs.json": pairs,
            "split.json": {"train": pairs, "test": pairs[::3], "other": []},
        }
        path.write_text(json.dumps(content[ending]))
    stream = text_table(str(path), tasks=2, length=16)
    assert [task.name for task in stream.tasks] == ["0: light", "1: pay"]
    assert everything(stream[0].train).x.dtype == torch.int64
    assert stream.shape == (16,)
    held = [2, 2] if ending == "split.json" else [1, 1]
    assert [len(t.test) for t in stream.tasks] == held


def test_a_file_of_groups_says_what_a_task_is(tmp_path):
    (tmp_path / "data.json").write_text(json.dumps([list(pair) for pair in TEXTS]))
    (tmp_path / "groups.json").write_text(json.dumps({"money": ["pay"], "home": ["light"]}))
    stream = text_table(str(tmp_path / "data.json"), groups=str(tmp_path / "groups.json"), length=16)
    assert [task.name for task in stream.tasks] == ["money", "home"]
    assert stream.scenario == "class"
    (tmp_path / "groups.json").write_text(json.dumps({"money": ["pay"], "home": ["lihgt"]}))
    with pytest.raises(UsageError, match="Did you mean 'lihgt'"):
        text_table(str(tmp_path / "data.json"), groups=str(tmp_path / "groups.json"), length=16)
    with pytest.raises(UsageError, match="Did you mean 'text'"):
        text_table(str(tmp_path / "data.json"), task_column="texr", length=16)


def test_test_rows_lack_no_column_and_constants_stay_small():
    train = frame().assign(rare="common")
    test = frame(30).assign(rare="common")
    with pytest.raises(UsageError, match="no column 'size'"):
        from_table(train, "kind", test_path=test.drop(columns="size"), tasks=3)
    stream = from_table(
        train.assign(one=1.0), "kind", test_path=test.assign(one=7.0), tasks=3, features=["size", "rare", "one"]
    )
    assert max(float(everything(t.test).x.abs().max()) for t in stream.tasks) < 10
    test.loc[5, "rare"] = "odd"
    with pytest.raises(UsageError, match="'rare_odd', which no training row has"):  # all its columns would be zeros
        from_table(train, "kind", test_path=test, tasks=3, features=["size", "rare"])


def test_large_numbers_keep_their_differences():
    data = frame().assign(time=1.6e9 + np.arange(60))
    stream = from_table(data, "kind", ["time"], tasks=3)
    assert len(torch.cat([everything(t.train).x for t in stream.tasks]).unique()) == sum(
        len(t.train) for t in stream.tasks
    )


@pytest.mark.parametrize(
    ("values", "order"),
    [
        (["March", "January", "february"], ["January", "february", "March"]),
        (["Wed", "Mon", "Sun"], ["Mon", "Wed", "Sun"]),
        (["3.12.2023", "28.2.2024", "1.3.2023"], ["1.3.2023", "3.12.2023", "28.2.2024"]),
        (["12/28/2023", "1/5/2024", "2/1/2023"], ["2/1/2023", "12/28/2023", "1/5/2024"]),
        (["2024-03-01", "2023-12-31", "2024-01-15"], ["2023-12-31", "2024-01-15", "2024-03-01"]),
        ([10, 2, 33], ["2", "10", "33"]),
        (["Q4 2020", "Q1 2021", "Q2 2020"], ["Q2 2020", "Q4 2020", "Q1 2021"]),
        (["12/2020", "1/2021", "2/2020"], ["2/2020", "12/2020", "1/2021"]),
        (["W10 2020", "W9 2020", "W1 2021"], ["W9 2020", "W10 2020", "W1 2021"]),
        (["Dec 2020", "January 2021", "mar 2020"], ["mar 2020", "Dec 2020", "January 2021"]),
        (["autumn 2020", "spring 2020", "summer 2019"], ["summer 2019", "spring 2020", "autumn 2020"]),
        (["1pm", "10 am", "9:30 a.m."], ["9:30 a.m.", "10 am", "1pm"]),
    ],
)
def test_the_order_of_a_task_column_is_that_of_time(values, order):
    stream = from_table(frame().assign(when=values * 20), "kind", ["size"], task_column="when")
    assert [task.name for task in stream.tasks] == order


def test_a_missing_word_is_refused_as_a_missing_number_is():
    data = frame()
    data.loc[3, "colour"] = None
    with pytest.raises(UsageError, match="'colour' has no value in 1 rows"):
        from_table(data, "kind", ["colour"], tasks=3)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_that_of_the_first_line(separator, tmp_path):
    data = frame().rename(columns={"size": "size (in cm), rounded"} if separator != "," else {})
    data.to_csv(tmp_path / "data.csv", sep=separator, index=False, encoding="utf-8-sig")
    assert from_table(str(tmp_path / "data.csv"), "kind", task_column="month").shape == (3,)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([{"text": "", "label": "a"}, {"text": "b", "label": "a"}], "no text in 1 rows, first in row 0"),
        ([{"text": "b", "label": "a"}, {"label": "a"}], "no text in 1 rows, first in row 1"),
        ([], "has no rows"),
    ],
)
def test_texts_must_be_there(records, message, tmp_path):
    (tmp_path / "data.json").write_text(json.dumps(records))
    with pytest.raises(UsageError, match=message if records else "(no rows|no column)"):
        text_table(str(tmp_path / "data.json"))


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "is no JSON"), ('{"a": ["pay"], "b": ["pay", "light"]}', "the label 'pay' is in 'a' and in 'b'")],
)
def test_groups_must_be_groups(content, message, tmp_path):
    (tmp_path / "data.json").write_text(json.dumps([list(pair) for pair in TEXTS]))
    (tmp_path / "groups.json").write_text(content)
    with pytest.raises(UsageError, match=message):
        text_table(str(tmp_path / "data.json"), groups=str(tmp_path / "groups.json"))


def test_a_tokenizer_that_is_none(tmp_path):
    (tmp_path / "data.json").write_text(json.dumps([list(pair) for pair in TEXTS]))
    with pytest.raises(UsageError, match=r"is no tokenizer\.json"):
        text_table(str(tmp_path / "data.json"), tokenizer=str(tmp_path / "data.json"))


def test_words_say_in_which_order_they_are_taken(capsys):
    from_table(frame(), "kind", ["size"], task_column="colour")
    assert "the tasks, by colour in this order: blue, red." in capsys.readouterr().out


def test_what_counts_as_right_goes_with_the_units_of_the_target():
    data = frame().assign(target=lambda d: d["size"] * 1000)
    given = {"features": ["size"], "task_column": "kind", "objective": "regression"}
    assert from_table(data, "target", **given).objective.tolerance == pytest.approx(
        500 * frame()["size"].std(), rel=1e-3
    )
    assert from_table(data, "target", tolerance=3.0, **given).objective.tolerance == 3.0


def test_rows_are_tested_before_they_are_learned():
    data = frame(60)[["size"]].assign(kind=[i % 2 for i in range(60)])
    data.loc[20:, "size"] += 100
    stream = from_table(data, "kind", task_column="row", tasks=3, prequential=True)
    assert [len(task.train) for task in stream.tasks] == [20, 20, 20]
    for task in stream.tasks:
        assert torch.equal(everything(task.train).x, everything(task.test).x)
        assert torch.equal(everything(task.train).y, everything(task.test).y)
    first = everything(stream[0].train).x
    assert abs(float(first.mean())) < 1e-6  # standardised by what is known by then
    assert float(everything(stream[1].train).x.mean()) > 10
    with pytest.raises(UsageError, match=r"prequential=true tests rows in the order .*stream.task_column"):
        from_table(data, "kind", prequential=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["2024-03-01"] * 60, "has one value, '2024-03-01'"),
        (["2024-03-01", "2024-13-01", "2024-04-01"] * 20, "'2024-13-01' is no time, as '2024-03-01' and others are"),
        (["2024-03-01", "2024-03-02", "yesterday"] * 20, r"'yesterday' is no time, .*\(20 such rows\)"),
        (["1.3.2024", "2.3.2024", "?"] * 20, r"'\?' is no time"),
        (["1.3.2024", "2.3.2024 later", "3.3.2024"] * 20, "follows the date in '2.3.2024 later' is no time of day"),
        ([1, 2, "three"] * 20, r"holds both numbers \(1\) and words \('three'\)"),
    ],
)
@pytest.mark.parametrize("tasks", [None, 3])
def test_times_that_are_no_times(values, message, tasks):
    with pytest.raises(UsageError, match=message):
        from_table(frame().assign(when=values), "kind", features=["size"], task_column="when", tasks=tasks)


NAMES = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
TWELVE = range(1, 13)


@pytest.mark.parametrize(
    "values",
    [
        [f"3/31/2024 {hour}:00" for hour in range(6, 18)],
        [f"3/31/2024 {(hour - 1) % 12 + 1}:00 {'AM' if hour < 12 else 'PM'}" for hour in range(6, 18)],
        [f"2024-03-31 {(hour - 1) % 12 + 1:02d}:00 {'AM' if hour < 12 else 'PM'}" for hour in range(6, 18)],
        [f"05-{name}-2024" for name in NAMES],
        [f"5 {name} 2024" for name in NAMES],
        [f"{name} 5, 2024" for name in NAMES],
        [f"2024 {name}" for name in NAMES],
        [f"2024-{name}" for name in NAMES],
        [f"{name}-24" for name in NAMES],
        [f"{month}/15/99" for month in (9, 10, 11, 12)] + [f"{month}/15/01" for month in range(1, 9)],
        [f"2024-03-31T{hour}:{minute}" for hour, minute in [("10", "59+02:00"), ("10", "00+00:00"), ("13", "00+02:00")]]
        + [f"2024-03-31T{hour}:00+00:00" for hour in range(12, 21)],
        [f"2024/{month}/05" for month in TWELVE],
        [f"week {week} 2024" for week in TWELVE],
        [f"1.2.{patch}" for patch in range(1, 13)],  # versions
        [f"{hour}:30" for hour in range(1, 13)],
    ],
    ids=lambda values: f"{values[0]} to {values[-1]}",
)
def test_times_come_in_their_order_however_they_are_written(values):
    rng = np.random.default_rng(0)
    rank = rng.permutation(12)
    data = pandas.DataFrame({"rank": rank, "kind": rank % 2, "when": [values[i] for i in rank]})
    stream = from_table(
        data, "kind", features=["rank"], task_column="when", tasks=6, standardise=False, prequential=True
    )
    seen = [sorted(everything(task.train).x.flatten().tolist()) for task in stream.tasks]
    assert seen == [[2 * t, 2 * t + 1] for t in range(6)]


@pytest.mark.parametrize(
    ("days", "odd"),
    [
        ([f"2024-01-{day:02d}" for day in range(1, 11)] + [f"{day}.2.2024" for day in range(13, 19)], "13.2.2024"),
        ([f"2024/1/{day:02d}" for day in range(1, 16)] + ["unknown"], "unknown"),
    ],
)
def test_times_of_two_kinds_are_refused(days, odd):
    data = pandas.DataFrame({"a": range(16), "kind": [0, 1] * 8, "when": days})
    with pytest.raises(UsageError, match=f"'{odd}' is no time, as '2024.*' and others are, or none written like them"):
        from_table(data, "kind", task_column="when", tasks=2)


def test_rows_that_came_later_need_no_task():
    data = frame()
    both = pandas.concat([data, data.head(4).assign(month="later")])
    stream = from_table(both, "kind", task_column="month", later_path=data.drop(columns="month").head(10))
    assert stream.tasks[-1].name == "later rows"
    assert len(stream.tasks[-1].train) + len(stream.tasks[-1].test) == 10
