"""The `swarm` command: exit codes, messages on stderr, never a traceback."""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from swarm.cli import common, main
from swarm.errors import (
    BadConfig,
    BadInput,
    BusUnavailable,
    NoAnswer,
    Refusal,
    RefusalCode,
    WorkFailed,
)

#: How shell agents show that they hold an item.
HELD = ["--agent", "a", "--token", "t"]


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What went to stderr; nothing must have gone to stdout."""
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No swarm is to be found, whatever runs on this machine."""
    for name in ("NATS_URL", "SWARM_PREFIX", "SWARM_TOKEN", "SWARM_AGENT_ID", "SWARM_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    for name in ("XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "XDG_DATA_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


# --- finding the command -------------------------------------------------------------


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, (_, help_) in main.COMMANDS.items():
        assert re.search(rf"^    {name}\b", text, re.MULTILINE)
        assert help_ in text


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_has_its_own_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main([name, "--help"]) == 0
    assert f"usage: swarm {name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_can_run(name: str) -> None:
    module = importlib.import_module(main.COMMANDS[name][0])
    assert callable(module.run)


def test_the_version_is_the_installed_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("swarm 0.")


@pytest.mark.parametrize("argv", [[], ["nonsense"], ["--nonsense"], ["work"], ["work", "x"]])
def test_wrong_use_is_said_in_one_line(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(argv) == 2
    text = said(capsys)
    assert text.count("\n") == 1
    assert text.startswith("swarm: ")
    assert "--help" in text


def test_a_shell_command_imports_only_what_it_needs() -> None:
    code = (
        "import sys; from swarm.cli.main import main; main(['claim', '--help']);"
        "print([m for m in ('nats', 'rich', 'aiohttp', 'structlog', 'uvloop') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"


# --- wrong use, command by command -----------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "fragment"),
    [
        (["up", "--port", "70000"], "'70000' is no whole number from 0 to 65535"),
        (["up", "--port", "1", "--nats-url", "nats://h:1"], "leave one of them out"),
        (["up", "--agents", "2"], "agents need --type TYPE"),
        (["up", "--type", "a"], "either --handler MODULE:NAME or --exec CMD"),
        (["up", "--type", "a", "--exec", "x", "--handler", "a:b"], "either --handler"),
        (["up", "--type", "a.b", "--exec", "x"], "'a.b' cannot be used"),
        (["up", "--nats-url", "http://x"], "'http://x' is no NATS URL"),
        (["up", "--config", "none.toml"], "none.toml cannot be read: No such file"),
        (["node", "--id", "a"], "--role"),
        (["node", "--role", "router"], "--id"),
        (["node", "--role", "router", "--id", "a"], "name it with --nats-url or NATS_URL"),
        (["node", "--role", "router", "--id", "a b", "--nats-url", "h"], "'a b' cannot be used"),
        (["agent", "--type", "a"], "--handler --exec"),
        (["agent", "--type", "a", "--exec", "x", "--handler", "a:b"], "not allowed with"),
        (["agent", "--type", "a *", "--exec", "x"], "'a *' cannot be used"),
        (["agent", "--type", "a", "--handler", "x"], "write MODULE:NAME"),
        (["agent", "--type", "a", "--handler", "no.such:x"], "there is no module 'no'"),
        (["agent", "--type", "a", "--handler", "json:none"], "json has no function 'none'"),
        (["agent", "--type", "a", "--exec", "x", "--concurrency", "0"], "'0' is no whole number"),
        (["submit"], "nothing to submit"),
        (["submit", "--priority", "high"], "nothing to submit"),
        (["submit", "f.jsonl", "--type", "a"], "--type cannot be given beside a file"),
        (["submit", "f.jsonl"], "f.jsonl cannot be read: No such file"),
        (["submit", "."], ". cannot be read: Is a directory"),
        (["submit", "--type", "a b"], "no blanks, dots or wildcards"),
        (["submit", "--type", "a.b"], "no blanks, dots or wildcards"),
        (["submit", "--type", "*"], "no blanks, dots or wildcards"),
        (["submit", "--type", "a", "--priority", "urgent"], "critical"),
        (["submit", "--type", "a", "--payload", "{x"], "--payload is no JSON"),
        (["submit", "--type", "a", "--payload", "text"], "quotes of its own"),
        (["submit", "--type", "a", "--payload", "@none"], "none cannot be read: No such file"),
        (["submit", "--type", "a", "--label", "x"], "write NAME=VALUE"),
        (["submit", "--type", "a", "--lease", "soon"], "'soon' is no duration"),
        (["submit", "--type", "a", "--story-points", "-1"], "'-1' is no whole number"),
        (["work", "get", "17"], "one looks like 3-17"),
        (["work", "get", "a-b"], "one looks like 3-17"),
        (["work", "list", "--status", "lost"], "queued"),
        (["work", "cancel", "3-17", "x"], "one looks like 3-17"),
        (["work", "cancel"], "ID"),
        (["work", "cancel", "3-17", "--grace", "x"], "'x' is no duration"),
        (["work", "prioritize", "urgent", "3-17"], "critical"),
        (["work", "answer", "3-17", "yes"], "the answer is no JSON"),
        (["work", "watch"], "ID"),
        (["dead"], "list|show|replay"),
        (["dead", "list", "--cause", "age"], "quarantined"),
        (["dead", "show", "x"], "one looks like 3-17"),
        (["dead", "replay"], "name the items to replay, or choose them"),
        (["dead", "replay", "--all", "3-17"], "name the items to replay, or choose them"),
        (["dead", "replay", "3-x"], "one looks like 3-17"),
        (["submit", "--type", "a", "--deadline", "soon"], "'soon' is no time"),
        (["submit", "--type", "a", "--depends-on", "3-17,x"], "one looks like 3-17"),
        (["submit", "--type", "a", "--max-attempts", "0"], "'0' is no whole number from 1"),
        (["submit", "--type", "a", "--on-dependency-failure", "x"], "block"),
        (["fail", "3-17", "--final", "--retry-after", "1m", *HELD], "not allowed with"),
        (["wait", "3-17", *HELD], "--for"),
        (["wait", "3-17", "--for", "null", *HELD], "say what the item waits for"),
        (["wait", "3-17", "--for", "1", "--on-expiry", "x", *HELD], "resume"),
        (["release", "3-17", "--checkpoint", "{", *HELD], "--checkpoint is no JSON"),
        (["claim", "--agent", "a"], "--type"),
        (["claim", "--type", "a"], "--agent"),
        (["claim", "--type", ",", "--agent", "a"], "',' cannot be used"),
        (["claim", "--type", "a", "--agent", "a.b"], "'a.b' cannot be used"),
        (["heartbeat", "3-17", "--agent", "a"], "--token"),
        (["progress", "3-17", "101", "--agent", "a", "--token", "t"], "write 0 to 100"),
        (["complete", "3-17", "--agent", "a", "--token", "t", "--result", "{"], "--result is no"),
        (["status", "--timeout", "-1"], "'-1' is no duration"),
        (["status", "--nats-url", "nats://h:99999"], "is no NATS URL"),
        (["status"], "no swarm is running here; start one with `swarm up`"),
    ],
)
def test_wrong_use_says_what_is_wrong(
    argv: list[str], fragment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(argv) == 2
    text = said(capsys)
    assert fragment in text
    assert "Traceback" not in text


def test_an_empty_file_is_wrong_use(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_bytes(b"\n  \n")
    assert main.main(["submit", str(path)]) == 2
    assert "holds no work item; write one JSON object a line" in said(capsys)


def test_a_bad_setting_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SHARD_COUNT", "none")
    assert main.main(["up", "--data", str(tmp_path / "data")]) == 2
    assert "SHARD_COUNT = 'none' cannot be used; allowed: a whole number" in said(capsys)


def test_an_unknown_log_level_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARM_LOG_LEVEL", "loud")
    assert main.main(["node", "--role", "router", "--id", "a", "--nats-url", "h"]) == 2
    assert "SWARM_LOG_LEVEL = 'loud' cannot be used; allowed: debug, info" in said(capsys)


def test_a_handler_that_cannot_be_imported_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "broken_handler_module.py").write_text("1 / 0\n")
    assert main.main(["agent", "--type", "a", "--handler", "broken_handler_module:f"]) == 2
    text = said(capsys)
    assert "importing broken_handler_module failed: ZeroDivisionError" in text


# --- from errors to exit codes ---------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadInput("x"), 2),
        (BadConfig("x"), 2),
        (Refusal("bad_request", "x"), 2),
        (Refusal("unsupported", "x"), 2),
        (Refusal("too_large", "x"), 2),
        (Refusal("stale_token", "x"), 1),
        (Refusal("not_holder", "x"), 1),
        (Refusal("unknown_item", "x"), 1),
        (Refusal("unavailable", "x", retry=True), 1),
        (NoAnswer("x"), 1),
        (BusUnavailable("x"), 1),
        (WorkFailed("x"), 1),
        (TimeoutError(), 1),
        (ValueError("x"), 1),
    ],
)
def test_exit_codes(error: Exception, code: int) -> None:
    assert main.code_of(error) == code


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    from swarm.cli import status

    def run(_args: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(status, "run", run)


@pytest.mark.parametrize("code", ["stale_token", "not_holder", "already_finished"])
def test_a_refusal_is_one_line(
    code: RefusalCode, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    raising(monkeypatch, Refusal(code, "the\nreason"))
    assert main.main(["status"]) == 1
    assert said(capsys) == f"swarm: {code}: the reason\n"


def test_an_unexpected_error_is_one_line_and_a_hint(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SWARM_DEBUG", raising=False)
    raising(monkeypatch, ZeroDivisionError("oh\nno"))
    assert main.main(["status"]) == 1
    assert said(capsys) == (
        "swarm: ZeroDivisionError: oh no (set SWARM_DEBUG=1 to see where this comes from)\n"
    )


def test_with_swarm_debug_it_shows_where_it_comes_from(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARM_DEBUG", "1")
    raising(monkeypatch, ZeroDivisionError("oh no"))
    assert main.main(["status"]) == 1
    assert "Traceback" in said(capsys)


def test_an_interrupt_is_silent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    raising(monkeypatch, KeyboardInterrupt())
    assert main.main(["status"]) == main.INTERRUPTED
    assert said(capsys) == ""


def test_a_reader_that_has_enough_is_no_error(tmp_path: Path) -> None:
    code = (
        "import sys; from swarm.cli import main, status\n"
        "def run(args):\n"
        "    for _ in range(100_000): print('x' * 100)\n"
        "    return 0\n"
        "status.run = run\n"
        "sys.exit(main.main(['status']))\n"
    )
    command = f'{sys.executable} -c "$CODE" | head -n 1'
    run = subprocess.run(
        ["/bin/sh", "-c", command],
        env={"CODE": code, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == "x" * 100 + "\n"
    assert run.stderr == ""


# --- arguments -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), ("30s", 30), ("500ms", 0.5), ("5m", 300), ("1.5h", 5400), ("1d", 86_400)],
)
def test_durations(text: str, seconds: float) -> None:
    assert common.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "1 h", "-1", "1w", "1e3", "inf", "nan", "1h30m"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no duration"):
        common.duration(text)


def test_types_with_commas() -> None:
    assert common.tokens("a,b-c,") == ["a", "b-c"]


@pytest.mark.parametrize(
    "url", ["nats://h:4222", "h", "h:1", "tls://u:p@h:1", "nats://a:1,nats://b:2", "ws://h"]
)
def test_urls_that_can_be(url: str) -> None:
    assert common.check_url(url) == url


@pytest.mark.parametrize("url", ["http://h", "nats://", "nats://h:x", "nats://:1", "h:99999", ","])
def test_urls_that_cannot_be(url: str) -> None:
    with pytest.raises(BadInput, match="is no NATS URL"):
        common.check_url(url)


# --- starting fast -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "without"),
    [
        ("nats://h:1", "['aiohttp', 'rich']"),
        ("", "['aiohttp', 'rich']"),
        ("wss://h:1", "['rich']"),
        ("nats://a:1, ws://h:1", "['rich']"),
    ],
)
def test_libraries_that_are_not_used_are_not_imported(url: str, without: str) -> None:
    code = (
        "import sys; from swarm.cli.quick import import_lean\n"
        f"import_lean({url!r})\n"
        "import nats.aio.client\n"
        "print([m for m in ('aiohttp', 'rich') if m not in sys.modules])\n"
        "import aiohttp, rich.table, structlog\n"
        "structlog.get_logger().info('works')\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[0] == without
    assert "works" in run.stdout


# --- logs --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["restore", "0", "none.jsonl"], "none.jsonl cannot be read: No such file"),
        (["restore", "0", "none.jsonl", "--before", "0"], "--before"),
        (["save", "-1", "a.jsonl"], "SHARD"),
        (["save", "0", "a.jsonl"], "no swarm"),
        ([], "save|restore"),
    ],
)
def test_logs_that_cannot_be_saved_or_restored(
    arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["log", *arguments]) == 2
    assert why in said(capsys)
