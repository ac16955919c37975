"""Output that cannot be written, Ctrl-C, pipes and devices as files, permissions of what is written."""

import os
import pty
import signal
import stat
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from costsim.cli import main
from costsim.errors import InputError
from costsim.inputs import files

COSTSIM = f"{sys.executable} -m costsim"


def shell(command, cwd=None):
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False, cwd=cwd)


@pytest.mark.parametrize("command", ["run translation-small", "list policies", "--help", "show dsq"])
def test_a_full_disk_is_one_line_and_not_the_code_of_a_failed_check(command):
    done = shell(f"{COSTSIM} {command} > /dev/full")
    assert (done.returncode, done.stderr) == (2, "costsim: standard output: No space left on device\n")


def test_a_closed_stdout_is_one_line():
    done = shell(f"{COSTSIM} run translation-small >&-")
    assert (done.returncode, done.stderr) == (2, "costsim: standard output: Bad file descriptor\n")


def test_a_closed_stderr_does_not_matter(tmp_path):
    done = shell(f"{COSTSIM} report translation-small --out f.html 2>&-", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "f.html").stat().st_size > 1000


def test_a_reader_that_has_enough_is_no_error():
    done = shell(f"set -o pipefail; {COSTSIM} run translation-small --by op --format csv | head -n 1")
    assert done.stderr == ""
    assert done.stdout.startswith("policy,")
    assert done.returncode in (0, 128 + signal.SIGPIPE)


def test_ctrl_c_is_130(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("costsim.run.job.prepare", interrupted)
    result = CliRunner().invoke(main, ["run", "translation-small"])
    assert result.exit_code == 130
    assert result.stdout == ""


# --- writing ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield 0o666 & ~0o027
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_new_files_have_what_the_umask_leaves(tmp_path, umask):
    assert mode(files.write(tmp_path / "new", b"x")) == umask == 0o640


@pytest.mark.parametrize("kept", [0o600, 0o444, 0o755])
def test_existing_files_keep_their_permissions(tmp_path, umask, kept):
    path = tmp_path / "old"
    path.write_bytes(b"old")
    path.chmod(kept)
    files.write(path, b"new")
    assert (path.read_bytes(), mode(path)) == (b"new", kept)
    assert os.listdir(tmp_path) == ["old"]


def test_links_are_followed(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("file")
    files.write(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_device_is_written_to_and_not_replaced(tmp_path):
    (tmp_path / "null").symlink_to("/dev/null")
    files.write(tmp_path / "null", b"gone")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(InputError, match="No space left"):
        files.write(Path("/dev/full"), b"x")


# --- reading ----------------------------------------------------------------------------------------------------------


def test_what_comes_through_a_pipe_is_read(tmp_path):
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text("a: 1\n"))
    writer.start()
    try:
        while True:
            try:
                assert files.read_text(pipe) == "a: 1\n"
                break
            except InputError:  # the writer has not opened it yet
                continue
    finally:
        writer.join()


def test_process_substitution():
    done = shell(f"{COSTSIM} run <({COSTSIM} show translation-small)")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("path", "message"), [("/dev/zero", "a device"), ("/dev/null", "a device")])
def test_devices_are_no_files(path, message):
    with pytest.raises(InputError, match=message):
        files.read_text(Path(path))


def test_a_pipe_into_which_nobody_writes_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="a pipe through which nothing comes"):
        files.read_text(tmp_path / "pipe")


# --- long commands ----------------------------------------------------------------------------------------------------


def in_terminal(seconds, *arguments):
    """What a terminal shows of a command, with another number of seconds after which it says that it works."""
    code = f"import sys; from costsim.cli import output, main; output._SECONDS = {seconds}; main({list(arguments)!r})"
    leader, follower = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", code], stdout=follower, stderr=follower, stdin=follower)
    os.close(follower)
    shown = b""
    with suppress(OSError):  # the end, on Linux
        while part := os.read(leader, 4096):
            shown += part
    os.close(leader)
    assert process.wait() == 0
    return shown.decode()


def test_a_terminal_is_told_of_work_until_there_is_something_to_show():
    shown = in_terminal(0.0, "run", "translation-small", "--policy", "fp32")
    before, note, after = shown.partition("costsim: working ...")
    assert (before, note) == ("", "costsim: working ...")
    assert after.startswith("\r\x1b[K")
    assert "working" not in after
    assert "policy" in after


def test_what_is_quick_says_nothing_of_work():
    assert "working" not in in_terminal(60, "run", "translation-small", "--policy", "fp32")
    done = shell(f"{COSTSIM} run translation-small --policy fp32")  # no terminal
    assert done.stderr == ""
