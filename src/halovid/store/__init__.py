"""Files on disk (tables, checkpoints, videos, stage folders), the machine (devices, threads, progress), and errors."""
