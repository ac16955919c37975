"""The command `costsim`: its commands by name, each loaded when it is run. Imports nothing heavy before that."""

import errno
import gc
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from io import StringIO, TextIOWrapper
from typing import Any, NamedTuple

import click

# The width is fixed because click would import shutil, a twentieth of the time of --help, to ask the terminal.
_SETTINGS = {"help_option_names": ["-h", "--help"], "terminal_width": 80}


class Place(NamedTuple):
    """Where a command is, and how `costsim --help` sums it up: its docstring's first words, as a test checks."""

    module: str
    function: str
    short_help: str


_COMPLETING = "_COSTSIM_COMPLETE"  # set where a shell asks what completes a line

COMMANDS: Mapping[str, Place] = {
    "calibrate": Place("calibrate", "calibrate", "Measure this machine and write it as a hardware profile:..."),
    "explain": Place("explain", "explain", "Explain every number of an op of WORKLOAD: formula, values,..."),
    "import": Place("import_", "import_", "Turn CONFIG, a Hugging Face config.json, into a workload file."),
    "list": Place("shipped", "list_", "List what costsim knows, a line each, the name first."),
    "memory": Place("memory", "memory", "Show what fills the memory at the peak of WORKLOAD's training..."),
    "new": Place("new", "new", "Write a file to start from, which runs as it is, with every..."),
    "plot": Place("plot", "plot", "Draw WORKLOAD's results, or write a step as a trace."),
    "recipes": Place("recipes", "recipes", "Show what the sources of recipes state, beside what is counted..."),
    "reconcile": Place("reconcile", "reconcile", "Find which assumptions of WORKLOAD give its published figures."),
    "report": Place("report", "report", "Write WORKLOAD's results as one page: summary, tables that..."),
    "run": Place("run", "run", "Count WORKLOAD under its policies: a path, or a shipped name."),
    "search": Place("search", "search", "Find the best bits for groups of WORKLOAD's tensors."),
    "schema": Place("shipped", "schema", "Print the JSON schema of a file, for editors and checks."),
    "show": Place("shipped", "show", "Print a shipped workload, policy or hardware profile with its..."),
    "split": Place("split", "split", "Find how to split a step of WORKLOAD over many devices."),
    "trace": Place("trace", "trace", "Trace SPEC, a PyTorch module, forward and backward, into a file."),
    "validate": Place("validate", "validate", "Run WORKLOAD, shrunk, in NumPy with real quantizers, and..."),
}


class _Group(click.Group):
    """Loads commands when they are run, and turns an InputError into one line on stderr and exit code 2."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        place = COMMANDS[cmd_name]
        loaded: click.Command = getattr(import_module(f"costsim.cli.{place.module}"), place.function)
        if _COMPLETING not in os.environ:
            return loaded
        from costsim.cli import completion

        return completion.attach(loaded)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name].short_help) for name in self.list_commands(ctx)])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.obj = tuple(args)  # the command line, which pages say
        return super().parse_args(ctx, args)

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> Any:
        """Run a command and exit: 0, 1 for a check that failed, 2 for what could not be done, 130 for Ctrl-C."""
        if not extra.get("standalone_mode", True):  # from Python
            return super().main(args, prog_name, **extra)
        _open_streams()
        if _COMPLETING in os.environ:
            import_module("costsim.cli.completion")  # which tells click of our Bash
        try:
            code = super().main(args, prog_name, **{**extra, "standalone_mode": False})
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except click.Abort:  # Ctrl-C
            code = 128 + signal.SIGINT
        except OSError as error:  # of standard output: files that cannot be read or written are InputErrors
            _forget_stdout()
            click.echo(f"costsim: standard output: {error.strerror or error}", err=True)
            code = 2
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        from costsim.cli.output import waiting
        from costsim.errors import InputError

        waiting.begin()
        try:
            return super().invoke(ctx)
        except InputError as error:
            waiting.end()
            for line in str(error).split("\n"):
                click.echo(f"costsim: {line}", err=True)
            ctx.exit(2)
        except BrokenPipeError:  # whoever reads has enough
            _forget_stdout()
            ctx.exit(128 + signal.SIGPIPE)
        finally:
            waiting.end()


class _Closed(StringIO):
    """Standard output where the shell has closed it."""

    def write(self, _: str) -> int:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def _open_streams() -> None:
    """Stand-ins for streams that are closed, so that asking them anything is no error; writing to stdout is one."""
    if sys.stdout is None:
        sys.stdout = _Closed()
    if sys.stderr is None:
        sys.stderr = StringIO()


def _forget_stdout() -> None:
    """Have Python write nothing to standard output when it ends: it would fail again."""
    sys.stdout = StringIO()


def _version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        click.echo(f"costsim {import_module('costsim').__version__}")
        ctx.exit()


@click.group(cls=_Group, commands={name: click.Command(name) for name in COMMANDS}, context_settings=_SETTINGS)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
@click.pass_context
def main(context: click.Context) -> None:
    """Exact arithmetic and DRAM traffic of training quantized Transformers.

    \b
    costsim run iwslt17-dsq.yaml
    """
    for stream in (sys.stdout, sys.stderr):  # a name that the encoding lacks is printed escaped, not as a traceback
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")  # looking for plugins takes as long as starting Python
    gc.disable()  # a short process that makes few cycles: looking for them is a fifth of its time
    context.call_on_close(_stop_collecting)


def _stop_collecting() -> None:
    gc.freeze()  # nor at exit
    gc.enable()
