"""Publishers in real processes that start at the same moment."""

from pathlib import Path

from store_processes import Workers, publish

from model_store.store import ModelStore

PUBLISHERS = 8
ROUNDS = 50


def test_eight_racing_publishers_get_eight_versions(store: ModelStore, root: Path) -> None:
    """In 50 rounds, eight publishers get the next eight numbers, and every version verifies."""
    with Workers(PUBLISHERS) as publishers:
        for played in range(ROUNDS):
            numbers = publishers.call(publish, [(root, "m")] * PUBLISHERS)
            assert sorted(numbers) == [
                played * PUBLISHERS + place for place in range(1, PUBLISHERS + 1)
            ]
            for number in numbers:
                store.open("m", number).close()
    assert store.versions("m") == list(range(1, PUBLISHERS * ROUNDS + 1))
    assert store.prune("m", keep=PUBLISHERS * ROUNDS).leftovers == ()


def test_the_first_publishers_of_a_store_race_too(tmp_path: Path) -> None:
    """They also race to create the root and the directory of the model."""
    root = tmp_path / "not" / "yet"
    with Workers(PUBLISHERS) as publishers:
        numbers = publishers.call(publish, [(root, "m")] * PUBLISHERS)
    assert sorted(numbers) == list(range(1, PUBLISHERS + 1))


def test_publishers_of_different_models_do_not_meet(store: ModelStore, root: Path) -> None:
    """Racing publishers of different models each get version 1."""
    models = [f"model-{place}" for place in range(PUBLISHERS)]
    with Workers(PUBLISHERS) as publishers:
        assert publishers.call(publish, [(root, model) for model in models]) == [1] * PUBLISHERS
    assert store.models() == models
