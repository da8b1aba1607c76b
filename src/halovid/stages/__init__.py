"""The stages of a run, one verb per file; each exposes `run(config, run_dir)` and imports no other stage."""
