"""The command line as a shell sees it: what is printed where, exit codes, settings and their order."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from datadistill import cli
from datadistill.cli import settings
from datadistill.cli.commands import cli as group
from datadistill.cli.main import run
from datadistill.errors import Interrupted, UsageError


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATADISTILL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def shell(capsys):
    """Run a command line in this process; (exit code, standard output, standard error)."""

    def call(*argv):
        code = run([str(a) for a in argv])
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


DISTIL = ("distill", "digits", "--method", "random", "--ipc", "2", "--out", "set")


def test_distill_verify_report_export_inspect(shell):
    code, out, _ = shell(*DISTIL, "--json")
    told = json.loads(out)
    assert code == 0 and told["budget"]["items"] == 20 and told["contains_originals"]
    assert shell("verify", "set")[0] == 0
    assert json.loads(shell("verify", "set", "--json")[1]) == {"ok": True, "problems": []}
    assert "set/report.html" in shell("report", "set")[1]
    assert json.loads(shell("report", "set", "--json")[1]) == {"page": "set/report.html"}
    assert json.loads(shell("export", "set", "--to", "npz", "--out", "set.npz", "--dry-run", "--json")[1])["dry_run"] and not Path("set.npz").exists()
    assert json.loads(shell("export", "set", "--to", "npz", "--out", "set.npz", "--json")[1])["items"] == 20
    assert np.load("set.npz", allow_pickle=False)["x_train"].shape == (20, 8, 8)
    assert json.loads(shell("inspect", "set.npz", "--json", "-q")[1])["modality"] == json.loads(Path("set/manifest.json").read_text())["spec"]["modality"]


def test_only_results_on_standard_output(shell):
    _, out, err = shell(*DISTIL, "--json")
    assert out.count("\n") == 1 and json.loads(out)
    assert "digits" in err
    _, out, err = shell(*DISTIL, "--json", "--quiet", "--resume", "never")
    assert json.loads(out) and err == ""


def test_off_a_terminal_nothing_spins_or_colours():
    done = subprocess.run([sys.executable, "-m", "datadistill", *DISTIL], capture_output=True, check=True)
    assert b"\x1b" not in done.stdout + done.stderr and b"\r" not in done.stdout + done.stderr


def test_dry_run_writes_nothing(shell, tmp_path):
    code, out, _ = shell(*DISTIL, "--dry-run")
    assert code == 0 and "20 items" in out and not Path("set").exists()
    assert not [p for p in tmp_path.iterdir() if p.name != "cache"]


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (("distill", "digits"), 2, "--out"),
        (("distill", "--out", "x"), 2, "SOURCE"),
        (("distill", "digits", "--out", "x", "--method", "no-such"), 2, "one of random"),
        (("distill", "digits", "--out", "x", "--ipc", "many"), 2, "cat=3,dog=10"),
        (("distill", "digits", "--out", "x", "--ipc", "0"), 2, "positive"),
        (("distill", "digits", "--out", "x", "--size", "9"), 2, "--size 10"),
        (("distill", "digits", "--out", "x", "--bytes", "5 stones"), 2, "MB"),
        (("distill", "digits", "--out", "x", "--ipc", "3", "--ratio", "0.1"), 2, "one of ipc"),
        (("distill", "digits", "--out", "x", "--ipc", "0=1"), 2, "class"),
        (("distill", "digits", "--out", "x", "--method", "herding", "--set", "lr=1"), 2, "no hyper-parameter 'lr'"),
        (("distill", "digits", "--out", "x", "--method", "herding", "--set", "width=wide"), 2, "int"),
        (("distill", "digits", "--out", "x", "--set", "lr"), 2, "name=value"),
        (("distill", "digits", "--out", "x", "--device", "abacus"), 2, "cpu"),
        (("distill", "nowhere", "--out", "x"), 4, "does not exist"),
        (("verify", "nowhere"), 4, "nowhere"),
        (("evaluate", "nowhere", "--data", "digits"), 4, "nowhere"),
        (("distill", "digits", "--out", "x", "--from", "nowhere.lock"), 4, "recipe.lock"),
        (("no-such-command",), 2, "No such command"),
        (("--recipe", "nowhere.toml", "doctor"), 2, "nowhere.toml"),
    ],
)
def test_user_errors_are_one_message_and_a_code(shell, argv, code, says):
    got, out, err = shell(*argv)
    assert got == code and says in err and out == ""
    assert "Traceback" not in err
    assert not Path("x").exists()


def test_a_bug_is_exit_1(shell, monkeypatch):
    def broken(*_, **__):
        raise KeyError("ours")

    monkeypatch.setattr("datadistill.synthetic.artifact.verify", broken)
    code, _, err = shell("verify", "set")
    assert code == 1 and "bug of datadistill" in err


def test_a_signal_while_a_class_is_made_is_no_bug(shell, monkeypatch):
    """What a handler raises in a class body is wrapped by Python 3.11, and the first step of a run imports modules full of classes."""

    class Descriptor:
        def __set_name__(self, owner, name):
            raise Interrupted(2, "interrupted")

    monkeypatch.setattr("datadistill.synthetic.artifact.verify", lambda *_, **__: type("Made", (), {"field": Descriptor()}))
    code, _, err = shell("verify", "set")
    assert code == 130 and "error: interrupted" in err and "Traceback" not in err


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), OSError(28, "No space left on device", "x")])
def test_memory_and_disk_are_exit_5(shell, monkeypatch, error):
    def full(*_, **__):
        raise error

    monkeypatch.setattr("datadistill.api.run_job", full)
    code, _, err = shell(*DISTIL)
    assert code == 5 and "Fix:" in err and "Traceback" not in err


def test_flags_over_environment_over_recipe(shell, monkeypatch):
    Path("recipe.toml").write_text('ipc = 1\nmethod = "random"\nseed = 3\n[distill]\nseed = 4\n')

    def items(*argv):
        code, out, err = shell("distill", "digits", "--out", "set", "--dry-run", "--json", *argv)
        assert code == 0, err
        told = json.loads(out)
        return told["budget"]["items"], told["seed"]

    assert items() == (10, 4)
    monkeypatch.setenv("DATADISTILL_IPC", "2")
    assert items() == (20, 4)
    assert items("--ipc", "3", "--seed", "5") == (30, 5)


def test_a_recipe_with_hyper_parameters(shell):
    Path("mine.toml").write_text('method = "herding"\n[set]\nsteps = 2\nembedding = "input"\n')
    code, _, err = shell("--recipe", "mine.toml", "distill", "digits", "--ipc", "1", "--out", "set")
    assert code == 0, err
    kept = json.loads(Path("set/manifest.json").read_text())["method"]["hyperparameters"]
    assert (kept["steps"], kept["embedding"]) == (2, "input")


@pytest.mark.parametrize("text", ["nonsense = 1", "[distill]\nnonsense = 1", "not toml at all ["])
def test_a_recipe_that_nobody_understands(shell, text):
    Path("recipe.toml").write_text(text)
    code, _, err = shell("doctor")
    assert code == 2 and "recipe.toml" in err


def test_from_recipe_lock_repeats_the_bytes(shell):
    first = json.loads(shell("distill", "digits", "--method", "herding", "--set", "steps=3", "--ipc", "2", "--seed", "7", "--out", "a", "--json")[1])
    again = json.loads(shell("distill", "--from", "a/recipe.lock", "--out", "b", "--json")[1])
    assert again["sha256"] == first["sha256"] and Path("a/samples.safetensors").read_bytes() == Path("b/samples.safetensors").read_bytes()
    other = json.loads(shell("distill", "digits", "--method", "random", "--ipc", "2", "--seed", "8", "--out", "c", "--json")[1])
    assert other["sha256"] != first["sha256"]
    code, _, err = shell("distill", "--from", "a/recipe.lock", "--seed", "9", "--out", "d")
    assert code == 2 and "seed" in err


def test_the_lock_names_the_data(shell):
    x = np.random.default_rng(0).integers(0, 255, (40, 8, 8), np.uint8)
    y = np.arange(40) % 2
    np.savez("data.npz", x_train=x, y_train=y)
    assert shell("distill", "data.npz", "--method", "random", "--ipc", "2", "--out", "a")[0] == 0
    np.savez("data.npz", x_train=x + 1, y_train=y)
    code, _, err = shell("distill", "--from", "a/recipe.lock", "--out", "b")
    assert code == 4 and "fingerprint" in err


def test_evaluate_speaks_the_schema(shell):
    assert shell(*DISTIL)[0] == 0
    code, out, err = shell("evaluate", "set", "--data", "digits", "--protocol", "tiny", "--json", "-q")
    assert code == 0, err
    told = json.loads(out)
    assert told["verdict"] in ("PASS", "USE-CORESET", "FAIL")
    assert set(told["protocol"]) >= {"name", "hash"} and set(told["budget"]) == {"items", "bytes"}
    assert set(told["arms"]) == {"distilled", "random", "coreset", "full", "full_equal_steps"}
    for arm in told["arms"].values():
        accuracy = arm["accuracy"]
        assert len(accuracy["runs"]) >= 5 and accuracy["ci95"][0] <= accuracy["mean"] <= accuracy["ci95"][1]
        assert all(0 <= r <= 1 for r in accuracy["runs"]) and len(arm["students"]) >= 2
        assert set(arm["recall"]) == set(map(str, range(10)))
    assert told["arms"]["coreset"]["method"] in told["arms"]["coreset"]["candidates"]
    assert told["arms"]["random"]["bytes"] == told["budget"]["bytes"]
    assert set(told["cost"]) >= {"distill", "student", "break_even_trainings"}
    assert set(told["test_reads"].values()) == {1}
    assert json.loads(Path("set/evaluation.json").read_text())["verdict"] == told["verdict"] and shell("verify", "set")[0] == 0
    assert told["verdict"] in Path("set/report.html").read_text()
    code, _, _ = shell("evaluate", "set", "--data", "digits", "--protocol", "tiny", "--require-pass", "-q")
    assert code == (0 if told["verdict"] == "PASS" else 3)


@pytest.fixture(autouse=True)
def tiny_protocol(monkeypatch):
    from datadistill.evaluate import PROTOCOLS, Protocol

    monkeypatch.setitem(PROTOCOLS, "tiny", Protocol("tiny", steps=2, full_steps=2, lrs=(0.05,), sizes={"convnet": {"width": 4}, "resnet": {"width": 4, "blocks": (1,)}}))


def test_methods_and_doctor_as_json(shell):
    rows = json.loads(shell("methods", "--json")[1])
    assert {"name", "family", "paper", "modalities", "scales_over"} <= set(rows[0]) and {"random", "dm", "herding"} <= {r["name"] for r in rows}
    assert "torch" in json.loads(shell("doctor", "--json")[1])


@pytest.mark.parametrize("shell_name", ["bash", "zsh", "fish"])
def test_completion_scripts(shell, shell_name):
    code, out, _ = shell("completion", shell_name)
    assert code == 0 and "_DATADISTILL_COMPLETE" in out


def test_help_needs_no_torch():
    code = "import sys\nfrom datadistill.cli.main import run\nassert run(['--help']) == 0 and run(['distill', '--help']) == 0\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_every_command_explains_itself():
    for name, command in group.commands.items():
        assert command.help, name
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert parameter.help, (name, parameter.name)


@pytest.mark.parametrize(("text", "n"), [("5MB", 5_000_000), ("300 kB", 300_000), ("2MiB", 2 * 2**20), ("17", 17), ("1.5kb", 1500)])
def test_bytes(text, n):
    assert settings.parse_bytes(text) == n


@pytest.mark.parametrize("text", ["MB", "-", "1e999MB", "5 parsecs"])
def test_bytes_that_are_none(text):
    with pytest.raises(UsageError):
        settings.parse_bytes(text)


def test_ipc_by_name_keeps_odd_names():
    assert settings.parse_ipc("a=b=3,c d=4") == {"a=b": 3, "c d": 4}


@pytest.mark.parametrize(("command", "name"), [("distill", "--val"), ("distill", "--ratio"), ("experts", "--lr"), ("teacher", "--ema"), ("plan", "--seconds")])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_numbers_are_finite(shell, command, name, value):
    code, _, err = shell(command, "digits", f"{name}={value}", *(["--out", "set"] if command in ("distill", "teacher") else []))
    assert code == 2 and name in err and value in err and "Traceback" not in err and not Path("set").exists()


def test_hostile_names_reach_no_terminal(shell, tmp_path):
    from PIL import Image

    draw = np.random.default_rng(0)
    for name in ("\x1b[31mred", "<img src=x onerror=alert(1)>", "caf\udce9", "‮evil"):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for k in range(6):
            Image.fromarray(draw.integers(0, 255, (8, 8, 3), np.uint8)).save(folder / f"{k}.png")
    for argv in (("inspect", "photos"), ("distill", "photos", "--method", "random", "--ipc", "1", "--out", "set"), ("export", "set", "--to", "imagefolder", "--out", "pictures"), ("export", "set", "--to", "csv", "--out", "s.csv"), ("verify", "set")):
        code, out, err = shell(*argv)
        assert code == 0, err
        assert "\x1b" not in out + err and "‮" not in out + err
        (out + err).encode()  # no lone surrogates either
    page = Path("set/report.html").read_text()
    assert "<img src=x" not in page and "\x1b" not in page
    assert "<img src=x" not in Path("set/README.md").read_text()


def test_the_entry_point_is_this():
    assert cli.main.__module__ == "datadistill.cli.main"


def test_too_many_broken_files_are_listed(shell, tmp_path):
    from PIL import Image

    for name in ("ant", "bee"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for k in range(10):
            Image.new("L", (8, 8), 10 * k).save(tmp_path / "photos" / name / f"{k}.png")
    (tmp_path / "photos" / "ant" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    code, _, err = shell("distill", "photos", "--method", "random", "--ipc", "1", "--out", "set")
    assert code == 4 and "set.rejects.csv" in err and not Path("set").exists()
    assert "3.png" in Path("set.rejects.csv").read_text()
