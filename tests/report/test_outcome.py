"""The sentence that ends every run."""

from frostline.report.outcome import as_sentence, outcome, sentence


def content(accuracy, flops=0.3, seconds=0.45):
    return {"accuracy": accuracy, "full_finetuning": {"flops_ratio": flops, "seconds_ratio": seconds}}


TWO = [[0.5, 0.4], [1.0, 0.4], [0.8, 0.9]]


def test_what_was_learned_kept_and_paid():
    found = outcome(content(TWO))
    assert found["before"] == 0.45
    assert found["after"] == 0.95
    assert round(found["learned"], 9) == 0.5
    assert (found["was"], found["kept"]) == (1.0, 0.8)
    expected = (
        "learned +0.50 (0.45 to 0.95), kept 0.80 of 1.00 on earlier tasks, "
        "at 30 % of full fine-tuning's operations and 45 % of its time"
    )
    assert sentence([content(TWO)]) == expected
    assert as_sentence(expected) == "L" + expected[1:] + "."


def test_several_runs_are_their_mean():
    other = [[0.5, 0.4], [1.0, 0.4], [0.6, 0.9]]
    assert "kept 0.70 of 1.00" in sentence([content(TWO), content(other)])


def test_what_is_not_known_is_not_said():
    one = sentence([content([[0.1], [0.9]], None, None)])
    assert one == "learned +0.80 (0.10 to 0.90)"
    joint = [[0.5, 0.4], [None, None], [0.8, 0.9]]
    assert sentence([content(joint, 1.0, None)]) == "at 100 % of full fine-tuning's operations"
    assert as_sentence("") == ""
