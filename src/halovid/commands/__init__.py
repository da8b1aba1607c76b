"""What commands besides the stages do with runs and folders of clips."""
