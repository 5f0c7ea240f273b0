"""The table of commands, their help, overrides and exit codes."""

import dataclasses
import shlex
from pathlib import Path

import pytest

from jaxft import cli, commands
from jaxft.commands.arguments import preprocessing_of
from jaxft.config import PreprocessingConfig
from jaxft.core.errors import UserError
from jaxft.recipes.finetune.options import FinetuneOptions


def test_commands_lists_every_file_of_a_command():
    files = {path.stem for path in Path(commands.__file__).parent.glob("*.py")}
    assert {name for name in files if hasattr(cli.load_command(name), "add_arguments")} == set(commands.COMMANDS)


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_the_help_of_a_command_contains_its_help_line(name, capsys):
    with pytest.raises(SystemExit):
        cli.main([name, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert cli.load_command(name).HELP in text
    assert ("--config.FIELD=VALUE" in text) == ("--config FILE.py" in text)


def test_only_commands_that_resume_advise_it_when_interrupted(monkeypatch, capsys):
    def interrupt(*args):
        raise KeyboardInterrupt

    for name, words in (("report", ["workdir"]), ("study", ["--config", "x.py"])):
        monkeypatch.setattr(f"jaxft.commands.{name}.run", interrupt)
        assert cli.main([name, *words]) == 130
        assert ("the same command resumes it" in capsys.readouterr().err) == (name == "study")


def test_the_command_line_of_options_parses_to_the_same_options():
    given = PreprocessingConfig((-0.5, 0.25, 1e-7), (0.5, 0.25, 1.0), None, "-1..1", "bgr")
    options = FinetuneOptions("some.pth", "my pictures", "out", "resnet18", 2, "top", 64, "model_ema", given)
    program, *words = shlex.split(options.command())
    args, _ = cli.parse(words)
    assert program == "jaxft" and args.command == "finetune"
    names = vars(options).keys() - {"preprocessing"}
    assert {name: getattr(args, name) for name in names} == {name: getattr(options, name) for name in names}
    assert dataclasses.replace(preprocessing_of(args), size_px=None) == given
    assert "--model" not in FinetuneOptions("a", "b", "c").command()


@pytest.mark.parametrize("wrong", [{"seeds": 0}, {"train": "some"}, {"size_px": 0}])
def test_options_out_of_bounds_are_refused(wrong):
    with pytest.raises(UserError, match=f"--{next(iter(wrong)).replace('_', '-')} is"):
        FinetuneOptions("a", "b", "c", **wrong)


def test_an_unexpected_error_is_one_short_line(monkeypatch, capsys):
    def fail(*args):
        raise RuntimeError("x" * 1000 + "\nsecond line")

    monkeypatch.setattr("jaxft.commands.report.run", fail)
    assert cli.main(["report", "workdir"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("jaxft: failed: RuntimeError: xxx") and len(line) < 400
