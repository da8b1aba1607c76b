"""What is measured of clips, and how raters agree."""
