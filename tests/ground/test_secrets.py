"""Credentials are known by their form, or by a value that the process holds; data that only look like them stay."""

from __future__ import annotations

import io
import sys

import pytest

from megabiomed.config import RunConfig
from megabiomed.config.base import parse
from megabiomed.ground import secrets
from megabiomed.ground.errors import ConfigError
from megabiomed.ground.outcome import end
from megabiomed.ground.secrets import guard_process, hidden, is_secret, masked, masked_by_form, masked_values, remember


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_known", set())
    monkeypatch.setattr(sys, "argv", ["megabiomed"])
    return


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://u:S3cret!@h:5000/p?x=1", "http://***@h:5000/p?x=1"),
        ("https://onlytoken@h/", "https://***@h/"),
        ("postgresql://u:a/b@c@h/db", "postgresql://***@h/db"),
        ("got s3:/key:a@b@bucket/x", "got s3:/***@bucket/x"),
        ("tried 'http://u:p@h', then b@c", "tried 'http://***@h', then b@c"),
        ("https://h/?token=abc&x=1&api_key=d#access_token=e", "https://h/?token=***&x=1&api_key=***#access_token=***"),
        ("s3://b/k?X-Amz-Signature=abc;q=1", "s3://b/k?X-Amz-Signature=***;q=1"),
        ("env HF_TOKEN=abc AWS_SECRET_ACCESS_KEY='d e'", "env HF_TOKEN=*** AWS_SECRET_ACCESS_KEY='*** e'"),
        ('{"DB_PASSWORD": "abc"}', '{"DB_PASSWORD": "***"}'),
        ("DB_PASS: abc", "DB_PASS: ***"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
    ],
)
def test_a_credential_is_masked_by_its_form_once_and_for_all(text: str, shown: str) -> None:
    assert masked_by_form(text) == shown
    assert masked_by_form(shown) == shown
    assert masked_values({"a": [text, 1, None]}) == {"a": [shown, 1, None]}


@pytest.mark.parametrize(
    "text",
    [
        "http://h:5000/path",
        "sqlite:////home/a@b/m.db",
        "pad_token=0",
        "--container-mounts=/a:/b@c,/d:/e:ro",
        "NCCL_IB_PKEY=3",
        "tokens: 5",
        "a@b.org",
        "MKEYLV",
    ],
)
def test_what_is_no_credential_stays(text: str) -> None:
    assert masked(text) == text


def test_variables_are_known_by_name_or_by_the_address_in_them() -> None:
    names = ["HF_TOKEN", "WANDB_API_KEY", "MYKEY", "DB_PWD", "AWS_SECRET_ACCESS_KEY", "pgpassword", "GITHUB_PAT"]
    assert all(is_secret(name, "x") for name in names)
    assert is_secret("https_proxy", "http://u:p@proxy:3128")
    plain = ["TOKENIZERS_PARALLELISM", "PWD", "OLDPWD", "NCCL_IB_PKEY", "XAUTHORITY", "SSH_AUTH_SOCK"]
    assert not any(is_secret(name, "x") for name in plain)
    assert not is_secret("HF_TOKEN", "")


def test_a_value_that_is_known_is_found_decoded_and_alone_and_data_of_its_form_are_left() -> None:
    remember("mlflow at http://u:p%40ss-1@h/?token=tok-22")
    remember("hf_33xyz", "HF_TOKEN")
    for word in ("/run/key.pem", "short", "megabiomed", "20261127"):
        remember(word, "SOME_KEY")
    text = "said p@ss-1, p%40ss-1, tok-22, hf_33xyz; megabiomed, 20261127, /run/key.pem; http://a:b@c"
    assert hidden(text) == "said ***, ***, ***, ***; megabiomed, 20261127, /run/key.pem; http://a:b@c"


def test_what_a_process_prints_hides_what_its_environment_and_command_line_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, errors = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", errors)
    monkeypatch.setattr(sys, "argv", ["megabiomed", "tracking.mlflow_uri=http://u:arg-9pw@h"])
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "env-9pw")
    guard_process()
    guard_process()
    print("out env-9pw")
    print("a library warns of arg-9pw", file=sys.stderr)
    assert (out.getvalue(), errors.getvalue()) == ("out ***\n", "a library warns of ***\n")
    assert sys.stdout.isatty() is False  # everything else is the stream's own


def test_the_last_words_of_a_command_name_no_credential(capsys: pytest.CaptureFixture[str]) -> None:
    end(ConfigError("no route", got="http://u:pw-1@h"), [])
    end(ZeroDivisionError("HF_TOKEN=pw-1"), ["run", "tracking.mlflow_uri=http://u:pw-1@h"])
    said = capsys.readouterr().err
    assert "pw-1" not in said
    assert said.count("***") == 4


@pytest.mark.parametrize(
    "wrong", [{"mlflow_uri": {"password": "pw-1"}}, {"password": "pw-1"}, {"mlflow_uri": ["pw-1", 1]}]
)
def test_a_wrong_key_or_type_does_not_quote_a_password(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(RunConfig, {"name": "t", "train": {"steps": 1}, "tracking": wrong}, "t.yaml")
    assert "tracking." in str(caught.value)
    assert "pw-1" not in str(caught.value)


@pytest.mark.parametrize("text", ["a://" * 30_000 + " @", "://a" * 30_000, "A_" * 100_000 + "KE", "a?b&c;" * 30_000])
@pytest.mark.timeout(20)
def test_the_time_grows_with_a_text_and_not_with_its_square(text: str) -> None:
    assert masked(text) == text
