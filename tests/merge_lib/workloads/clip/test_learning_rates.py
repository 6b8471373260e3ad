"""Tasks that are trained at learning rates of their own."""

from merge_lib.workloads.clip.config import FineTuningConfig

CONFIG = FineTuningConfig(learning_rate=1e-5, learning_rates={"mnist": 5e-5})


def test_a_task_of_its_own_rate_is_trained_at_it():
    assert CONFIG.of(["mnist"]) == FineTuningConfig(learning_rate=5e-5)
    assert CONFIG.of(["dtd"]) == FineTuningConfig(learning_rate=1e-5)
    assert CONFIG.of(["dtd", "mnist"]) == FineTuningConfig(learning_rate=1e-5)


def test_without_them_settings_are_as_before():
    assert "learning_rates" not in FineTuningConfig().model_dump(mode="json")
    assert CONFIG.model_dump(mode="json")["learning_rates"] == {"mnist": 5e-5}
