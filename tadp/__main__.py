"""`python -m tadp`, which is `tadp`."""

from tadp.cli import app

if __name__ == "__main__":
    app(prog_name="tadp")
