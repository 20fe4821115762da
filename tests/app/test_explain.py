"""Messages for what was typed wrong, without starting a process each."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from frostline.app.config import conf_dir, register
from frostline.app.explain import explain
from frostline.app.targets import plain

WRONG = {
    "strategy=[replay,ewcc]": "strategy=ewcc: expected one of acil, agem, bic, cls_er, ",
    "model=mpl": "model=mpl: expected one of",
    "figures=png": "figures=png: expected a list, such as figures=[png].",
    "trainer.seeds=[a]": "trainer.seeds=[a]: expected a whole number, not 'a'.",
    "trainer.epochs=1.5": "trainer.epochs=1.5: expected a whole number, not '1.5'.",
    "checkpoint.delta=maybe": "checkpoint.delta=maybe: expected true or false, not 'maybe'.",
    "trainer.epochs=null": "trainer.epochs=null: expected a value, such as 5.",
    "strategy=[replay,ewc,]": "cannot be read. Expected key=value, or key=[a,b] for a list, without a comma at its end.",
    "strategy=replay,ewc": "several values need -m, which runs each, or brackets, which chain them: strategy=[replay,ewc].",
    "replay": "replay: expected key=value, such as strategy=replay.",
    "epochs=3": "epochs: there is no such setting. Did you mean trainer.epochs?",
    "selector.k=2": "Did you mean selector.k (of selector=except_first_k, ",
    "strategy=replay with strategy.capacity=5": "there is no such setting. Did you mean strategy.replay.capacity?",
    "stream=table with stream.samples_per_task=5": "stream.samples_per_task: there is no such setting.",
    "strategy.capacity=5": "Did you mean strategy.NAME.capacity, with agem, bic, cls_er, der, der_pp, ",
    "optimizer.lrr=1": "optimizer.lrr: there is no such setting. Did you mean 'lr'?",
}


@pytest.mark.parametrize("override", WRONG)
def test_one_line_that_says_what_was_expected(override):
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"), pytest.raises(HydraException) as caught:
        compose("config", overrides=override.split(" with "))
    message = explain(caught.value)
    assert message is not None
    assert WRONG[override] in message
    assert "\n" not in message


@pytest.mark.parametrize("value", ["${sed}", "${trainer.sed}", "${oc.env:FROSTLINE_NONE}", "${unknown:1}"])
def test_a_reference_to_nothing_names_where_it_stands(value):
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("config", overrides=[f"trainer.epochs={value}"])
    with pytest.raises(OmegaConfBaseException) as caught:
        plain(cfg)
    message = explain(caught.value)
    assert message is not None
    assert message.startswith("trainer.epochs: ")
    assert message.endswith("Expected the name of a setting in ${}, such as ${seed}.")


def test_a_bug_is_not_explained_away():
    assert explain(ZeroDivisionError("division by zero")) is None
