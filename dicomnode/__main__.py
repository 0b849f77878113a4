"""``python -m dicomnode`` is ``medai-node``."""

from dicomnode.cli import main

if __name__ == "__main__":
    main()
