"""`python -m tune_newllm`."""

from tune_newllm.cli.main import main

if __name__ == "__main__":
    main()
