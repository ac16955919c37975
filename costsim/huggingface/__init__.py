"""Workloads from Hugging Face configs."""
