"""`python -m deepnmf_cli`: run the program where its script is not on the path."""

from deepnmf_cli.main import run

if __name__ == "__main__":
    run()
