"""How vision-language models are shown a clip: the text that stands for its frames, and the pixels. One file a family."""
