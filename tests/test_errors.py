"""The messages of errors, as Python and the command line show them."""

import pickle

import pytest

from tadp.errors import Argument, CaptionError, MissingExtraError, OptionError, OutputError, TADPError, UnknownIdError

PARTS = ("the text is too long. Pass ", Argument("truncate", True), ", or another ", Argument("model"), ".")


@pytest.mark.parametrize("kind", [CaptionError, MissingExtraError, OptionError, OutputError, UnknownIdError])
def test_a_message_names_arguments_as_python_does_or_as_its_reader_wants(kind):
    for error in (kind(*PARTS), pickle.loads(pickle.dumps(kind(*PARTS)))):
        assert isinstance(error, TADPError)
        assert str(error) == "the text is too long. Pass truncate=True, or another model."
        assert error.option == "truncate"
        assert error.spelled(lambda argument: argument.name.upper()).endswith("Pass TRUNCATE, or another MODEL.")
        assert str(CaptionError("photo: ", *error.args)) == f"photo: {error}"


def test_a_plain_message_names_no_argument():
    error = OutputError("no room on the disk")
    assert (str(error), error.option) == ("no room on the disk", None)


@pytest.mark.parametrize(
    ("argument", "spelled"),
    [(Argument("variant", "fp16"), "variant='fp16'"), (Argument("token", ...), "token=…"), (Argument("mix"), "mix")],
)
def test_a_value_is_told_as_it_is_written(argument, spelled):
    assert str(argument) == spelled


def test_control_characters_of_a_file_name_do_not_reach_the_terminal():
    name = "a\x1b]0;title\x07\r\x9b31m\u202egnp.\u2066\ufeff\x00 b\tc\nd é 猫"
    shown = r"a\x1b]0;title\x07\r\x9b31m\u202egnp.\u2066\ufeff\x00 b" + "\tc\nd é 猫"
    assert str(OutputError(f"{name} cannot be written")) == f"{shown} cannot be written"
    assert str(OptionError(Argument("model", ...), f" {name}")) == f"model=… {shown}"
