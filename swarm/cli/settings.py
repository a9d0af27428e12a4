"""Reading the settings for commands that run parts of a swarm."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from swarm.config import Settings, load
from swarm.errors import BadInput
from swarm.hosting.runfile import find_run

#: Read when neither --config nor SWARM_CONFIG names another, if it exists.
DEFAULT_FILE = Path("configs/swarm.toml")


def add_config(parser: argparse.ArgumentParser) -> None:
    """``--config``."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="settings (TOML); the environment wins over it "
        f"(default: SWARM_CONFIG, else {DEFAULT_FILE} where it exists)",
    )


def read_settings(
    args: argparse.Namespace, **overrides: str | None
) -> tuple[Settings, Path | None]:
    """The settings and the file that they came from.

    `overrides`: values of environment names that options gave.
    """
    named = args.config or os.environ.get("SWARM_CONFIG", "").strip()
    path = Path(named) if named else DEFAULT_FILE if DEFAULT_FILE.is_file() else None
    env = dict(os.environ)
    env.update({name: value for name, value in overrides.items() if value is not None})
    return load(env, path), path


def of_swarm(args: argparse.Namespace, prefix: str) -> Settings:
    """Those that the swarm runs by, as far as they can be found; needs `--config` and
    `--nats-url` among the options."""
    if not args.config and not args.nats_url and not os.environ.get("NATS_URL", "").strip():
        try:
            beside = Path(find_run(os.environ).data_dir) / "settings.toml"
        except BadInput:
            beside = Path()  # it has just ended; the settings here will do
        args.config = str(beside) if beside.is_file() else None
    found, _ = read_settings(args, SWARM_PREFIX=prefix)
    return found
