"""What looks like a secret and what does not, and what references stand for."""

from pathlib import Path

import pytest

from dr_pipeline.config.references import has_references, resolve, wrong_options, wrong_references
from dr_pipeline.errors import ConfigError
from dr_pipeline.redaction import without_secrets, without_secrets_in

SECRETS = [
    ("api_key", "x"),
    ("openaiApiKey", "x"),
    ("password", "hunter2"),
    ("client_secret", "x"),
    ("hf_token", "x"),
    ("token", "x"),
    ("Authorization", "x"),
    ("aws_secret_access_key", "x"),
    ("db_pwd", "x"),
    ("password", 12345678),
    ("api_keys", ["x"]),
    ("api_key", {"primary": "x"}),
    ("value", "sk-proj-" + "aB3d_5gH" * 4 + "${env:LAB_SUFFIX}"),
    ("value", "hf_" + "aB3dE5gH" * 5),
    ("value", "sk-proj-" + "aB3d_5gH" * 4),
    ("value", "AKIAIOSFODNN7EXAMPLE"),
    ("value", "ghp_" + "a1B2c3D4e5" * 4),
    ("value", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N"),
    ("value", "Bearer abcdefghijkl"),
    ("value", "-----BEGIN RSA PRIVATE KEY-----\nMII"),
    ("value", "wJ7alrXUtnF3EMIK7MDENGbPxRfiCY5p"),
]
HARMLESS = [
    ("tokenizer", "lab.words:Tokenizer"),
    ("pad_token", "[PAD]"),
    ("max_tokens", "77"),
    ("key", "image"),
    ("keyword", "secretary"),
    ("weights", "hf-hub:apple/mobileclip2_coca_dfn2b_s13b_mscoco38k_s12m_context77"),
    ("weights", "hf-hub:laion/CLIP-ViT-bigG-14-laion2B-39B-b160k"),
    ("model", "vit_large_patch14_clip_quickgelu_224.dfn2b"),
    ("revision", "0123456789abcdef0123456789abcdef01234567"),
    ("checkpoint", "s3://bucket/Runs/2026-01-01T10-00-00/EpochCheckpointsOfTheStudent/step_0001000.pt"),
    ("prompt", "a photo of a very long thing that nobody would ever call by such a name at all"),
    ("api_key", "${env:LAB_KEY}"),
    ("password", ""),
    ("password", None),
    ("use_auth_token", True),
    ("headers", {"Authorization": "Bearer ${env:LAB_KEY}"}),
]


@pytest.mark.parametrize(("key", "value"), SECRETS)
@pytest.mark.parametrize("nested", [False, True])
def test_a_secret_is_found_by_its_name_or_its_shape(key: str, value: object, nested: bool) -> None:
    options = {"http": [{key: value}]} if nested else {key: value}
    found = list(wrong_options(options, "teachers.0.options"))
    assert len(found) == 1
    assert found[0].startswith("teachers.0.options.")
    assert "x" in str(value) or str(value) not in found[0]


@pytest.mark.parametrize(("key", "value"), HARMLESS)
def test_names_paths_and_words_are_no_secrets(key: str, value: object) -> None:
    assert list(wrong_options({key: value}, "options")) == []


def test_references_are_replaced_wherever_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_USER", "bob")
    (tmp_path / "token").write_text("correct horse\n")
    tree = {"auth": ["${env:LAB_USER}:${file:%s}" % (tmp_path / "token")], "scale": 2, "none": None}
    assert resolve(tree, "options") == {"auth": ["bob:correct horse"], "scale": 2, "none": None}
    assert has_references(tree)
    assert not has_references({"a": ["b", 1]})


@pytest.mark.parametrize("text", ["${LAB}", "${env:}", "${vault:a}", "${}"])
def test_other_references_are_refused(text: str) -> None:
    assert list(wrong_references({"a": text}, "storage")) == [
        f"storage.a: {text} is no reference: write ${{env:NAME}} or ${{file:PATH}}"
    ]
    with pytest.raises(ConfigError, match=r"storage\.a: "):
        resolve({"a": text}, "storage")


@pytest.mark.parametrize(("content", "said"), [(b"", "is empty"), (b"\xff\xfe", "is no text"), (None, "No such file")])
def test_a_file_that_holds_no_text_is_named(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"options\.key: .*token\}}: {tmp_path}/token:? {said}"):
        resolve({"key": f"${{file:{tmp_path}/token}}"}, "options")


def test_what_a_reference_stood_for_is_shown_by_its_name_and_stored_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_KEY_A", "canary/of a1")
    monkeypatch.setenv("LAB_KEY_B", "short")
    resolve(["${env:LAB_KEY_A}", "${env:LAB_KEY_B}"], "options")
    assert without_secrets("401: canary/of a1, short") == "401: ${env:LAB_KEY_A}, short"
    assert without_secrets("/?key=canary%2Fof%20a1") == "/?key=${env:LAB_KEY_A}"
    assert without_secrets_in({"a": "canary/of a1"}) == {"a": "canary/of a1"}  # a fingerprint is the same everywhere
