"""Result files and samples: what is found in a folder, and how damaged files are reported."""

from __future__ import annotations

import json

import pytest

from lm_eval_partial.errors import UserError
from lm_eval_partial.results.files import find, read_result, runs
from tests.result_folders import write


def test_files_of_one_model_are_one_run_in_which_the_newest_counts(tmp_path):
    write(tmp_path / "a", {"one": [0, 1], "two": [1, 1]}, lam=0.5, date="2026-01-01T00-00-00.0")
    write(tmp_path / "b", {"one": [1, 1]}, lam=0.5, date="2026-01-02T00-00-00.0")
    write(tmp_path / "c", {"one": [0, 0]}, lam=0.25)
    write(tmp_path / "d", {"one": [0, 0]}, pretrained="I")
    found = runs(find(tmp_path))
    assert [run.label for run in found] == ["λ = 0.25", "λ = 0.50", "I"]
    half = found[1]
    assert half.values("one") == {"acc,none": 1.0} and half.file_of("one").path.parent.name == "b"
    assert half.file_of("two").path.parent.name == "a" and half.tasks == ["one", "two"]
    with pytest.raises(KeyError):
        half.file_of("three")


def test_what_a_sweep_is_still_writing_is_not_read(tmp_path):
    write(tmp_path / ".incomplete" / "lam_0.50", {"one": [0, 1]}, lam=0.5)
    with pytest.raises(UserError, match="holds no results_"):
        find(tmp_path)
    write(tmp_path / ".incomplete" / "lam_1.00", {"one": [0, 1]}, lam=1.0)
    assert len(find(tmp_path / ".incomplete")) == 2  # given by name


def test_other_hidden_folders_are_read(tmp_path):
    """Stock hf on ./base writes into .__base."""
    write(tmp_path / ".__base", {"one": [0, 1]}, pretrained="./base")
    write(tmp_path / "lam_0.50", {"one": [1, 1]}, lam=0.5)
    assert [run.label for run in runs(find(tmp_path))] == ["λ = 0.50", "./base"]


def test_results_of_an_output_path_that_is_a_file(tmp_path):
    """lm_eval writes x_DATE.json, and the samples beside it."""
    dates = ["2026-01-02T00-00-00.0", "2026-01-01T00-00-00.0"]
    for name, date, lam in zip(("a", "b"), dates, (0.25, 0.5), strict=True):
        file = write(tmp_path, {"one": [0.0, lam]}, lam=lam, date=date)
        file.rename(tmp_path / f"{name}_{date}.json")
    (tmp_path / "manifest.json").write_text("{}")
    found = find(tmp_path)
    assert [file.lam for file in found] == [0.5, 0.25]  # by age, not by name
    assert read_result(tmp_path)[0].name == f"a_{dates[0]}.json"
    assert [sample.values["acc"] for sample in found[1].samples("one")] == [0.0, 0.25]


def test_another_dtype_or_checkpoint_is_another_model(tmp_path):
    write(tmp_path / "a", {"one": [0]}, lam=0.5)
    write(tmp_path / "b", {"one": [0]}, lam=0.5, model_dtype="torch.bfloat16")
    write(tmp_path / "c", {"one": [0]}, lam=0.5, instruct_sha="i2")
    assert len(runs(find(tmp_path))) == 3


def test_samples_are_read_from_behind_their_prompts(tmp_path):
    file = write(tmp_path, {"one": [1.0, 0.0]}, metric="f1,strict")
    (found,) = find(file)
    samples = list(found.samples("one"))
    assert [sample.values for sample in samples] == [{"f1": 1.0}, {"f1": 0.0}]
    first = samples[0]
    assert (first.doc_id, first.filter) == (0, "strict")
    assert (first.document, first.prompt) == (("one 0", "t0"), "p0")
    assert first.responses == [["-1.5", "True"]]


def test_samples_in_another_order_of_keys_are_read_in_full(tmp_path):
    file = write(tmp_path, {"one": [1.0]})
    path = tmp_path / "samples_one_2026-01-01T00-00-00.000000.jsonl"
    row = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(row.items()))))
    (found,) = find(file)
    (sample,) = found.samples("one")
    assert sample.values == {"acc": 1.0} and sample.document == ("one 0", "t0")


def test_samples_that_were_not_logged_are_asked_for(tmp_path):
    (found,) = find(write(tmp_path, {"one": [1.0]}, samples=False))
    with pytest.raises(
        UserError, match=r"has no samples of one beside it .*Run lm_eval again with --log_samples\."
    ):
        list(found.samples("one"))


def test_samples_of_older_releases_are_read(tmp_path):
    """Before 0.4.7 they name neither filter nor metrics; a document's are in the filters' order."""
    file = write(tmp_path, {"one": [1.0, 0.0]}, metric="exact_match,strict")
    result = json.loads(file.read_text())
    result["results"]["one"]["exact_match,flexible"] = 0.5
    file.write_text(json.dumps(result))
    path = tmp_path / "samples_one_2026-01-01T00-00-00.000000.jsonl"
    rows = []
    for line in path.read_text().splitlines():
        row = json.loads(line)
        del row["filter"], row["metrics"]
        rows.append(row)
    flexible = [row | {"exact_match": 1.0 - row["exact_match"]} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows + flexible))
    (found,) = find(file)
    samples = [(each.doc_id, each.filter, each.values) for each in found.samples("one")]
    assert samples == [
        (0, "strict", {"exact_match": 1.0}),
        (1, "strict", {"exact_match": 0.0}),
        (0, "flexible", {"exact_match": 0.0}),
        (1, "flexible", {"exact_match": 1.0}),
    ]


@pytest.mark.parametrize(
    "cut", ['{"doc_id": 1, "doc": {"que', '{"doc_id": 1, "filtered_resps": []}', "[]", ""]
)
def test_a_damaged_sample_is_named(tmp_path, cut):
    file = write(tmp_path, {"one": [1.0]})
    path = tmp_path / "samples_one_2026-01-01T00-00-00.000000.jsonl"
    path.write_text(path.read_text() + cut + "\n")
    (found,) = find(file)
    with pytest.raises(UserError, match=r"samples_one_.*jsonl, line 2 is not a sample of lm_eval"):
        list(found.samples("one"))


def test_a_result_file_that_was_cut_short_is_named(tmp_path):
    file = write(tmp_path, {"one": [1.0]})
    file.write_text(file.read_text()[:200])
    with pytest.raises(
        UserError,
        match=r"results_2026.*json is not JSON .*cut short, delete it and run lm_eval again",
    ):
        find(tmp_path)
    file.write_text('{"other": 1}')
    with pytest.raises(UserError, match="results: field required"):
        find(tmp_path)


def test_a_stock_model_is_known_by_its_name_however_its_arguments_were_given(tmp_path):
    one = find(write(tmp_path / "a", {"one": [0]}, model_args="pretrained=org/x,dtype=float32"))[0]
    two = find(write(tmp_path / "b", {"one": [0]}, model_args={"pretrained": "org/x"}))[0]
    assert one.pretrained == two.pretrained == "org/x" and one.pair is None and one.lam is None


def test_a_lambda_that_is_no_number_is_none(tmp_path):
    (found,) = find(write(tmp_path, {"one": [0]}, lam=0.5))
    assert found.lam == 0.5
    found.config["lam"] = "attention=0.5"
    assert found.lam is None and found.pair
