"""What stages share on disk: folders, tables, clips, videos, prompts."""
