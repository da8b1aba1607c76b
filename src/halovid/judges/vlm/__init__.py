"""The judge that asks vision-language models through OpenAI-compatible endpoints."""
