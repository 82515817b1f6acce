"""Examples of what a model finds are of the same answers as its evaluation."""

from functools import partial
from itertools import islice
from pathlib import Path

import pytest
import torch

from dr_pipeline.config.evaluation import Classification, Engine, EvaluatedModel, Retrieval
from dr_pipeline.evaluation import examples
from dr_pipeline.evaluation.data import open_captioned, open_classes, open_labelled
from dr_pipeline.evaluation.evaluate import load_evaluated
from dr_pipeline.evaluation.examples import RetrievalExamples, head_examples, retrieval_examples, zero_shot_examples
from dr_pipeline.networks.classifier import Classifier
from dr_pipeline.networks.network import Network
from dr_pipeline.training.metrics import read_metrics
from tests.conftest import image_bytes
from tests.report.conftest import OF_RUNS, classifier_run, student_run
from tests.training.conftest import WORDS

__all__ = ["classifier_run", "student_run"]

pytestmark = OF_RUNS

ENGINE = Engine(batch_size=7, threads=1, precision="float32")
CPU = torch.device("cpu")


def student_of(run: Path) -> Network:
    files = [str(run / "model" / name) for name in ("open_clip_config.json", "open_clip_model.safetensors")]
    network = load_evaluated(EvaluatedModel(architecture=files[0], weights=files[1], tokenizer=WORDS), (".",), CPU)
    assert isinstance(network, Network)
    return network


def task_data(run: Path, kind: str) -> str:
    return str(run.parent / "held_out" / kind / "test")


def found_by(run: Path) -> RetrievalExamples:
    task = Retrieval(name="scenes", data=task_data(run, "retrieval"))
    found = retrieval_examples(student_of(run), partial(open_captioned, task), ENGINE)
    assert found is not None
    return found


def test_ranks_are_those_of_the_evaluation(student_run: Path) -> None:
    figures, found = read_metrics(student_run)[-1], found_by(student_run)
    for direction, search in (("image_to_text", found.texts_by_image), ("text_to_image", found.images_by_text)):
        assert len(search.ranks) == search.num_answers == 24
        for k in (1, 5, 10):
            assert search.found(k) == pytest.approx(figures[f"scenes retrieval {direction}_r{k}"]), (direction, k)


def test_classes_are_those_of_the_evaluation(student_run: Path) -> None:
    figures = read_metrics(student_run)[-1]
    task = Classification(name="scenes", data=task_data(student_run, "classification"))
    found = zero_shot_examples(student_of(student_run), partial(open_labelled, task), ENGINE)
    assert found is not None
    search = found.classes_by_image
    assert search.found(1) == pytest.approx(figures["scenes classification acc1"])
    assert search.found(5) == pytest.approx(figures["scenes classification acc5"])
    assert sum(count for *_, count in found.confusions) == sum(rank > 1 for rank in search.ranks)


def test_a_query_tells_its_rank_and_its_nearest_answers(student_run: Path) -> None:
    search = found_by(student_run).texts_by_image
    assert search.worst[0].rank == max(search.ranks)
    assert len(search.shown) == len({query.number for query in search.shown}) >= 6
    for query in search.shown:
        scores = [answer.score for answer in query.answers]
        assert scores == sorted(scores, reverse=True)
        right = [place for place, answer in enumerate(query.answers, start=1) if answer.is_right]
        assert right == ([query.rank] if query.rank <= 5 else [])
        assert query.right == (query.number,), "each scene has a text of its own"


def test_a_text_of_several_images_is_right_for_each(student_run: Path) -> None:
    task = Retrieval(name="scenes", data=task_data(student_run, "retrieval"))
    items = [item._replace(target=["one", f"text {number % 2}"]) for number, item in enumerate(open_captioned(task))]
    found = retrieval_examples(student_of(student_run), lambda: items, ENGINE)
    assert found is not None
    assert found.texts == ["one", "text 0", "text 1"]
    assert len(found.images_by_text.ranks) == 3
    (of_all,) = [query for query in found.images_by_text.shown if query.number == 0]
    assert (of_all.rank, of_all.right) == (1, tuple(range(24)))
    assert all(query.right == (0, 1 + query.number % 2) for query in found.texts_by_image.shown)


def test_the_first_pairs_are_looked_at_and_no_more(student_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "MOST_PAIRS", 10)
    assert found_by(student_run).places == [*range(10)]


def test_images_that_cannot_be_read_are_left_out(student_run: Path) -> None:
    task = Retrieval(name="scenes", data=task_data(student_run, "retrieval"))
    items = [*islice(open_captioned(task), 6)]
    items[2] = items[2]._replace(read=lambda: b"no image")
    network = student_of(student_run)
    found = retrieval_examples(network, lambda: items, ENGINE)
    assert found is not None
    assert found.places == [0, 1, 3, 4, 5]
    assert retrieval_examples(network, lambda: items[2:3], ENGINE) is None


def test_a_classifier_is_asked_for_probabilities(classifier_run: Path) -> None:
    model = classifier_run / "model"
    files = {"architecture": str(model / "config.json"), "weights": str(model / "model.safetensors")}
    network = load_evaluated(EvaluatedModel.model_validate(files), (".",), CPU)
    assert isinstance(network, Classifier)
    task = Classification(name="scenes", data=str(classifier_run.parent / "classification/test"))
    found = head_examples(network, [f"c{number}" for number in range(64)], partial(open_classes, task, 64), ENGINE)
    assert found is not None
    for query in found.classes_by_image.shown:
        assert 0 < sum(answer.score for answer in query.answers) < 1
    assert found.class_names[3] == "c3"


def test_the_first_images_of_folders_are_of_all_classes(tmp_path: Path) -> None:
    for name, count in (("a", 3), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        for number in range(count):
            (tmp_path / name / f"{number}.jpg").write_bytes(image_bytes(seed=number))
    task = Classification(name="folders", data=str(tmp_path), templates=("a {}",))
    assert [item.target for item in open_labelled(task).items] == [0, 1, 2, 0, 2, 0]
