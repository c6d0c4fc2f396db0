"""Trains the families: photos in memory, one loop, a recipe for each way of learning."""
