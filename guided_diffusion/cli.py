"""The command line: arguments to an action, a user's mistake to one line and exit code 2; imports no torch itself."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import textwrap
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

from guided_diffusion import __version__
from guided_diffusion.config.load import ACTIONS, load_config, parse_overrides, read_keys
from guided_diffusion.config.shipped import found_config
from guided_diffusion.runtime.errors import Interrupted, UserError, lacks_memory, one_line
from guided_diffusion.runtime.launcher import launched_as
from guided_diffusion.runtime.near_names import suggestion
from guided_diffusion.runtime.option_help import KeyHelp, describe_common, describe_options, json_schema
from guided_diffusion.runtime.signals import stop_signals_raise

BROKEN_PIPE_EXIT = 141


class _Parser(argparse.ArgumentParser):
    """Raises UserError where argparse would exit."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UserError(f"{self.prog}: {message}; `{self.prog} --help` shows the usage")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one action and return the exit code: 0, 2 after a user's mistake, 128 + n after signal n."""
    _open_missing_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # file names may hold bytes that are not text
            stream.reconfigure(errors="backslashreplace")
    try:
        # Other processes of a job would wait for one that stops by itself: the launcher ends them all.
        with nullcontext() if _started_by_launcher() else stop_signals_raise():
            return _run(sys.argv[1:] if arguments is None else list(arguments))
    except UserError as error:
        for line in () if error.already_printed else error.messages:
            print(f"error: {line}", file=sys.stderr)
        return 2 if error.collective else _leave(2)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return 128 + stop.signal_number
    except KeyboardInterrupt as stop:
        print("interrupted", file=sys.stderr)
        return _leave(128 + getattr(stop, "signal_number", signal.SIGINT))
    except BrokenPipeError:  # the reader of the output has gone, as in `--help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _leave(BROKEN_PIPE_EXIT)
    except OSError as error:
        # What the system refuses (permissions, names too long, a full disk) is for the user to mend.
        line = one_line(f"{error.filename or 'the system'}: {error.strerror or error}")
        print(f"error: {line}", file=sys.stderr)
        return _leave(2)
    except Exception as error:
        if (line := _outside_cause(error)) is not None:
            print(f"error: {line}", file=sys.stderr)
            return _leave(2)
        if _started_by_launcher():
            import traceback

            traceback.print_exc()
            return _leave(1)
        raise


def _outside_cause(error: Exception) -> str | None:
    """Return one line for an error that is neither a user's nor ours: of cloud storage, or of too little memory."""
    if type(error).__module__.startswith("blobfile"):
        return one_line(f"cloud storage: {error}; check address and network, or copy the files here")
    if lacks_memory(error):
        text = str(error).partition("\n")[0] or "out of memory"
        return one_line(f"memory: {text}; lower batch_size or microbatch, image_size or num_channels")
    if str(error).startswith("DataLoader worker"):  # killed for its memory, or Windows had none to start it with
        reason = str(error).partition(". ")[0]
        return one_line(f"num_workers: a loading process is gone ({reason}); lower num_workers, or set it to 0")
    return None


def _open_missing_streams() -> None:
    """Give a process without a console (pythonw, services, cron) streams that lead nowhere.

    A closed descriptor would go to the next file opened, a checkpoint perhaps, and take what is printed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if number == 0 else "w", encoding="utf-8"))  # noqa: SIM115


def _started_by_launcher() -> bool:
    return any(name in os.environ for name in ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"))


def _leave(code: int) -> int:
    """Return `code`, after ending the other processes of an mpiexec job, which would wait for this one forever."""
    if _started_by_launcher():
        from guided_diffusion.runtime.distributed import abort_others

        sys.stderr.flush()
        abort_others(code)
    return code


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        actions = "\n".join(f"  {name:9} {kind.summary}" for name, kind in ACTIONS.items())
        print(_OVERVIEW.format(version=__version__, actions=actions))
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"isdm {__version__}")
        return 0
    action, rest = arguments[0], arguments[1:]
    if action == "schema":
        if len(rest) != 1 or rest[0] not in ACTIONS:
            raise UserError(f"{' '.join(arguments)}: name one action: {', '.join(ACTIONS)}")
        print(json.dumps(json_schema(ACTIONS[rest[0]]), indent=2))
        return 0
    if action not in ACTIONS:
        known = [*ACTIONS, "schema"]
        hint = suggestion(action, known, f"use one of {', '.join(known)}")
        raise UserError(f"{action!r} is not an action: {hint}")
    if "-h" in rest or "--help" in rest:
        print(_help(action, everything="all" in rest))
        return 0
    parser = _Parser(prog=f"main.py {action}", add_help=False)
    parser.add_argument("-c", "--config")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--dry-run", action="store_true")
    parsed = parser.parse_args(rest)
    values, left_aside = read_keys(action, parsed.config) if parsed.config is not None else ({}, "")
    values |= parse_overrides(parsed.set, ACTIONS[action])
    config = load_config(action, values)
    if parsed.config is not None and launched_as()[0] == 0:
        path = Path(os.path.expanduser(parsed.config))
        if (example := found_config(path)) != path:
            print(f"note: {parsed.config} is the example that isdm brings along, {example}")
    if left_aside and launched_as()[0] == 0:
        print(f"note: {parsed.config}: {left_aside}")
    module = import_module(f"guided_diffusion.actions.{action}")
    if not parsed.dry_run:
        return module.run(config) or 0
    if launched_as()[0] == 0:
        import_module("guided_diffusion.pipelines.dry_run").dry_run(
            config, values.keys(), getattr(module, "plan", None)
        )
    return 0


_OVERVIEW = """isdm {version}: enlarge a scarce segmentation dataset with a semantic diffusion model

usage: main.py <action> [-c config.json] [--set key=value ...] [--dry-run]

actions:
{actions}
  schema    print the JSON Schema of an action's config

main.py <action> --help shows the options most people set, --help all every option."""

_USAGE = """usage: main.py {action} [-c config.json] [--set key=value ...] [--dry-run]

{summary}

  -c, --config FILE    flat JSON file of the keys below, or the config of another action
  --set KEY=VALUE      override one key; the value is JSON, or text; repeatable
  --dry-run            say what would be read and written, and how much; nothing is written"""


def _help(action: str, *, everything: bool) -> str:
    kind = ACTIONS[action]
    lines = [_USAGE.format(action=action, summary=kind.summary)]
    described = describe_options(kind)
    width = max(len(row.key) for rows in described.values() for row in rows) + 2
    if everything or not kind.common:
        for title, rows in described.items():
            lines += ["", f"{title or action}:", *_rows(rows, width)]
        return "\n".join(lines)
    lines += ["", "keys that most people set, with their defaults:", *_rows(describe_common(kind), width)]
    lines += ["", f"all {len(kind.fields())} keys: main.py {action} --help all"]
    return "\n".join(lines)


def _rows(rows: Sequence[KeyHelp], width: int) -> list[str]:
    """Return the lines of a table of keys, wrapped to the terminal."""
    wrapper = textwrap.TextWrapper(
        max(60, shutil.get_terminal_size().columns),
        subsequent_indent=" " * (width + 2),
        break_on_hyphens=False,  # multi-class in one piece
    )
    lines = []
    for key, default, meaning in rows:
        wrapper.initial_indent = f"  {key:<{width}}"
        lines += wrapper.wrap(f"{meaning} [{default}]")
    return lines
