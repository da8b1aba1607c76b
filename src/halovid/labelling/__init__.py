"""Labels from people: the page, who labels which clip, the database of answers, and their export as tables."""
