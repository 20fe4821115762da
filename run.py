"""Run one experiment, or sweep with -m: python run.py strategy=partial seed=0.  See --help for what can be set."""

from frostline.app.launch import main

if __name__ == "__main__":
    main()
