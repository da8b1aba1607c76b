"""How vision-language models are shown a clip: the text that stands for it, and the pixels. One file a family."""
