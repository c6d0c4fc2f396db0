"""Gradio components of our own."""
