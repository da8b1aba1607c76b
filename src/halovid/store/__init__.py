"""What is on the disk and what the machine is: files, tables, checkpoints, videos, stage folders, devices, errors."""
