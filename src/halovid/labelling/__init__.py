"""Labels from people: what they see, who labels what, where it is kept, and how it comes out as tables."""
